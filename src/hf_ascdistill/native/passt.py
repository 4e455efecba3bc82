"""Makes PaSST's blocks multiply by what is fastest on this processor."""

import torch
from torch import nn

from ..models.modeling_passt import PasstMlp, PasstModel
from .kernels import has_hooks
from .linear import NativeLinear
from .onednn import OneDnnLinear, is_onednn_faster
from .tiles import TileLinear, can_use_tiles


class NativeMlp(PasstMlp):
    """[`PasstMlp`] of two [`NativeLinear`], the first of which has the GELU in it."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.up, NativeLinear) or has_hooks(self.up):  # others put something around it
            return super().forward(hidden_states)
        return self.down(self.up(hidden_states, has_gelu=True))


def fastest_linear(*, packed: bool) -> type[nn.Linear]:
    """Returns the kind of linear layer that this processor computes fastest in float32.

    Args:
        packed (`bool`): of weights that stay as they are, so that they can be laid out once.
    """
    if is_onednn_faster():
        return OneDnnLinear
    return TileLinear if packed and can_use_tiles() else nn.Linear


def use_fastest_linear(model: nn.Module, *, packed: bool = False) -> nn.Module:
    """Makes the blocks of the PaSSTs in a model multiply by the [`fastest_linear`], in place.

    Args:
        model (`nn.Module`): any network.
        packed (`bool`, *optional*, defaults to `False`): lay copies of the weights out for it, faster still, for
            inference alone; see [`~NativeLinear.pack`] for weights that change later.

    Returns:
        `nn.Module`: the same.
    """
    passts = [module for module in model.modules() if isinstance(module, PasstModel)]
    kind = fastest_linear(packed=packed) if passts else nn.Linear
    if kind is nn.Linear:
        return model
    for passt in passts:
        for module in passt.blocks.modules():
            if type(module) is nn.Linear:
                module.__class__ = kind
            if packed and isinstance(module, NativeLinear):
                module.pack()
        for module in passt.blocks.modules():
            if type(module) is PasstMlp and type(module.up) is type(module.down) is kind:
                module.__class__ = NativeMlp
    return model


__all__ = ["NativeMlp", "fastest_linear", "use_fastest_linear"]
