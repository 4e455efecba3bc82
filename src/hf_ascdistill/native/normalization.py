"""Batch normalisation in training, worked out in float64 from moments of the batch."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ..models.modeling_cp_mobile import CpMobileConvNorm
from .kernels import NormSizes, call, padded_size, room

NUMBERS = 4  # what a normalisation knows of a channel: mean, inverse deviation, scale and shift


class NormGradients(NamedTuple):
    """Gradients of a batch normalisation.

    Args:
        weight (`torch.Tensor`): that of the gain, `(C,)`.
        bias (`torch.Tensor`): that of the offset, `(C,)`.
        line (`torch.Tensor`): coefficients of that of the input, `(3, padded C)`: `line[0] * g + line[1] * input +
            line[2]` where g is the gradient of the result.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    line: torch.Tensor


class ExpansionGradients(NamedTuple):
    """Gradients of an [`Expansion`].

    Args:
        weight (`torch.Tensor`): that of W^T, `(E, C)`.
        norm_weight (`torch.Tensor`): that of the normalisation's gain, `(E,)`.
        norm_bias (`torch.Tensor`): that of its offset, `(E,)`.
        through (`torch.Tensor`): what of the gradient of x follows from x itself: x times the first C rows, plus the
            last one, `(C + 1, padded C)`.
    """

    weight: torch.Tensor
    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    through: torch.Tensor


@dataclass
class BatchStatistics:
    """What a batch normalisation knows of its batch.

    Args:
        sizes ([`NormSizes`]): of its input.
        numbers (`torch.Tensor`): mean, inverse deviation, scale and shift of each channel, `(4, C)`, float64: the
            result is `input * scale + shift`.
        folded (`torch.Tensor`): scale, shift and mean, `(3, padded C)`, float32, padded with zeros.
    """

    sizes: NormSizes
    numbers: torch.Tensor
    folded: torch.Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, maps: torch.Tensor, moments: torch.Tensor) -> "BatchStatistics":
        """Joins the moments of clips to those of the batch, and moves the running statistics towards these.

        Args:
            norm (`nn.BatchNorm2d`): the layer.
            maps (`torch.Tensor`): its input, `(B, M, F, padded C)`.
            moments (`torch.Tensor`): mean and sum of squared deviations of each clip, `(B, 2, padded C)`, float64.
        """
        clips, height, width, channels = maps.shape
        sizes = NormSizes(clips, height * width, 0, norm.num_features, channels, norm.eps, norm.momentum)
        numbers, folded = _numbers(sizes), room(3, channels)
        call("batch_statistics", sizes, moments, *_tensors(norm), numbers, folded)
        return cls(sizes, numbers, folded)

    def gradients(self, sums: torch.Tensor) -> NormGradients:
        """Works out the gradients from sums over the batch.

        Args:
            sums (`torch.Tensor`): `(2, padded C)`, float64: of the gradient g of the result, and of g times the
                distance of the input from its mean.
        """
        gradients, line = room(2, self.sizes.channels), torch.empty_like(self.folded)
        call("norm_gradients", self.sizes, sums, self.numbers, gradients, line)
        return NormGradients(*gradients, line)


@dataclass
class Expansion:
    """A product x W and its batch normalisation, worked out without the product.

    With x the inputs of all n places, `(n, C)`, mean and variance of x W follow from the mean m and the covariance K
    of x: they are m W and the diagonal of W^T K W. The gradient of x W is a line in each channel, s g + t (x W) + u,
    where g is that of the normalisation's result, so that

        dW = s x^T g + n t (K + m m^T) W + n m u        dx = g (s W)^T + x (t W) W^T + W u

    of which the last two terms are the ones that follow from x itself.

    Args:
        sizes ([`NormSizes`]): of x W.
        weight (`torch.Tensor`): W^T, `(E, C)`.
        mean (`torch.Tensor`): m, `(C,)`, float64.
        moments (`torch.Tensor`): K W, `(C, E)`, float64.
        numbers (`torch.Tensor`): as those of [`BatchStatistics`], `(4, E)`.
        folded (`torch.Tensor`): W with the normalisation in it, `(C, padded E)`, and its bias in a row more.
        back (`torch.Tensor`): this W transposed, `(padded E, padded C)`.
    """

    sizes: NormSizes
    weight: torch.Tensor
    mean: torch.Tensor
    moments: torch.Tensor
    numbers: torch.Tensor
    folded: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(
        cls, layer: CpMobileConvNorm, shift: torch.Tensor, totals: torch.Tensor, *, clips: int, places: int
    ) -> "Expansion":
        """Works it out for a convolution and its normalisation, whose running statistics it moves.

        Args:
            layer (`CpMobileConvNorm`): both.
            shift (`torch.Tensor`): about the mean of x, `(C,)`: sums of large squares would lose the small covariance.
            totals (`torch.Tensor`): sums over all places, `(C + 1, padded C)`, float64: of d^T d, where d is x -
                shift, and of d.
            clips (`int`): in the batch.
            places (`int`): in a clip.
        """
        norm, inputs = layer.norm, len(shift)
        channels, wide = norm.num_features, padded_size(norm.num_features)
        sizes = NormSizes(clips, places, inputs, channels, wide, norm.eps, norm.momentum)
        weight = layer.conv.weight.detach().reshape(channels, inputs).clone()
        moments = room(inputs, channels, dtype=torch.float64)
        own = room(inputs, dtype=torch.float64), moments, _numbers(sizes)
        folded, back = room(inputs + 1, wide), room(wide, padded_size(inputs))
        call("expansion", sizes, totals, shift, weight, *_tensors(norm), *own, folded, back)
        return cls(sizes, weight, *own, folded, back)

    def gradients(self, sums: torch.Tensor) -> ExpansionGradients:
        """Works out the gradients from sums over the batch.

        Args:
            sums (`torch.Tensor`): x^T g and, below it, the sums of g, `(C + 1, padded E)`, float64.
        """
        of_weight, of_norm = torch.empty_like(self.weight), room(2, self.sizes.channels)
        through = room(self.sizes.inputs + 1, self.back.shape[1])
        own = self.weight, self.mean, self.moments, self.numbers
        call("expansion_gradients", self.sizes, sums, *own, of_weight, of_norm, through)
        return ExpansionGradients(of_weight, *of_norm, through)


def _numbers(sizes: NormSizes) -> torch.Tensor:
    return room(NUMBERS, sizes.channels, dtype=torch.float64)


def _tensors(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, ...]:
    """Returns gain, offset and running statistics, which a kernel is about to move, and counts the batch."""
    norm.num_batches_tracked.add_(1)
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


__all__ = ["BatchStatistics", "Expansion", "ExpansionGradients", "NormGradients"]
