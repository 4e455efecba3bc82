"""A classifier made ready for inference: folded, and on a CPU by what is fastest there."""

import torch
from torch import nn

from .fusing import drop_dead_channels, fuse
from .memory_format import fastest_memory_format
from .native.classifier import NativeClassifier, can_classify
from .native.kernels import can_use_kernels
from .native.passt import use_fastest_linear


def inference_copy(model: nn.Module, device: str | torch.device = "cpu", *, native_kernels: bool = True) -> nn.Module:
    """Returns a copy of a classifier that gives the same logits to 1e-5, faster.

    Its batch normalisations are folded ([`fuse`]), its dead channels dropped ([`drop_dead_channels`]), its memory
    format is the fastest ([`fastest_memory_format`]); on a CPU a CP-Mobile of up to 1M is one native kernel, and a
    PaSST multiplies by what is fastest there: oneDNN on AMD's processors with AVX-512, tiles on Intel's with AMX, else
    as before.

    Args:
        model (`nn.Module`): a classifier of this package; it stays as it is.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): where the copy works.
        native_kernels (`bool`, *optional*, defaults to `True`): take the kernels, which GCC compiles at the first use,
            and oneDNN; without GCC a message says so, and torch does the kernels' work.

    Returns:
        `nn.Module`: called as the model is, in evaluation mode; later changes of the model do not show in it.

    Raises:
        ValueError: a batch normalisation has no running statistics.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification, inference_copy

    >>> fast = inference_copy(CpMobileForAudioClassification(CpMobileConfig()))
    >>> with torch.inference_mode():
    ...     fast(torch.zeros(1, 256, 64)).logits.shape
    torch.Size([1, 10])
    ```"""
    memory_format = fastest_memory_format(model, device)
    folded = drop_dead_channels(fuse(model, memory_format=memory_format)).to(device)
    if not native_kernels or torch.device(device).type != "cpu":
        return folded
    if can_classify(folded) and can_use_kernels():
        return NativeClassifier(folded)
    return use_fastest_linear(folded, packed=True)


__all__ = ["inference_copy"]
