"""Turns CP-Mobile and CP-ResNet checkpoints of the paper's authors into folders for `from_pretrained`."""

import io
import os
import pickle
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..models import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
)

logger = logging.get_logger(__name__)

LIGHTNING_WEIGHTS = "state_dict"  # where a Lightning file keeps the weights of all its modules
LIGHTNING_PREFIX = "model."  # the network among them
CLASSIFIER = "feed_forward.0.weight"
CP_MOBILE_STAGES = (1, 1, 1, 2, 2, 3)  # stage of each block in the authors' names
CP_RESNET_BLOCKS = ("stage1.block1", "stage1.block2", "stage2.block1", "stage3.block1")
RESPONSE_NORM = {"weight": "gamma", "bias": "beta"}
SHOWN_NAMES = 10
# What torch and its restricted unpickler raise on a damaged file, besides their own error.
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    struct.error,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Architecture:
    """How a network of the authors is recognised and renamed.

    Args:
        name (`str`): its name, which is also the preset of its front-end.
        base_tensor (`str`): a tensor that only this network has; its first size is `base_channels`.
        config_class (`type`): our configuration.
        model_class (`type`): our network.
        modules (`Mapping[str, str]`): the authors' name of each of our modules.
    """

    name: str
    base_tensor: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    modules: Mapping[str, str]

    def tensor_name(self, name: str) -> str:
        """Returns the authors' name of one of our tensors."""
        module, _, tensor = name.rpartition(".")
        if module.endswith("response_norm"):
            tensor = RESPONSE_NORM[tensor]
        return f"{self.modules[module]}.{tensor}"


def conv_norm(ours: str, theirs: str) -> dict[str, str]:
    """Returns the names of a convolution and its normalisation, which the authors number."""
    return {f"{ours}.conv": f"{theirs}.0", f"{ours}.norm": f"{theirs}.1"}


def cp_mobile_modules() -> dict[str, str]:
    """Returns the authors' name of each module of our CP-Mobile."""
    names = conv_norm("cp_mobile.stem.first", "in_c.0") | conv_norm("cp_mobile.stem.second", "in_c.1")
    for index, stage in enumerate(CP_MOBILE_STAGES):
        ours, theirs = f"cp_mobile.blocks.{index}", f"stages.s{stage}.b{index + 1}"
        for position, part in enumerate(("expand", "depthwise", "project")):
            names |= conv_norm(f"{ours}.{part}", f"{theirs}.block.{position}")
        names[f"{ours}.response_norm"] = f"{theirs}.after_block_norm"
    return names | conv_norm("classifier", "feed_forward")


def cp_resnet_modules() -> dict[str, str]:
    """Returns the authors' name of each module of our CP-ResNet."""
    names = conv_norm("cp_resnet.stem", "in_c")
    for index, theirs in enumerate(CP_RESNET_BLOCKS):
        ours = f"cp_resnet.blocks.{index}"
        names |= {f"{ours}.conv{n}": f"{theirs}.conv{n}" for n in (1, 2)}
        names |= {f"{ours}.norm{n}": f"{theirs}.bn{n}" for n in (1, 2)}
        names |= {f"{ours}.shortcut.conv": f"{theirs}.shortcut.conv", f"{ours}.shortcut.norm": f"{theirs}.shortcut.bn"}
    return names | conv_norm("classifier", "feed_forward")


ARCHITECTURES = (
    Architecture(
        "cp-mobile", "in_c.1.0.weight", CpMobileConfig, CpMobileForAudioClassification, modules=cp_mobile_modules()
    ),
    Architecture(
        "cp-resnet", "in_c.0.weight", CpResNetConfig, CpResNetForAudioClassification, modules=cp_resnet_modules()
    ),
)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads the network's tensors of a Lightning checkpoint or a plain state dict; never runs code of the file.

    Args:
        path (`str | Path`): the file.

    Returns:
        `dict[str, torch.Tensor]`: the tensors under the authors' names, without Lightning's prefix.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds more than weights, or is no state dict.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a Lightning checkpoint or a state dict.")
    file = io.BytesIO(Path(path).read_bytes())  # so that an error of the disk is not taken for damage
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is truncated, no torch file, or holds "
            "objects that would run code. Fetch it again from a source that you trust."
        ) from error
    if isinstance(content, Mapping):
        content = content.get(LIGHTNING_WEIGHTS, content)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no weights; expected a Lightning checkpoint or a state dict.")
    strange = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ValueError(f"{path} holds what are no tensors: {listed(strange)}; expected a state dict.")
    tensors = {str(name).removeprefix(LIGHTNING_PREFIX): tensor for name, tensor in content.items()}
    if len(tensors) != len(content):
        raise ValueError(f"{path} holds some tensors both with and without the prefix {LIGHTNING_PREFIX!r}.")
    return tensors


