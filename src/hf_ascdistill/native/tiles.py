"""Linear layers on a CPU by the tiles of Intel's processors (AMX): sums of bfloat16 that are as exact as float32."""

import ctypes
import functools

import torch

from .kernels import call, can_use_kernels, load_kernels, room
from .linear import NativeLinear

SIDE, PARTS, TILES, TILE_ROWS = 32, 3, 2, 16  # as in tile_linear.cpp


class LinearSizes(ctypes.Structure):
    """Sizes of a linear layer, steps from row to row and from column to column of its weight."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("rows", "inputs", "outputs", "weight_row", "weight_column")),
        ("has_gelu", ctypes.c_int),
    ]


@functools.cache
def can_use_tiles() -> bool:
    """Returns whether this processor has tiles for bfloat16, Linux lends them, and the kernels can be loaded."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in each torch
    return bool(capabilities.get("amx_bf16")) and can_use_kernels() and bool(load_kernels().ask_for_tiles())


class TileLinear(NativeLinear):
    """[`NativeLinear`] by tiles; numbers of inputs and outputs that are no multiple of 32 go the usual way."""

    @staticmethod
    def multiply(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, has_gelu: bool = False
    ) -> torch.Tensor:
        """See [`~NativeLinear.multiply`]."""
        assert can_use_tiles()  # a process that has not asked for them may not touch them
        packed = TileLinear.pack_weight(weight) if weight.dim() == 2 else weight
        rows, outputs = x.numel() // x.shape[-1], len(packed) * SIDE
        sums = room(*x.shape[:-1], outputs)
        sizes = LinearSizes(rows=rows, inputs=x.shape[-1], outputs=outputs, has_gelu=has_gelu)
        call("tile_linear", sizes, x.contiguous(), packed, bias, sums)
        return sums

    @staticmethod
    def pack_weight(weight: torch.Tensor) -> torch.Tensor:
        """See [`~NativeLinear.pack_weight`]: bfloat16, `(outputs / 32, inputs / 32, parts, 2, 16, 32)`."""
        weight = weight if weight.t().is_contiguous() else weight.contiguous()
        outputs, inputs = weight.shape
        packed = room(outputs // SIDE, inputs // SIDE, PARTS, TILES, TILE_ROWS, SIDE, dtype=torch.bfloat16)
        row, column = weight.stride()
        sizes = LinearSizes(inputs=inputs, outputs=outputs, weight_row=row, weight_column=column)
        call("pack_weight", sizes, weight if column == 1 else weight.t(), packed)
        return packed

    def can_multiply(self, input: torch.Tensor) -> bool:
        """See [`~NativeLinear.can_multiply`]."""
        return all(size % SIDE == 0 for size in self.weight.shape) and super().can_multiply(input)


__all__ = ["TileLinear", "can_use_tiles"]
