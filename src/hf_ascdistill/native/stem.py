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
from .kernels import StemSizes, as_gradients, call, channels_last, layouts, padded, padded_size, thread_totals
from .normalization import BatchStatistics, Expansion, NormGradients

TAPS, PATCH = 9, 16  # columns of a patch: taps, a one, and zeros


@dataclass
class State:
    """What the gradient needs of the forward pass besides the maps; weights are float32."""

    sizes: StemSizes
    expansion: Expansion
    folded: torch.Tensor  # weight and bias of the first convolution and normalisation, (TAPS + 1, padded middle)
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
        weight, bias = expansion.folded(padded_size(sizes.middle))
        folded = torch.cat([weight, bias[None]])
        taps = stem.second.conv.weight.detach().permute(2, 3, 1, 0)
        height, width = (halved(halved(length)) for length in x.shape[1:])
        maps = x.new_empty(len(x), height, width, sizes.outputs)
        moments = torch.empty(len(x), 2, sizes.outputs, dtype=torch.float64)
        call("convolve_twice", sizes, x, folded, padded(taps, padded_size(sizes.outputs)), maps, moments)
        second = BatchStatistics.of(stem.second.norm, maps, moments)
        output = torch.empty_like(maps)
        call("finish_stem", sizes, maps, *second.folded(sizes.outputs), output)
        for norm in (expansion.norm, second):
            norm.update_running()
        ctx.save_for_backward(x, maps)
        ctx.state = State(sizes, expansion, folded, taps.clone(), second, layouts(parameters))
        return output.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, maps = ctx.saved_tensors
        state, sizes, gradient = ctx.state, ctx.state.sizes, channels_last(gradient)
        second = _second_norm(state, gradient, maps)
        columns, middle = padded_size(sizes.outputs), padded_size(sizes.middle)
        totals = thread_totals(TAPS * sizes.middle * columns + (TAPS + 1) * middle)
        back = padded(state.weight.flatten(1, 2).transpose(1, 2), padded_size(3 * sizes.middle))
        layers = *state.second.folded(sizes.outputs), second.line.float(), back
        call("convolve_twice_backward", sizes, x, state.folded, gradient, maps, *layers, totals)
        taps, patches = totals.sum(0).split([TAPS * sizes.middle * columns, (TAPS + 1) * middle])
        taps = taps.view(3, 3, sizes.middle, columns)[..., : sizes.outputs].permute(3, 2, 0, 1)
        patches = patches.view(TAPS + 1, middle)[:, : sizes.middle]
        weight, first = state.expansion.gradients(patches[:TAPS], patches[TAPS])
        gradients = weight.t(), first.weight, first.bias, taps, second.weight, second.bias
        return None, None, *as_gradients(gradients, state.layouts)


def _first_layer(stem: CpMobileStem, x: torch.Tensor, sizes: StemSizes) -> Expansion:
    totals = thread_totals(TAPS, PATCH)
    call("patch_moments", sizes, x, totals)
    totals, places = totals.sum(0), len(x) * math.prod(map(halved, x.shape[1:]))
    return Expansion.of(stem.first, x.new_zeros(TAPS), products=totals[:, :TAPS], sums=totals[:, TAPS], places=places)


def _second_norm(state: State, gradient: torch.Tensor, maps: torch.Tensor) -> NormGradients:
    sums = torch.zeros(len(maps), 2, state.sizes.outputs, dtype=torch.float64)
    folded = *state.second.folded(state.sizes.outputs), state.second.mean.float()
    call("finish_stem_backward", state.sizes, gradient, maps, *folded, sums)
    return state.second.gradients(*sums.sum(0))


__all__ = ["Stem", "stem_parameters"]
