"""Augmentation of log-mel spectrograms: masks and Freq-MixStyle, on any device."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..data.columns import INPUT_VALUES

VARIANCE_OFFSET = 1e-6  # keeps the standard deviation of a constant mel bin off zero
NORMALISED_ZERO = 0.9  # (0 + 4.5) / 5: the published masks write 0 before the normalisation


@dataclass(frozen=True)
class SpectrogramMask:
    """Covers one band of mel bins and one stretch of frames with a constant (SpecAugment).

    Args:
        max_freq (`int`, *optional*, defaults to 48): the band is narrower than this many mel bins; 0: no band.
        max_time (`int`, *optional*, defaults to 0): the stretch is shorter than this many frames; 0: no stretch.
        per_clip (`bool`, *optional*, defaults to `False`): draw masks for each clip. The paper's runs drew one for
            the whole batch.
        fill_value (`float`, *optional*, defaults to 0.9): what the covered cells hold.

    Raises:
        ValueError: a bound is negative.

    Source: paper, section 3.1 (48 mel bins; 20 frames for PaSST only); Park et al., *SpecAugment*, 2019. The width is
    floor(U * max) and the start floor(U * (size - width)), with U uniform in [0, 1).
    """

    max_freq: int = field(default=48, metadata={"help": "upper bound of the frequency mask, mel bins"})
    max_time: int = field(default=0, metadata={"help": "upper bound of the time mask, frames"})
    per_clip: bool = field(default=False, metadata={"help": "one mask a clip instead of one a batch"})
    fill_value: float = field(default=NORMALISED_ZERO, metadata={"help": "value of a covered cell"})

    def __post_init__(self) -> None:
        if self.max_freq < 0 or self.max_time < 0:
            raise ValueError(f"max_freq is {self.max_freq} and max_time {self.max_time}; expected 0 or more.")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Covers parts of `input_values` `(B, M, F)`.

        Raises:
            ValueError: the spectrograms are no batch, or smaller than a bound.
        """
        if self.max_freq == 0 and self.max_time == 0:
            return batch
        spectrograms = _spectrograms_of(batch)
        clips, mels, frames = spectrograms.shape
        if self.max_freq > mels or self.max_time > frames:
            raise ValueError(
                f"masks of up to {self.max_freq} mel bins and {self.max_time} frames do not fit spectrograms of "
                f"{mels} x {frames}; lower max_freq or max_time."
            )
        masks = clips if self.per_clip else 1
        is_covered = draw_spans(masks, mels, max_width=self.max_freq)[:, :, None]
        is_covered = is_covered | draw_spans(masks, frames, max_width=self.max_time)[:, None, :]
        is_covered = is_covered.to(spectrograms.device, non_blocking=True)
        return {**batch, INPUT_VALUES: torch.where(is_covered, self.fill_value, spectrograms)}

    def scaled(self, mels: float, frames: float, *, fill_value: float) -> "SpectrogramMask":
        """Returns the mask of the same part of a spectrogram with `mels` times the bins and `frames` times the frames.

        From the same random numbers it covers the same share of both axes, up to a cell.
        """
        # never from something to 0, which would draw no random numbers
        max_freq = max(round(self.max_freq * mels), min(self.max_freq, 1))
        max_time = max(round(self.max_time * frames), min(self.max_time, 1))
        return replace(self, max_freq=max_freq, max_time=max_time, fill_value=fill_value)


def draw_spans(count: int, size: int, *, max_width: int) -> torch.Tensor:
    """Draws random spans of an axis, narrower than `max_width`.

    Args:
        count (`int`): number of spans.
        size (`int`): length of the axis.
        max_width (`int`): widths are floor(U * max_width).

    Returns:
        `torch.Tensor`: True inside of the span, bool `(count, size)`, on the CPU.
    """
    widths = (torch.rand(count, 1) * max_width).long()
    starts = (torch.rand(count, 1) * (size - widths)).long()
    positions = torch.arange(size)
    return (positions >= starts) & (positions < starts + widths)


