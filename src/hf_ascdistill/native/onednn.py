"""Linear layers on a CPU by oneDNN, for processors whose vectors torch's own library leaves half empty.

torch multiplies float32 matrices on an x86 processor by MKL, which has no AVX-512 for AMD's. oneDNN has; it comes with
torch too, which takes it for convolutions, and for matrices only in what it compiles, by the operators called here.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .linear import NativeLinear


@functools.cache
def is_onednn_faster() -> bool:
    """Returns whether this processor multiplies matrices faster by oneDNN: one of AMD's with AVX-512."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in each torch
    is_wide = bool(capabilities.get("avx512_f")) and str(capabilities.get("cpu_name", "")).startswith("AMD")
    return is_wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, has_gelu: bool = False
) -> torch.Tensor:
    """Returns `x weight^T + bias`, without a gradient.

    Args:
        x (`torch.Tensor`): float32, `(..., inputs)`.
        weight (`torch.Tensor`): float32, `(outputs, inputs)`, in any memory format, also a packed one.
        bias (`torch.Tensor`, *optional*): float32, `(outputs,)`.
        has_gelu (`bool`, *optional*, defaults to `False`): take the exact GELU of it.
    """
    activation = ("gelu", [], "none") if has_gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)


class _Product(torch.autograd.Function):
    """[`onednn_linear`] with a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)  # (..., outputs) -> (N, outputs)
        return (
            onednn_linear(gradient, weight.t()) if of_x else None,
            rows.t() @ x.flatten(0, -2) if of_weight else None,  # long sums of narrow rows, which MKL adds as fast
            rows.sum(0) if of_bias else None,
        )


class OneDnnLinear(NativeLinear):
    """[`NativeLinear`] by oneDNN, with gradients and without."""

    def multiply(self, input: torch.Tensor, *, has_gelu: bool) -> torch.Tensor:
        """See [`~NativeLinear.multiply`]."""
        if torch.is_grad_enabled():
            output = _Product.apply(input, self.weight, self.bias)
            return nn.functional.gelu(output) if has_gelu else output
        weight = self.packed if self.is_packed() else self.weight
        return onednn_linear(input, weight, self.bias, has_gelu=has_gelu)

    def pack_weight(self) -> torch.Tensor:
        """See [`~NativeLinear.pack_weight`]: a tensor of oneDNN's."""
        return torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())


__all__ = ["OneDnnLinear", "is_onednn_faster", "onednn_linear"]
