"""Linear layers on a CPU by oneDNN, for processors whose vectors torch's own library leaves half empty.

torch multiplies float32 matrices on an x86 processor by MKL, which has no AVX-512 for AMD's. oneDNN has; it comes with
torch too, which takes it for convolutions, and for matrices only in what it compiles, by the operators called here.
"""

import functools

import torch

from .linear import NativeLinear


@functools.cache
def is_onednn_faster() -> bool:
    """Returns whether this processor multiplies matrices faster by oneDNN: one of AMD's with AVX-512."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in each torch
    is_wide = bool(capabilities.get("avx512_f")) and str(capabilities.get("cpu_name", "")).startswith("AMD")
    return is_wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class OneDnnLinear(NativeLinear):
    """[`NativeLinear`] by oneDNN."""

    @staticmethod
    def multiply(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, has_gelu: bool = False
    ) -> torch.Tensor:
        """See [`~NativeLinear.multiply`]."""
        activation = ("gelu", [], "none") if has_gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)

    @staticmethod
    def pack_weight(weight: torch.Tensor) -> torch.Tensor:
        """See [`~NativeLinear.pack_weight`]: a tensor of oneDNN's."""
        return torch.ops.mkldnn._reorder_linear_weight(weight)


__all__ = ["OneDnnLinear", "is_onednn_faster"]
