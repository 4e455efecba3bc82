"""Makes a classifier ready for inference: batch normalisations folded into the convolutions before them."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from .complexity import BATCH_NORMS, CONVOLUTIONS
from .models.modeling_cp_mobile import CpMobileBlock

CHANNEL_BLOCK = 16  # float32 numbers in the widest vector registers


def foldable_norms(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Finds the batch normalisations that do nothing but normalise the output of one convolution.

    The order in which modules are registered does not say what feeds what; their names do: in every network of this
    package `norm` normalises the output of its neighbour `conv`, `norm1` that of `conv1`.

    Args:
        model (`nn.Module`): the network.

    Yields:
        `tuple[nn.Module, str, nn.Module]`: the module that holds both, the name of the normalisation in it, and the
        convolution.
    """
    for parent in model.modules():
        for name, norm in parent.named_children():
            conv = getattr(parent, name.replace("norm", "conv", 1), None)
            if isinstance(norm, BATCH_NORMS) and isinstance(conv, CONVOLUTIONS):
                yield parent, name, conv


def folded_tensors(conv: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weight and bias of the convolution that does the work of `norm(conv(x))` in evaluation mode.

    Args:
        conv (`nn.Module`): a convolution.
        norm (`nn.Module`): the batch normalisation of its output.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: computed in float64 and rounded once to the type of the weight, numbers
        too small for it set to 0.

    Raises:
        ValueError: the normalisation has no running statistics.
    """
    if norm.running_var is None:
        raise ValueError(
            "a batch normalisation has no running statistics (track_running_stats=False), so that it depends on the "
            "batch and cannot be folded; train it with them."
        )
    mean, variance, weight = (x.detach().double() for x in (norm.running_mean, norm.running_var, conv.weight))
    gain = torch.rsqrt(variance + norm.eps)
    gain = gain * norm.weight.detach().double() if norm.affine else gain
    bias = -mean if conv.bias is None else conv.bias.detach().double() - mean
    bias = bias * gain + (norm.bias.detach().double() if norm.affine else 0)
    weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
    return _rounded(weight, conv.weight.dtype), _rounded(bias, conv.weight.dtype)


def fuse(model: nn.Module, *, memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """Returns a copy for inference with every batch normalisation folded into its convolution, denormals zeroed.

    The copy is called as the model is and gives the same logits to 1e-5, faster; a PaSST has nothing to fold. It is in
    evaluation mode and can be trained on, as for quantisation, but is not for `save_pretrained`: its tensors are other
    ones than those of its configuration.

    Args:
        model (`nn.Module`): a classifier of this package; it stays as it is.
        memory_format (`torch.memory_format`, *optional*, defaults to `torch.contiguous_format`): layout of the
            weights of 2-D convolutions; `torch.channels_last` is the faster one on a CPU, for batches and single
            clips.

    Returns:
        `nn.Module`: the copy; `complexity.count_parameters(copy)` is what `count_parameters(model, fused=True)` says.

    Raises:
        ValueError: a batch normalisation has no running statistics.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification, fuse

    >>> fast = fuse(CpMobileForAudioClassification(CpMobileConfig()))
    >>> sum(parameter.numel() for parameter in fast.parameters())
    124862
    ```"""
    fused = copy.deepcopy(model).eval()
    for parent, name, conv in list(foldable_norms(fused)):
        weight, bias = folded_tensors(conv, getattr(parent, name))
        conv.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
        conv.bias = nn.Parameter(bias, requires_grad=conv.weight.requires_grad)
        setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.copy_(_rounded(parameter, parameter.dtype))
    return fused.to(memory_format=memory_format)


@torch.no_grad()
def drop_dead_channels(fused: nn.Module, *, multiple_of: int = CHANNEL_BLOCK) -> nn.Module:
    """Returns a copy of a folded network without the hidden channels of CP-Mobile that say the same to every sound.

    Weight decay leaves channels whose depthwise weights are 0. What such a channel passes on is the ReLU of its bias,
    everywhere: the projection's bias takes that up, and the channel's weights go. The logits stay, to rounding.

    Args:
        fused (`nn.Module`): what [`fuse`] returned; a network without such channels, or of another architecture, is
            only copied.
        multiple_of (`int`, *optional*, defaults to 16): as many dead channels stay as make the hidden channels of a
            block a multiple of this, and one at least. Vector units take up to 16 numbers at a time; onnxruntime's
            depthwise convolution of 94 channels takes six times as long as that of 96. 1 drops all, but for one of a
            block that has no others.
    """
    smaller = copy.deepcopy(fused)
    for block in smaller.modules():
        if isinstance(block, CpMobileBlock):
            layers = block.expand.conv, block.depthwise.conv, block.project.conv
            if all(isinstance(conv, nn.Conv2d) and conv.bias is not None for conv in layers):
                _drop_hidden(*layers, multiple_of=multiple_of)
    return smaller


def _drop_hidden(expand: nn.Conv2d, depthwise: nn.Conv2d, project: nn.Conv2d, *, multiple_of: int) -> None:
    is_kept = depthwise.weight.flatten(1).ne(0).any(dim=1)
    alive = int(is_kept.sum())
    to_fill = max(1, -(-alive // multiple_of)) * multiple_of - alive
    is_kept[(~is_kept).nonzero()[:to_fill, 0]] = True
    project.bias += project.weight[:, ~is_kept, 0, 0] @ depthwise.bias[~is_kept].relu()
    project.weight = nn.Parameter(project.weight[:, is_kept])
    for conv in (expand, depthwise):
        conv.weight, conv.bias = nn.Parameter(conv.weight[is_kept]), nn.Parameter(conv.bias[is_kept])
    count = int(is_kept.sum())
    expand.out_channels = depthwise.in_channels = depthwise.out_channels = depthwise.groups = count
    project.in_channels = count


def _rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns the tensor in another type, with 0 where a number is smaller than the type's normal ones."""
    tensor = tensor.to(dtype)
    return torch.where(tensor.abs() < torch.finfo(dtype).tiny, torch.zeros_like(tensor), tensor)


__all__ = ["drop_dead_channels", "foldable_norms", "folded_tensors", "fuse"]
