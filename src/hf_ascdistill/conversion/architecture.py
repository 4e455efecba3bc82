"""What the conversion has to know of a family of published networks, and what a user may say about a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..models import AscFeatureExtractor


@dataclass(frozen=True)
class ConversionSettings:
    """What the tensors of a file cannot say, or shall be changed.

    Args:
        num_labels (`int`, *optional*): number of classes; another one than the file's drops its classifier. Ten are
            the scenes of TAU22.
        num_attention_heads (`int`, *optional*): heads of a PaSST; unset: one per 64 of its width.
        hop_length (`int`, *optional*): samples between the frames of a PaSST's front-end at 32 kHz, where several
            published files have the same tensors.
        fmax (`float`, *optional*): upper edge of a PaSST's mel bank in evaluation, Hz, where the classes do not tell.
        patch_stride (`int`, *optional*): distance of neighbouring patches of a PaSST, where the tensors do not tell.
        seed (`int`, *optional*, defaults to 0): of the new classifier's first weights.
    """

    num_labels: int | None = field(
        default=None, metadata={"help": "classes; another number than the file's gives it a new classifier"}
    )
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "heads of a PaSST whose width is no multiple of 64"}
    )
    hop_length: int | None = field(
        default=None, metadata={"help": "STFT hop of a PaSST at 32 kHz, where the tensors leave it open"}
    )
    fmax: float | None = field(
        default=None, metadata={"help": "upper edge of a PaSST's mel bank, Hz, where the classes leave it open"}
    )
    patch_stride: int | None = field(
        default=None, metadata={"help": "patch stride of a PaSST, where the tensors leave it open"}
    )
    seed: int = field(default=0, metadata={"help": "seed of a new classifier"})


Tensors = Mapping[str, torch.Tensor]


class Architecture(Protocol):
    """How a family of published networks is recognised, renamed and paired with its front-end.

    Args:
        name (`str`): what errors call it.
        mark (`str`): a tensor that only these networks have.
        config_class (`type`): our configuration.
        model_class (`type`): our network.
        class_layers (`tuple[str, ...]`): our modules that another class count makes anew.
    """

    name: str
    mark: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    class_layers: tuple[str, ...]

    def tensor_name(self, name: str) -> str:
        """Returns the authors' name of one of our tensors."""

    def infer_fields(self, tensors: Tensors, settings: ConversionSettings) -> dict[str, Any]:
        """Infers fields of the configuration, `num_labels` among them, from the sizes of the authors' tensors.

        Raises:
            ValueError: a size is impossible, or leaves open what the settings do not say.
        """

    def front_end(self, tensors: Tensors, settings: ConversionSettings) -> AscFeatureExtractor:
        """Returns the front-end for which the tensors were trained.

        Raises:
            ValueError: it cannot be told, or the settings contradict the tensors.
        """


__all__ = ["Architecture", "ConversionSettings", "Tensors"]
