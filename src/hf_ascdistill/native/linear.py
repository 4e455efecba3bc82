"""Linear layers that multiply by something other than torch's own library: what all kinds of them share."""

from typing import Any

import torch
from torch import nn

from .kernels import is_float32_on_cpu


class NativeLinear(nn.Linear):
    """[`~torch.nn.Linear`] that multiplies in its own way in float32 on the CPU, and is as before elsewhere.

    A kind of it is given to a layer as its class, so that parameters and state dict stay.
    """

    packed: torch.Tensor | None = None  # the weight in the layout that `multiply` reads fastest
    _packed_of: tuple[int, int | None] | None = None  # the weight that it was, see `_identity`

    def multiply(self, input: torch.Tensor, *, has_gelu: bool) -> torch.Tensor:
        """Computes `(..., outputs)` of `(..., inputs)`, the exact GELU of it where `has_gelu`."""
        raise NotImplementedError

    def can_multiply(self, input: torch.Tensor) -> bool:
        """Returns whether [`~NativeLinear.multiply`] can do the work of this layer for an input, as things are."""
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if not input.numel() or input.shape[-1] != self.in_features:
            return False
        return is_float32_on_cpu(input) and is_float32_on_cpu(self.weight)

    def pack_weight(self) -> torch.Tensor:
        """Returns the weight in the layout that [`~NativeLinear.multiply`] reads fastest."""
        raise NotImplementedError

    def can_pack(self) -> bool:
        """Returns whether the weight is one that can be packed."""
        return is_float32_on_cpu(self.weight)

    def pack(self) -> None:
        """Packs the weight where it can be; once that is replaced or changed, the packed one is of no more use.

        A change that torch does not count, by `.data` or a fused optimiser, shows in what needs a gradient alone.
        """
        if self.can_pack():
            self.packed, self._packed_of = self.pack_weight(), _identity(self.weight)

    def is_packed(self) -> bool:
        """Returns whether the weight is packed as it is now."""
        return self.packed is not None and self._packed_of == _identity(self.weight)

    def forward(self, input: torch.Tensor, *, has_gelu: bool = False) -> torch.Tensor:
        """Computes `(..., outputs)` of `(..., inputs)`, on demand with the GELU of it."""
        if self.can_multiply(input):
            return self.multiply(input, has_gelu=has_gelu)
        output = super().forward(input)
        return nn.functional.gelu(output) if has_gelu else output

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}  # not each can be copied


def _identity(weight: torch.Tensor) -> tuple[int, int | None]:
    """Returns what is another one when a weight is replaced, or changed in a way that torch counts."""
    return weight.data_ptr(), None if weight.is_inference() else weight._version


__all__ = ["NativeLinear"]
