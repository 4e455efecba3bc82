"""Linear layers on a CPU by the tiles of Intel's processors (AMX): sums of bfloat16 that are as exact as float32."""

import ctypes
import functools

import torch

from .kernels import call, can_use_kernels, load_kernels, room
from .linear import NativeLinear

SIDE, PARTS, TILES, TILE_ROWS = 32, 3, 2, 16  # of a packed weight, see tile_linear.cpp


class LinearSizes(ctypes.Structure):
    """Sizes of a linear layer."""

    _fields_ = [(name, ctypes.c_int) for name in ("rows", "inputs", "outputs", "has_gelu")]


@functools.cache
def can_use_tiles() -> bool:
    """Returns whether this processor has tiles for bfloat16, Linux lends them, and the kernels can be loaded."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in each torch
    return bool(capabilities.get("amx_bf16")) and can_use_kernels() and bool(load_kernels().ask_for_tiles())


class TileLinear(NativeLinear):
    """[`NativeLinear`] by tiles, of packed weights without a gradient, and as before elsewhere.

    Inputs and outputs are multiples of 32. A weight that changes with each step would have to be packed as often,
    which takes what tiles save.
    """

    def multiply(self, input: torch.Tensor, *, has_gelu: bool) -> torch.Tensor:
        """See [`~NativeLinear.multiply`]."""
        sums = room(*input.shape[:-1], self.out_features)
        rows = input.numel() // self.in_features
        sizes = LinearSizes(rows, self.in_features, self.out_features, has_gelu)
        call("tile_linear", sizes, input.contiguous(), self.packed, self.bias, sums)
        return sums

    def can_multiply(self, input: torch.Tensor) -> bool:
        """See [`~NativeLinear.can_multiply`]."""
        is_usual = super().can_multiply(input) and not torch.is_grad_enabled()
        return is_usual and self.is_packed() and can_use_tiles()  # a process that has not asked may not touch them

    def pack_weight(self) -> torch.Tensor:
        """See [`~NativeLinear.pack_weight`]: bfloat16, `(outputs / 32, inputs / 32, parts, 2, 16, 32)`."""
        steps = self.out_features // SIDE, self.in_features // SIDE
        packed = room(*steps, PARTS, TILES, TILE_ROWS, SIDE, dtype=torch.bfloat16)
        sizes = LinearSizes(inputs=self.in_features, outputs=self.out_features)
        call("pack_weight", sizes, self.weight.detach().contiguous(), packed)
        return packed

    def can_pack(self) -> bool:
        """See [`~NativeLinear.can_pack`]."""
        return self.in_features % SIDE == self.out_features % SIDE == 0 and super().can_pack()


__all__ = ["TileLinear", "can_use_tiles"]
