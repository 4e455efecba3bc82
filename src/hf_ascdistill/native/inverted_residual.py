"""CP-Mobile's inverted residual block as one operation with a gradient, in training on a CPU.

What its first normalisation needs of the expanded map, the widest one, follows from the moments of its input
([`Expansion`]), so that this map is only made row by row, and its gradient too. It is kept for the gradient where it
costs more to make than to keep.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..models.modeling_cp_mobile import RESPONSE_EPS, CpMobileBlock
from .kernels import BlockSizes, as_gradients, call, channels_last, layouts, padded, padded_size, room
from .normalization import BatchStatistics, Expansion, ExpansionGradients, NormGradients

TAPS = 9  # of the depthwise convolution
KEPT_FROM = 64  # channels; what is expanded from fewer is made again sooner than it is read


@dataclass
class State:
    """What the gradient needs of the forward pass besides the maps; weights are float32 and padded."""

    sizes: BlockSizes
    expansion: Expansion
    taps: torch.Tensor  # (9, hidden)
    second: BatchStatistics
    project: torch.Tensor  # (outputs, hidden)
    third: BatchStatistics
    response: torch.Tensor  # gain and offset
    has_shortcut: bool
    layouts: list  # of the parameters


def block_parameters(block: CpMobileBlock) -> list[torch.Tensor]:
    """Lists the parameters of a block in the order in which [`InvertedResidual`] returns their gradients."""
    layers = block.expand, block.depthwise, block.project
    parameters = [tensor for layer in layers for tensor in (layer.conv.weight, layer.norm.weight, layer.norm.bias)]
    return [*parameters, block.response_norm.weight, block.response_norm.bias]


class InvertedResidual(torch.autograd.Function):
    """[`CpMobileBlock`] in training mode.

    `apply(block, x, *block_parameters(block))` takes the input `(B, C, M, F)` and gives `(B, C', M', F')`. It moves
    the running statistics of the block.
    """

    @staticmethod
    def forward(ctx: Any, block: CpMobileBlock, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        sizes, x = _sizes(block, x), channels_last(x)
        shortcut = _shortcut(block, x, sizes)
        expansion = _expansion(block, x, sizes)
        taps = padded(block.depthwise.conv.weight.flatten(1).t(), sizes.hidden)
        filtered = _empty_map(block, x, sizes.hidden)
        moments = _clip_moments(filtered)
        expanded = room(*x.shape[:-1], sizes.hidden) if sizes.inputs >= KEPT_FROM else None
        call("expand_depthwise", sizes, x, expansion.folded, taps, expanded, filtered, moments)
        second = BatchStatistics.of(block.depthwise.norm, filtered, moments)
        project = padded(block.project.conv.weight.flatten(1), sizes.hidden)
        projected = _empty_map(block, x, sizes.outputs)
        moments = _clip_moments(projected)
        weight = padded(project.t(), padded_size(sizes.outputs))
        call("project", sizes, filtered, *second.folded[:2], weight, projected, moments)
        third = BatchStatistics.of(block.project.norm, projected, moments)
        response = torch.cat([block.response_norm.weight, block.response_norm.bias])
        output = torch.empty_like(projected.permute(0, 3, 1, 2))  # no view, so that others may change it in place
        maps, channel_norms = output.permute(0, 2, 3, 1), room(sizes.clips, sizes.outputs)
        call("finish", sizes, projected, shortcut, *third.folded[:2], response, maps, channel_norms)
        ctx.save_for_backward(x, shortcut, expanded, filtered, projected, channel_norms)
        ctx.state = State(
            sizes, expansion, taps, second, project, third, response, block.has_shortcut, layouts(parameters)
        )
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, shortcut, expanded, filtered, projected, channel_norms = ctx.saved_tensors
        state, of_output = ctx.state, channels_last(gradient)
        residual, third, response = _finish_backward(state, of_output, projected, shortcut, channel_norms)
        of_projected = residual, projected, third.line
        of_hidden = torch.empty_like(filtered) if state.sizes.outputs >= KEPT_FROM else None
        project, second = _project_backward(state, of_projected, filtered, of_hidden)
        of_x, expand, taps = _expand_backward(state, of_projected, filtered, second, x, (expanded, of_hidden))
        of_layers = *expand[:3], taps, second.weight, second.bias, project, third.weight, third.bias
        gradients = as_gradients([*of_layers, *response.split(1)], state.layouts)
        return None, of_x.permute(0, 3, 1, 2), *gradients


def _sizes(block: CpMobileBlock, x: torch.Tensor) -> BlockSizes:
    clips, inputs, height, width = x.shape
    hidden, outputs = padded_size(block.expand.conv.out_channels), block.project.conv.out_channels
    return BlockSizes(clips, height, width, *block.depthwise.conv.stride, inputs, hidden, outputs, RESPONSE_EPS)


def _shortcut(block: CpMobileBlock, x: torch.Tensor, sizes: BlockSizes) -> torch.Tensor | None:
    """Returns what is added to the projection: the input, pooled where the block has a stride, or nothing."""
    if not block.has_shortcut or isinstance(block.pool, nn.Identity):
        return x if block.has_shortcut else None
    pooled = _empty_map(block, x, sizes.inputs)
    call("pool", sizes, x, pooled)
    return pooled


def _expansion(block: CpMobileBlock, x: torch.Tensor, sizes: BlockSizes) -> Expansion:
    sums, shift = room(sizes.inputs + 1, padded_size(sizes.inputs), dtype=torch.float64), room(sizes.inputs)
    call("input_moments", sizes, x, shift, sums)
    return Expansion.of(block.expand, shift, sums, clips=sizes.clips, places=sizes.height * sizes.width)


def _empty_map(block: CpMobileBlock, x: torch.Tensor, channels: int) -> torch.Tensor:
    """Returns room for a map behind the stride."""
    clips, *lengths, _ = x.shape
    places = [(length - 1) // stride + 1 for length, stride in zip(lengths, block.depthwise.conv.stride, strict=True)]
    return room(clips, *places, channels)


def _clip_moments(maps: torch.Tensor) -> torch.Tensor:
    """Returns room for the moments of the clips of a map."""
    return room(len(maps), 2, maps.shape[-1], dtype=torch.float64)


def _finish_backward(
    state: State,
    gradient: torch.Tensor,
    projected: torch.Tensor,
    shortcut: torch.Tensor | None,
    channel_norms: torch.Tensor,
) -> tuple[torch.Tensor, NormGradients, torch.Tensor]:
    """Returns the gradient of the last normalisation's result, those of its own, and the response's `(2,)`."""
    sizes = state.sizes
    residual = torch.empty_like(projected)
    sums, response = room(2, sizes.outputs, dtype=torch.float64), room(2, dtype=torch.float64)
    maps = gradient, projected, shortcut
    call("finish_backward", sizes, *maps, *state.third.folded, state.response, channel_norms, residual, sums, response)
    return residual, state.third.gradients(sums), response


def _project_backward(
    state: State, of_projected: tuple[torch.Tensor, ...], filtered: torch.Tensor, of_hidden: torch.Tensor | None
) -> tuple[torch.Tensor, NormGradients]:
    """Returns the gradients of the projection's weight, `(outputs, expanded)`, and of the second normalisation.

    That of this normalisation's result is written into `of_hidden`, if that is there.
    """
    sizes, second = state.sizes, state.second
    sums = room(sizes.outputs + 2, sizes.hidden, dtype=torch.float64)
    call("project_backward", sizes, *of_projected, filtered, *second.folded, state.project, of_hidden, sums)
    return sums[:-2, : second.sizes.channels], second.gradients(sums[-2:])


def _expand_backward(
    state: State,
    of_projected: tuple[torch.Tensor, ...],
    filtered: torch.Tensor,
    second: NormGradients,
    x: torch.Tensor,
    kept: tuple[torch.Tensor | None, ...],
) -> tuple[torch.Tensor, ExpansionGradients, torch.Tensor]:
    """Returns the gradients of x, of the expansion and its normalisation, and of the taps.

    `kept` are the expanded map and the gradient that [`_project_backward`] wrote, each if it was kept.
    """
    sizes, expansion, inputs = state.sizes, state.expansion, state.sizes.inputs
    of_x, sums = torch.empty_like(x), room(inputs + 1 + TAPS, sizes.hidden, dtype=torch.float64)
    of_filtered = filtered, *state.second.folded[:2], second.line
    layers = state.taps, expansion.folded, expansion.back
    maps = x, *of_projected, state.project, *of_filtered
    call("expand_depthwise_backward", sizes, *maps, *layers, *kept, of_x, sums)
    expand = expansion.gradients(sums[: inputs + 1])
    call("add_product", sizes, x, expand.through, of_projected[0] if state.has_shortcut else None, of_x)
    return of_x, expand, sums[inputs + 1 :, : expansion.sizes.channels].t()


__all__ = ["InvertedResidual", "block_parameters"]