@dataclass(frozen=True)
class FreqMixStyle:
    """Swaps per-frequency statistics between the clips of a batch (FMS), so that a device's colouring says nothing.

    Args:
        alpha (`float`, *optional*, defaults to 0.3): mixing coefficients are drawn from Beta(alpha, alpha).
        p (`float`, *optional*, defaults to 0.4): probability that a batch is mixed; one coin for the whole batch.

    Raises:
        ValueError: a setting is out of range.

    Source: paper, section 3.2; Schmid et al., *CP-JKU submission to DCASE22*, 2022. Labels and teacher logits stay.
    """

    alpha: float = field(default=0.3, metadata={"help": "Beta(alpha, alpha) of the mixing coefficients"})
    p: float = field(default=0.4, metadata={"help": "share of the batches that are mixed"})

    def __post_init__(self) -> None:
        if not self.alpha > 0 or not 0 <= self.p <= 1:
            raise ValueError(f"alpha is {self.alpha} and p {self.p}; expected alpha > 0 and p from 0 to 1.")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Mixes `input_values` `(B, M, F)`.

        Raises:
            ValueError: the spectrograms are no batch, or the batch holds a single clip.
        """
        if self.p == 0:
            return batch
        spectrograms = _spectrograms_of(batch)
        clips = len(spectrograms)
        if clips < 2:
            raise ValueError(
                "Freq-MixStyle got a batch of one clip, which has no other to mix with; use batches of two or more "
                "(dataloader_drop_last=True where the last batch of an epoch holds one clip), or set p to 0."
            )
        if torch.rand(()) >= self.p:
            return batch
        lam = torch.distributions.Beta(self.alpha, self.alpha).sample((clips,))
        lam, permutation = (draw.to(spectrograms.device, non_blocking=True) for draw in (lam, torch.randperm(clips)))
        return {**batch, INPUT_VALUES: mix_frequency_statistics(spectrograms, lam, permutation)}


def mix_frequency_statistics(spectrograms: torch.Tensor, lam: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Gives each clip's mel bins a mean and a deviation between its own and those of another clip.

    Args:
        spectrograms (`torch.Tensor`): x, `(B, M, F)`; at least two frames.
        lam (`torch.Tensor`): share of a clip's own statistics, in [0, 1], `(B,)`.
        permutation (`torch.Tensor`): number of the other clip, int64 `(B,)`.

    Returns:
        `torch.Tensor`: (x - mu) / sigma * (lam sigma + (1 - lam) sigma') + lam mu + (1 - lam) mu', `(B, M, F)`, with
        mu and sigma over time for each clip and mel bin, sigma from the unbiased variance. No gradient flows through
        the statistics.

    Raises:
        ValueError: the spectrograms have fewer than two frames.

    Source: paper, section 3.2; Zhou et al., *Domain generalization with MixStyle*, 2021.
    """
    if spectrograms.shape[-1] < 2:
        raise ValueError(f"spectrograms have {spectrograms.shape[-1]} frame(s); a variance needs at least two.")
    lam = lam[:, None, None]
    with torch.no_grad():
        # torch.var_mean over so short an axis is some twenty times slower on a CPU
        mean = spectrograms.mean(dim=-1, keepdim=True)
        squares = (spectrograms - mean).square_().sum(dim=-1, keepdim=True)
        deviation = (squares / (spectrograms.shape[-1] - 1) + VARIANCE_OFFSET).sqrt()
        gain = lam + (1 - lam) * deviation[permutation] / deviation
        offset = lam * mean + (1 - lam) * mean[permutation] - mean * gain
    return (spectrograms * gain).add_(offset)


def _spectrograms_of(batch: dict[str, Any]) -> torch.Tensor:
    spectrograms = batch[INPUT_VALUES]
    if spectrograms.ndim != 3:
        raise ValueError(f"{INPUT_VALUES} has shape {tuple(spectrograms.shape)}; expected a batch (B, M, F).")
    return spectrograms


__all__ = ["FreqMixStyle", "SpectrogramMask", "draw_spans", "mix_frequency_statistics"]
