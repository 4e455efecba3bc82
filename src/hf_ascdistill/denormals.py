"""Weights so small that each multiplication with them makes a CPU slow; weight decay leaves them in dead channels."""

from collections.abc import Iterable

import torch

MAGNITUDE, SMALLEST_NORMAL = 0x7FFFFFFF, 0x00800000  # bits of a float32: all but the sign; those of 2^-126


@torch.no_grad()
def zero_denormals(tensors: Iterable[torch.Tensor]) -> int:
    """Sets denormal numbers to zero, in place. They change no decision, but slow a forward pass several times.

    Their bits are looked at, since to a thread that flushes denormals they compare as zero.

    Args:
        tensors (`Iterable[torch.Tensor]`): those of a state dict; only float32 is looked at.

    Returns:
        `int`: how many there were.
    """
    count = 0
    for tensor in tensors:
        if tensor.dtype == torch.float32:
            magnitude = tensor.view(torch.int32) & MAGNITUDE
            is_denormal = (magnitude > 0) & (magnitude < SMALLEST_NORMAL)
            count += int(is_denormal.sum())
            tensor.masked_fill_(is_denormal, 0)
    return count


__all__ = ["zero_denormals"]
