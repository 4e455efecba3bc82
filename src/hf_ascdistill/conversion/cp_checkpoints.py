"""CP-Mobile and CP-ResNet as the paper's authors publish them: names of their tensors, sizes and front-ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..models import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
)
from .architecture import ConversionSettings, Tensors
from .tensors import require_dimensions

CLASSIFIER = "feed_forward.0.weight"
CP_MOBILE_STAGES = (1, 1, 1, 2, 2, 3)  # stage of each block in the authors' names
CP_RESNET_BLOCKS = ("stage1.block1", "stage1.block2", "stage2.block1", "stage3.block1")
RESPONSE_NORM = {"weight": "gamma", "bias": "beta"}
PASST_ONLY = ("num_attention_heads", "hop_length", "fmax", "patch_stride")


@dataclass(frozen=True)
class CpArchitecture:
    """A convolutional network of the authors; see [`Architecture`].

    Args:
        name (`str`): its name, which is also the preset of its front-end.
        mark (`str`): a tensor that only this network has; its first size is `base_channels`.
        config_class (`type`): our configuration.
        model_class (`type`): our network.
        modules (`Mapping[str, str]`): the authors' name of each of our modules.
    """

    name: str
    mark: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    modules: Mapping[str, str]
    class_layers: tuple[str, ...] = ("classifier",)

    def tensor_name(self, name: str) -> str:
        """Returns the authors' name of one of our tensors."""
        module, _, tensor = name.rpartition(".")
        if module.endswith("response_norm"):
            tensor = RESPONSE_NORM[tensor]
        return f"{self.modules[module]}.{tensor}"

    def infer_fields(self, tensors: Tensors, settings: ConversionSettings) -> dict[str, Any]:
        """Infers the width and the number of classes from the sizes of two tensors; see [`Architecture`]."""
        require_dimensions(tensors, {self.mark: 4, CLASSIFIER: 4})
        return {"base_channels": tensors[self.mark].shape[0], "num_labels": tensors[CLASSIFIER].shape[0]}

    def front_end(self, tensors: Tensors, settings: ConversionSettings) -> AscFeatureExtractor:
        """Returns the one front-end of this architecture; see [`Architecture`]."""
        given = [name for name in PASST_ONLY if getattr(settings, name) is not None]
        if given:
            raise ValueError(f"this is a {self.name}, {', '.join(given)} belong(s) to PaSST alone; leave it out.")
        return AscFeatureExtractor.from_preset(self.name)


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
    CpArchitecture(
        "cp-mobile", "in_c.1.0.weight", CpMobileConfig, CpMobileForAudioClassification, modules=cp_mobile_modules()
    ),
    CpArchitecture(
        "cp-resnet", "in_c.0.weight", CpResNetConfig, CpResNetForAudioClassification, modules=cp_resnet_modules()
    ),
)

__all__ = ["ARCHITECTURES", "CpArchitecture"]
