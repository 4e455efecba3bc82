"""CP-Mobile 128K as a textbook would write it, to measure the package's network against: nothing of the package.

Contiguous memory, one module a layer, nothing in place, the global response normalisation term by term.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

STEM_CHANNELS, EXPANSION = 32, 3
# Input channels, output channels and stride (frequency, time) of each block.
BLOCKS = (
    (32, 32, (1, 1)),
    (32, 32, (2, 2)),
    (32, 32, (1, 1)),
    (32, 72, (2, 1)),
    (72, 72, (1, 1)),
    (72, 168, (1, 1)),
)


class GlobalResponseNorm(nn.Module):
    """y = gamma * x * n + beta + x; n is a channel's norm over the mean norm of all channels."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        share = norm / (norm.mean(dim=1, keepdim=True) + 1e-6)
        return self.gamma * (x * share) + self.beta + x


def conv_norm(in_channels: int, out_channels: int, size: int, **convolution) -> list[nn.Module]:
    """Returns a convolution without bias and its batch normalisation."""
    return [
        nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False, **convolution),
        nn.BatchNorm2d(out_channels),
    ]


class Block(nn.Module):
    """Expand, depthwise, project, shortcut, response normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]):
        super().__init__()
        hidden = EXPANSION * in_channels
        self.layers = nn.Sequential(
            *conv_norm(in_channels, hidden, 1),
            nn.ReLU(),
            *conv_norm(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.ReLU(),
            *conv_norm(hidden, out_channels, 1),
        )
        self.has_shortcut = in_channels == out_channels
        self.pool = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(3, stride, padding=1)
        self.response_norm = GlobalResponseNorm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        if self.has_shortcut:
            y = y + self.pool(x)
        return functional.relu(self.response_norm(y))


class CpMobile(nn.Module):
    """The network, log-mels `(B, M, F)` to logits `(B, C)`."""

    def __init__(self, classes: int = 10):
        super().__init__()
        quarter = STEM_CHANNELS // 4
        self.stem = nn.Sequential(
            *conv_norm(1, quarter, 3, stride=2),
            nn.ReLU(),
            *conv_norm(quarter, STEM_CHANNELS, 3, stride=2),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Block(*sizes) for sizes in BLOCKS))
        self.head = nn.Sequential(*conv_norm(BLOCKS[-1][1], classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x.unsqueeze(1)))).mean(dim=(2, 3))


def plain_cp_mobile(tensors: Iterable[torch.Tensor]) -> CpMobile:
    """Builds the network with copies of the tensors of a state dict, which lists them from the input to the output."""
    tensors = [tensor.clone() for tensor in tensors]
    network = CpMobile(classes=len(tensors[-2]))  # the last but one: the variances of the last normalisation
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network


__all__ = ["CpMobile", "plain_cp_mobile"]
