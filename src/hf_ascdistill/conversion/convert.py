"""Turns published checkpoints into folders for `from_pretrained`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import check_unused, new_folder
from ..models import AscFeatureExtractor
from . import cp_checkpoints, passt_checkpoints
from .architecture import Architecture, ConversionSettings, Tensors
from .tensors import check_tensors, listed, read_tensors, without_denormals

ARCHITECTURES: tuple[Architecture, ...] = cp_checkpoints.ARCHITECTURES + passt_checkpoints.ARCHITECTURES


def recognise(tensors: Tensors) -> Architecture:
    """Returns the architecture to which the tensors belong.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): a state dict in the authors' names.

    Raises:
        ValueError: they belong to none, or to several.
    """
    found = [architecture for architecture in ARCHITECTURES if architecture.mark in tensors]
    if len(found) != 1:
        expected = " or ".join(f"{architecture.mark} ({architecture.name})" for architecture in ARCHITECTURES)
        raise ValueError(f"expected exactly one of {expected}, found {listed(sorted(tensors))}.")
    return found[0]


def check_all_tensors(architecture: Architecture, tensors: Tensors, config: PreTrainedConfig) -> dict[str, str]:
    """Compares a file's tensors with the network of a configuration.

    Args:
        architecture ([`Architecture`]): to which the tensors belong.
        tensors (`Mapping[str, torch.Tensor]`): a state dict in the authors' names.
        config (`PreTrainedConfig`): with the file's sizes.

    Returns:
        `dict[str, str]`: the authors' name of each of our tensors.

    Raises:
        ValueError: tensors are missing, extra, of another shape, or hold other than finite numbers; all are named.
    """
    with torch.device("meta"):
        expected = architecture.model_class(config).state_dict()
    names = {name: architecture.tensor_name(name) for name in expected}
    check_tensors(tensors, {names[name]: tensor for name, tensor in expected.items()})
    return names


def fill(
    architecture: Architecture, weights: Mapping[str, torch.Tensor], config: PreTrainedConfig, *, seed: int
) -> PreTrainedModel:
    """Builds a network of given weights; what they leave out is initialised under the seed, where they do.

    Args:
        architecture ([`Architecture`]): of the network.
        weights (`Mapping[str, torch.Tensor]`): tensors under our names.
        config (`PreTrainedConfig`): of the network.
        seed (`int`): the same seed gives the same first weights; torch's generator is left as it is.
    """
    with torch.device("meta"):
        model = architecture.model_class(config)
    if weights.keys() != model.state_dict().keys():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = architecture.model_class(config)
    model.load_state_dict(weights, strict=False, assign=True)
    return model.eval()


def load_checkpoint(
    path: str | Path, *, id2label: Mapping[int, str] | None = None, **settings: Any
) -> tuple[PreTrainedModel, AscFeatureExtractor]:
    """Loads a published CP-Mobile, CP-ResNet or PaSST checkpoint, and builds the front-end that it was trained with.

    The architecture, its sizes and the number of classes follow from the tensors. Every tensor must be there.

    Args:
        path (`str | Path`): a Lightning checkpoint or a plain state dict in the authors' names.
        id2label (`Mapping[int, str]`, *optional*): names of the classes; else ten are the scenes of TAU22, and any
            other number is `LABEL_0`, `LABEL_1`, ...
        settings: fields of [`ConversionSettings`]; see [`convert_checkpoint`].

    Returns:
        `tuple[PreTrainedModel, AscFeatureExtractor]`: the network in evaluation mode, and its front-end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, belongs to no known network, its tensors do not fit (they are named) or leave
            open what the settings do not say.
    """
    known = ConversionSettings(**settings)
    tensors = read_tensors(path)
    try:
        architecture = recognise(tensors)
        fields = architecture.infer_fields(tensors, known)
        extractor = architecture.front_end(tensors, known)
        classes = fields["num_labels"]
        num_labels = classes if known.num_labels is None else known.num_labels
        check_class_names(id2label, num_labels, classes=classes)
        config = architecture.config_class(**{**fields, "num_labels": num_labels}, id2label=id2label)
        names = check_all_tensors(architecture, tensors, architecture.config_class(**fields))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors = without_denormals(tensors)
    dropped = () if num_labels == classes else tuple(f"{layer}." for layer in architecture.class_layers)
    weights = {ours: tensors[theirs] for ours, theirs in names.items() if not ours.startswith(dropped)}
    return fill(architecture, weights, config, seed=known.seed), extractor


def check_class_names(id2label: Mapping[int, str] | None, num_labels: int, *, classes: int) -> None:
    """Raises where there are not as many names as classes, or no class; `classes` is the number in the file."""
    if num_labels < 1:
        raise ValueError(f"num_labels is {num_labels}; expected at least one class.")
    if id2label is not None and len(id2label) != num_labels:
        raise ValueError(
            f"num_labels is {num_labels}, but id2label names {len(id2label)} classes. The file has {classes}: to give "
            "it a new classifier, pass num_labels with as many names."
        )


def convert_checkpoint(
    path: str | Path, output_dir: str | Path, *, id2label: Mapping[int, str] | None = None, **settings: Any
) -> PreTrainedModel:
    """Converts a published checkpoint into a folder with model, configuration, code and front-end.

    The front-end is the one that the file was trained with; nothing of it is guessed. A PaSST of AudioSet's 527
    classes evaluates up to 15,000 Hz and one of ten classes up to 15,500 Hz; its hop follows from the time positions.

    A class count other than the file's makes a start for fine-tuning: the classifier is dropped and a new one is
    initialised under the seed, of PaSST all but its normalisation (`head.0`), and the front-end is that of the
    fine-tuning, up to 15,500 Hz at the file's hop (paper, section 3).

    Args:
        path (`str | Path`): a Lightning checkpoint or a plain state dict in the authors' names.
        output_dir (`str | Path`): folder to make; it appears only when all of it is written.
        id2label (`Mapping[int, str]`, *optional*): names of the classes; see [`load_checkpoint`].
        settings: fields of [`ConversionSettings`], as `num_labels=10` or `hop_length=320`.

    Returns:
        `PreTrainedModel`: the network, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: `output_dir` is not empty, or the checkpoint does not fit; see [`load_checkpoint`].
        OSError: `output_dir` cannot be written, as on a full disk; nothing is left of it.

    Example:

    ```python
    >>> from hf_ascdistill import convert_checkpoint

    >>> student = convert_checkpoint("student.ckpt", "models/cpm-student")
    >>> start = convert_checkpoint("passt-s-f128-p16-s10-ap.476-swa.pt", "models/passt-s", num_labels=10)
    ```"""
    check_unused(Path(output_dir))
    model, extractor = load_checkpoint(path, id2label=id2label, **settings)
    with new_folder(Path(output_dir)) as folder:
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    return model


__all__ = ["ARCHITECTURES", "convert_checkpoint", "load_checkpoint"]
