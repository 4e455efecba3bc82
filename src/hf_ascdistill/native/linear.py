"""Linear layers that multiply by something other than torch's own library: what all kinds of them share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class NativeLinear(nn.Linear):
    """[`~torch.nn.Linear`] by [`~NativeLinear.multiply`] in float32 on the CPU, and as before elsewhere.

    A kind of it is given to a layer as its class, so that parameters and state dict stay.
    """

    packed: torch.Tensor | None = None  # the weight in the layout that `multiply` reads fastest

    @staticmethod
    def multiply(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, has_gelu: bool = False
    ) -> torch.Tensor:
        """Returns `x weight^T + bias`, without a gradient.

        Args:
            x (`torch.Tensor`): float32, `(..., inputs)`.
            weight (`torch.Tensor`): float32, `(outputs, inputs)`, in any memory format; or a packed one.
            bias (`torch.Tensor`, *optional*): float32, `(outputs,)`.
            has_gelu (`bool`, *optional*, defaults to `False`): take the exact GELU of it.
        """
        raise NotImplementedError

    @staticmethod
    def pack_weight(weight: torch.Tensor) -> torch.Tensor:
        """Returns a weight `(outputs, inputs)` in the layout that [`~NativeLinear.multiply`] reads fastest."""
        raise NotImplementedError

    def pack(self) -> None:
        """Packs the weight once; later changes of it do not show in what needs no gradient."""
        self.packed = self.pack_weight(self.weight.detach())

    def forward(self, input: torch.Tensor, *, has_gelu: bool = False) -> torch.Tensor:
        """Computes `(..., outputs)` of `(..., inputs)`, on demand with the GELU of it."""
        if not self.can_multiply(input):
            output = super().forward(input)
            return nn.functional.gelu(output) if has_gelu else output
        if torch.is_grad_enabled():
            output = _Product.apply(self.multiply, input, self.weight, self.bias)
            return nn.functional.gelu(output) if has_gelu else output
        weight = self.weight if self.packed is None else self.packed
        return self.multiply(input, weight, self.bias, has_gelu=has_gelu)

    def can_multiply(self, input: torch.Tensor) -> bool:
        """Returns whether [`~NativeLinear.multiply`] does the work of this layer for an input."""
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not input.numel():
            return False
        tensors = input, self.weight
        return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}  # not each can be copied


class _Product(torch.autograd.Function):
    """A [`~NativeLinear.multiply`] with a gradient."""

    @staticmethod
    def forward(
        ctx: Any, multiply: Callable, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.multiply = multiply
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)  # (..., outputs) -> (N, outputs)
        return (
            None,
            ctx.multiply(gradient, weight.t()) if of_x else None,
            rows.t() @ x.flatten(0, -2) if of_weight else None,  # long sums of narrow rows, which MKL adds as fast
            rows.sum(0) if of_bias else None,
        )


__all__ = ["NativeLinear"]
