"""Batch normalisation in training, worked out from moments of the batch."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from ..models.modeling_cp_mobile import CpMobileConvNorm
from .kernels import padded


class NormGradients(NamedTuple):
    """Gradients of a batch normalisation.

    Args:
        weight (`torch.Tensor`): that of the gain, `(C,)`.
        bias (`torch.Tensor`): that of the offset, `(C,)`.
        line (`torch.Tensor`): coefficients of that of the input, `(3, C)`: `line[0] * g + line[1] * input + line[2]`
            where g is the gradient of the result.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    line: torch.Tensor


@dataclass
class BatchStatistics:
    """What a batch normalisation knows of its batch, in float64.

    Args:
        norm (`nn.BatchNorm2d`): the layer.
        mean (`torch.Tensor`): mean of each channel, `(C,)`.
        variance (`torch.Tensor`): biased variance of each channel, `(C,)`.
        count (`int`): numbers in a channel.
    """

    norm: nn.BatchNorm2d
    mean: torch.Tensor
    variance: torch.Tensor
    count: int
    inverse: torch.Tensor = field(init=False)
    scale: torch.Tensor = field(init=False)  # the result is input * scale + shift
    shift: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.inverse = torch.rsqrt(self.variance + self.norm.eps)
        self.scale = self.inverse * self.norm.weight.detach()
        self.shift = self.norm.bias.detach() - self.mean * self.scale

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, maps: torch.Tensor, moments: torch.Tensor) -> "BatchStatistics":
        """Joins the moments of clips to those of the batch (Chan et al., 1979).

        Args:
            norm (`nn.BatchNorm2d`): the layer.
            maps (`torch.Tensor`): its input, `(B, M, F, C)`, perhaps with padded channels.
            moments (`torch.Tensor`): mean and sum of squared deviations of each clip, `(B, 2, C)`,
                float64.
        """
        clips, height, width, _ = maps.shape
        means, squares = moments[..., : norm.num_features].unbind(1)
        mean = means.mean(0)
        variance = (squares.sum(0) / (height * width) + (means - mean).square().sum(0)) / clips
        return cls(norm, mean, variance, clips * height * width)

    def folded(self, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns scale and shift in float32, padded with zeros to so many channels."""
        return padded(self.scale, channels), padded(self.shift, channels)

    def gradients(self, total: torch.Tensor, product: torch.Tensor) -> NormGradients:
        """Works out the gradients from sums over the batch.

        Args:
            total (`torch.Tensor`): sums of the gradient g of the result, `(C,)`.
            product (`torch.Tensor`): sums of g times the distance of the input from its mean, `(C,)`.
        """
        weight = product * self.inverse
        slope = -self.scale * self.inverse * weight / self.count
        offset = -self.scale * total / self.count - slope * self.mean
        return NormGradients(weight, total, torch.stack([self.scale, slope, offset]))

    def update_running(self) -> None:
        """Moves the running statistics of the layer towards the batch's, as the layer does itself."""
        unbiased = self.variance * (self.count / (self.count - 1))
        self.norm.running_mean.lerp_(self.mean.float(), self.norm.momentum)
        self.norm.running_var.lerp_(unbiased.float(), self.norm.momentum)
        self.norm.num_batches_tracked.add_(1)


@dataclass
class Expansion:
    """A product x W and its batch normalisation, worked out without the product.

    With x the inputs of all n places, `(n, C)`, mean and variance of x W follow from the mean m and the covariance K
    of x: they are m W and the diagonal of W^T K W. The gradient of x W is a line in each channel, s g + t (x W) + u,
    where g is that of the normalisation's result, so that

        dW = s x^T g + n t (K + m m^T) W + n m u        dx = g (s W)^T + x (t W) W^T + W u

    Args:
        mean (`torch.Tensor`): mean of x, `(C,)`, float64.
        covariance (`torch.Tensor`): its covariance, `(C, C)`, float64.
        weight (`torch.Tensor`): W, `(C, E)`, float64.
        norm ([`BatchStatistics`]): of x W.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    weight: torch.Tensor
    norm: BatchStatistics

    @classmethod
    def of(
        cls, layer: CpMobileConvNorm, shift: torch.Tensor, *, products: torch.Tensor, sums: torch.Tensor, places: int
    ) -> "Expansion":
        """Works it out for a convolution and its normalisation, from sums over all places.

        Args:
            layer (`CpMobileConvNorm`): both.
            shift (`torch.Tensor`): about the mean of x, `(C,)`: sums of large squares would lose the small covariance.
            products (`torch.Tensor`): sums of d^T d, where d is x - shift, `(C, C)`, float64.
            sums (`torch.Tensor`): sums of d, `(C,)`, float64.
            places (`int`): how many.
        """
        weight = layer.conv.weight.detach().flatten(1).t().double()
        distance = sums / places
        mean, covariance = shift + distance, products / places - torch.outer(distance, distance)
        variance = (weight * (covariance @ weight)).sum(0).clamp_min(0)
        return cls(mean, covariance, weight, BatchStatistics(layer.norm, mean @ weight, variance, places))

    def folded(self, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns weight `(C, hidden)` and bias of both in one, float32."""
        return padded(self.weight * self.norm.scale, hidden), padded(self.norm.shift, hidden)

    def gradients(self, product: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, NormGradients]:
        """Works out the gradients of W, `(C, E)`, and of the normalisation.

        Args:
            product (`torch.Tensor`): x^T g, `(C, E)`.
            total (`torch.Tensor`): sums of g, `(E,)`.
        """
        norm = self.norm.gradients(total, (self.weight * product).sum(0) - self.norm.mean * total)
        scale, slope, offset = norm.line
        moments = self.covariance @ self.weight + torch.outer(self.mean, self.norm.mean)
        return scale * product + self.norm.count * (slope * moments + torch.outer(self.mean, offset)), norm


__all__ = ["BatchStatistics", "Expansion", "NormGradients"]
