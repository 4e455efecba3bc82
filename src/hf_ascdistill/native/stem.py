"""CP-Mobile's stem as one operation with a gradient, in training on a CPU.

The first convolution is a product of patches, what its nine taps meet at each place, with its weight: as in the block,
the first normalisation follows from the moments of the patches, and nothing of it lies in memory.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..models.modeling_cp_mobile import CpMobileStem
from .kernels import StemSizes, as_gradients, call, channels_last, layouts, padded, padded_size, room
from .normalization import BatchStatistics, Expansion, NormGradients

TAPS, PATCH = 9, 16  # columns of a patch: taps, a one, and zeros


@dataclass
class State:
    """What the gradient needs of the forward pass besides the maps; weights are float32."""

    sizes: StemSizes
    expansion: Expansion
    weight: torch.Tensor  # of the second convolution, (3, 3, middle, outputs): rows, columns, channels
    second: BatchStatistics
    layouts: list  # of the parameters


def halved(length: int) -> int:
    """Returns how many places a 3x3 convolution of stride 2 and padding 1 makes of so many."""
    return (length - 1) // 2 + 1


def stem_parameters(stem: CpMobileStem) -> list[torch.Tensor]:
    """Lists the parameters of a stem in the order in which [`Stem`] returns their gradients."""
    layers = stem.first, stem.second
    return [tensor for layer in layers for tensor in (layer.conv.weight, layer.norm.weight, layer.norm.bias)]


class Stem(torch.autograd.Function):
    """[`CpMobileStem`] in training mode.

    `apply(stem, x, *stem_parameters(stem))` takes log-mels `(B, M, F)`, which get no gradient, and gives
    `(B, C, M / 4, F / 4)`. It moves the running statistics of the stem.
    """

    @staticmethod
    def forward(ctx: Any, stem: CpMobileStem, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        x, sizes = x.contiguous(), StemSizes(*x.shape, stem.first.conv.out_channels, stem.second.conv.out_channels)
        expansion = _first_layer(stem, x, sizes)
        taps = stem.second.conv.weight.detach().permute(2, 3, 1, 0)
        height, width = (halved(halved(length)) for length in x.shape[1:])
        maps = room(len(x), height, width, sizes.outputs)
        moments = room(len(x), 2, sizes.outputs, dtype=torch.float64)
        call("convolve_twice", sizes, x, expansion.folded, padded(taps, padded_size(sizes.outputs)), maps, moments)
        second = BatchStatistics.of(stem.second.norm, maps, moments)
        output = torch.empty_like(maps.permute(0, 3, 1, 2))  # no view, so that others may change it in place
        call("finish_stem", sizes, maps, *second.folded[:2], output.permute(0, 2, 3, 1))
        ctx.save_for_backward(x, maps)
        ctx.state = State(sizes, expansion, taps.clone(), second, layouts(parameters))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, maps = ctx.saved_tensors
        state, sizes, gradient = ctx.state, ctx.state.sizes, channels_last(gradient)
        second = _second_norm(state, gradient, maps)
        columns, middle = padded_size(sizes.outputs), padded_size(sizes.middle)
        sums = room(TAPS * sizes.middle * columns + (TAPS + 1) * middle, dtype=torch.float64)
        back = padded(state.weight.flatten(1, 2).transpose(1, 2), padded_size(3 * sizes.middle))
        layers = *state.second.folded[:2], second.line, back
        call("convolve_twice_backward", sizes, x, state.expansion.folded, gradient, maps, *layers, sums)
        taps, patches = sums.split([TAPS * sizes.middle * columns, (TAPS + 1) * middle])
        taps = taps.view(3, 3, sizes.middle, columns)[..., : sizes.outputs].permute(3, 2, 0, 1)
        first = state.expansion.gradients(patches)
        gradients = *first[:3], taps, second.weight, second.bias
        return None, None, *as_gradients(gradients, state.layouts)


def _first_layer(stem: CpMobileStem, x: torch.Tensor, sizes: StemSizes) -> Expansion:
    sums, places = room(TAPS + 1, PATCH, dtype=torch.float64), math.prod(map(halved, x.shape[1:]))
    call("patch_moments", sizes, x, sums)
    return Expansion.of(stem.first, x.new_zeros(TAPS), sums, clips=len(x), places=places)


def _second_norm(state: State, gradient: torch.Tensor, maps: torch.Tensor) -> NormGradients:
    sums = room(2, state.sizes.outputs, dtype=torch.float64)
    call("finish_stem_backward", state.sizes, gradient, maps, *state.second.folded, sums)
    return state.second.gradients(sums)


__all__ = ["Stem", "stem_parameters"]
