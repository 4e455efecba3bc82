"""PaSST's linear layers on a CPU by oneDNN, on processors whose vectors torch's own library leaves half empty.

torch multiplies float32 matrices on an x86 processor by MKL, which has no AVX-512 for AMD's. oneDNN has; it comes with
torch too, which takes it for convolutions, and for matrices only in what it compiles, by the operators called here.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..models.modeling_passt import PasstMlp, PasstModel
from .kernels import has_hooks


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


class OneDnnLinear(nn.Linear):
    """[`~torch.nn.Linear`] by oneDNN in float32 on the CPU, and as before elsewhere."""

    packed: torch.Tensor | None = None  # the weight in oneDNN's own layout

    def pack(self) -> None:
        """Lays the weight out once as oneDNN reads it; later changes of it do not show in what needs no gradient."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())

    def forward(self, input: torch.Tensor, *, has_gelu: bool = False) -> torch.Tensor:
        """Computes `(..., outputs)` of `(..., inputs)`, on demand with the GELU of it."""
        if not self.can_multiply(input):
            output = super().forward(input)
            return nn.functional.gelu(output) if has_gelu else output
        if torch.is_grad_enabled():
            output = _Product.apply(input, self.weight, self.bias)
            return nn.functional.gelu(output) if has_gelu else output
        return onednn_linear(input, self.weight if self.packed is None else self.packed, self.bias, has_gelu=has_gelu)

    def can_multiply(self, input: torch.Tensor) -> bool:
        """Returns whether oneDNN does the work of this layer for an input."""
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not input.numel():
            return False
        tensors = input, self.weight
        return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}  # it can't be copied


class OneDnnMlp(PasstMlp):
    """[`PasstMlp`] of two [`OneDnnLinear`], the first of which has the GELU in it."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if has_hooks(self.up):
            return super().forward(hidden_states)
        return self.down(self.up(hidden_states, has_gelu=True))


def use_onednn(model: nn.Module, *, packed: bool = False) -> nn.Module:
    """Makes the blocks of the PaSSTs in a model multiply by oneDNN, in place, where that is faster.

    Args:
        model (`nn.Module`): any network.
        packed (`bool`, *optional*, defaults to `False`): also lay copies of the weights out for it, faster still, but
            for inference alone: what is computed without a gradient takes them as they are now.

    Returns:
        `nn.Module`: the same.
    """
    if not is_onednn_faster():
        return model
    for passt in (module for module in model.modules() if isinstance(module, PasstModel)):
        for module in passt.blocks.modules():
            if type(module) is nn.Linear:
                module.__class__ = OneDnnLinear
            if packed and isinstance(module, OneDnnLinear) and module.can_multiply(module.weight):
                module.pack()
        for module in passt.blocks.modules():
            if type(module) is PasstMlp and type(module.up) is type(module.down) is OneDnnLinear:
                module.__class__ = OneDnnMlp
    return model


__all__ = ["OneDnnLinear", "OneDnnMlp", "is_onednn_faster", "onednn_linear", "use_onednn"]