def listed(names: Iterable[str]) -> str:
    """Joins names for a message, the first ten and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + rest


def recognise(tensors: Mapping[str, torch.Tensor]) -> Architecture:
    """Returns the architecture to which the tensors belong.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): a state dict in the authors' names.

    Raises:
        ValueError: they belong to none, or to several.
    """
    found = [architecture for architecture in ARCHITECTURES if architecture.base_tensor in tensors]
    if len(found) != 1:
        expected = " or ".join(f"{architecture.base_tensor} ({architecture.name})" for architecture in ARCHITECTURES)
        raise ValueError(f"expected exactly one of {expected}, found {listed(sorted(tensors))}.")
    return found[0]


def infer_config(
    architecture: Architecture, tensors: Mapping[str, torch.Tensor], *, id2label: Mapping[int, str] | None = None
) -> PreTrainedConfig:
    """Infers a configuration from the sizes of two tensors.

    Args:
        architecture ([`Architecture`]): to which the tensors belong.
        tensors (`Mapping[str, torch.Tensor]`): a state dict in the authors' names.
        id2label (`Mapping[int, str]`, *optional*): names of the classes.

    Raises:
        ValueError: a size is impossible, or the names are not as many as the classes.
    """
    missing = [name for name in (architecture.base_tensor, CLASSIFIER) if name not in tensors]
    if missing:
        raise ValueError(f"missing: {listed(missing)}.")
    flat = [name for name in (architecture.base_tensor, CLASSIFIER) if tensors[name].dim() != 4]
    if flat:
        raise ValueError(f"expected the weights of convolutions (four dimensions): {listed(flat)}.")
    base_channels, num_labels = tensors[architecture.base_tensor].shape[0], tensors[CLASSIFIER].shape[0]
    return architecture.config_class(base_channels=base_channels, num_labels=num_labels, id2label=id2label)


def check_tensors(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compares a state dict with the one that the network expects.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): the file's tensors.
        expected (`Mapping[str, torch.Tensor]`): tensors of the same names, shapes and kinds of numbers.

    Raises:
        ValueError: tensors are missing, extra, of another shape, or hold other than finite numbers; all are named.
    """
    common = [name for name in expected if name in tensors]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in common
        if tensors[name].shape != expected[name].shape
    ]
    is_number = {
        name: tensors[name].is_floating_point() == expected[name].is_floating_point()
        and bool(torch.isfinite(tensors[name]).all())
        for name in common
    }
    faults = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "of another shape": misshapen,
        "not finite numbers of the right kind": [name for name in common if not is_number[name]],
    }
    if any(faults.values()):
        raise ValueError("; ".join(f"{fault}: {listed(names)}" for fault, names in faults.items() if names) + ".")


def without_denormals(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns float32 copies in which numbers below the smallest normal float32 are 0.

    Weight decay leaves them in dead channels. They change no decision, but each makes a CPU slow.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): a state dict; whole numbers stay as they are.
    """
    smallest = torch.finfo(torch.float32).tiny
    copies, count = {}, 0
    for name, tensor in tensors.items():
        copies[name] = tensor.clone(memory_format=torch.contiguous_format)
        if tensor.is_floating_point():
            copies[name] = copies[name].float()
            is_denormal = (copies[name].abs() < smallest) & (copies[name] != 0)
            count += int(is_denormal.sum())
            copies[name][is_denormal] = 0
    logger.info(f"{count:,} denormal numbers set to zero")
    return copies


def load_checkpoint(path: str | Path, *, id2label: Mapping[int, str] | None = None) -> tuple[PreTrainedModel, str]:
    """Loads a CP-Mobile or CP-ResNet checkpoint of the paper's authors.

    The architecture, its width and the number of classes follow from the tensors. Every tensor must be there.

    Args:
        path (`str | Path`): a Lightning checkpoint or a plain state dict in the authors' names.
        id2label (`Mapping[int, str]`, *optional*): names of the classes; else ten are the scenes of TAU22, and any
            other number is `LABEL_0`, `LABEL_1`, ...

    Returns:
        `tuple[PreTrainedModel, str]`: the network in evaluation mode, and the preset of its [`AscFeatureExtractor`].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, belongs to no known network, or its tensors do not fit; they are named.
    """
    tensors = read_tensors(path)
    try:
        architecture = recognise(tensors)
        with torch.device("meta"):
            model = architecture.model_class(infer_config(architecture, tensors, id2label=id2label))
        names = {name: architecture.tensor_name(name) for name in model.state_dict()}
        check_tensors(tensors, {names[name]: tensor for name, tensor in model.state_dict().items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors = without_denormals(tensors)
    model.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, assign=True)
    return model.eval(), architecture.name


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to write into, beside `path`, and renames it to `path` once all is written.

    Args:
        path (`Path`): the folder to make.

    Raises:
        ValueError: it exists and is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists already; name a new or empty folder.")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def convert_checkpoint(
    path: str | Path, output_dir: str | Path, *, id2label: Mapping[int, str] | None = None
) -> PreTrainedModel:
    """Converts a checkpoint of the paper's authors into a folder with model, configuration, code and front-end.

    Args:
        path (`str | Path`): a Lightning checkpoint or a plain state dict in the authors' names.
        output_dir (`str | Path`): folder to make; it appears only when all of it is written.
        id2label (`Mapping[int, str]`, *optional*): names of the classes; see [`load_checkpoint`].

    Returns:
        `PreTrainedModel`: the network, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: `output_dir` is not empty, or the checkpoint does not fit; see [`load_checkpoint`].

    Example:

    ```python
    >>> from hf_ascdistill import convert_checkpoint

    >>> model = convert_checkpoint("student.ckpt", "models/cpm-student")
    ```"""
    with new_folder(Path(output_dir)) as folder:
        model, preset = load_checkpoint(path, id2label=id2label)
        model.save_pretrained(folder)
        AscFeatureExtractor.from_preset(preset).save_pretrained(folder)
    return model


__all__ = ["convert_checkpoint", "load_checkpoint"]
