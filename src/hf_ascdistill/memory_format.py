"""Which memory format a network works fastest in."""

import torch
from torch import nn

from .complexity import CONVOLUTIONS


def fastest_memory_format(model: nn.Module, device: str | torch.device) -> torch.memory_format:
    """Returns channels_last, but not for convolutions in wide groups on an accelerator.

    CP-ResNet has convolutions in two groups. For a group of more than one channel CUDA's libraries lack fast kernels
    in channels_last: torch's compiler keeps such networks contiguous, since it saw two groups take 31 times as long
    (`torch/_inductor/graph.py`). Depthwise convolutions, as of CP-Mobile, gain from it.

    Args:
        model (`nn.Module`): any network.
        device (`str` or `torch.device`): where it will work.
    """
    if torch.device(device).type == "cpu" or not any(map(_has_wide_groups, model.modules())):
        return torch.channels_last
    return torch.contiguous_format


def _has_wide_groups(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups < module.in_channels


__all__ = ["fastest_memory_format"]
