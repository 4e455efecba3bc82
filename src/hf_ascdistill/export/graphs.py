"""The networks that are exported: waveform to log-mel, log-mel to logits, and both in one, of static operations."""

import math

import torch
from torch import nn
from torch.nn import functional

from ..fusing import drop_dead_channels, fuse
from ..models.feature_extraction_asc import AscFeatureExtractor, mel_filter_bank

MELS_PER_BLOCK = 32  # a triangle covers few bins: the bank is multiplied block by block along its diagonal


def radices(n_fft: int) -> tuple[int, int]:
    """Returns two even factors of `n_fft`, as near to each other as can be.

    Raises:
        ValueError: there are none.
    """
    rows = max((rows for rows in range(2, math.isqrt(n_fft) + 1, 2) if n_fft % (2 * rows) == 0), default=None)
    if rows is None:
        raise ValueError(f"n_fft is {n_fft}; an exported front-end needs a multiple of 4.")
    return rows, n_fft // rows


class PowerSpectrum(nn.Module):
    """Power spectrum of windowed frames, by two matrix products with a turn of phases between them.

    With N = R C, sample n = C a + b and bin k = c + R d, the Fourier transform is one of length R over a, a turn by
    exp(-2 pi i b c / N), and one of length C over b (Cooley and Tukey, 1965). Frames are real, so that c up to R / 2
    is enough: bin N - k has the power of bin k. Every runtime multiplies matrices fast; few have a fast transform.

    Args:
        window (`torch.Tensor`): `(W,)`, float64, no longer than the transform.
        n_fft (`int`): length N of the transform, samples, a multiple of 4.

    Raises:
        ValueError: `n_fft` is no multiple of 4.
    """

    def __init__(self, window: torch.Tensor, n_fft: int):
        super().__init__()
        self.rows, self.columns = radices(n_fft)
        used_rows = -(-len(window) // self.columns)  # the zeros that fill up the transform are left out
        self.padding = used_rows * self.columns - len(window)
        count = torch.arange(n_fft, dtype=torch.float64)
        half, columns = count[: self.rows // 2 + 1], count[: self.columns]
        first = 2 * math.pi / self.rows * torch.outer(half, count[:used_rows])
        turn = 2 * math.pi / n_fft * torch.outer(half, columns)
        bins = torch.cat(
            (columns[: self.columns // 2], columns[self.columns // 2 :].flip(0))
        )  # the mirrored ones last
        second = 2 * math.pi / self.columns * torch.outer(columns, bins)
        tables = {
            "window": functional.pad(window, (0, self.padding)),
            "first": torch.cat((first.cos(), -first.sin())),
            "turn_real": turn.cos(),
            "turn_imaginary": -turn.sin(),
            "second_real": second.cos(),
            "second_sum": second.cos() - second.sin(),
            "second_difference": -second.sin() - second.cos(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)
        self.register_buffer("mirrored_rows", torch.arange(self.rows // 2 - 1, 0, -1), persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        batch, count = frames.shape[:2]
        frames = functional.pad(frames, (0, self.padding)) if self.padding else frames
        frames = (frames * self.window).reshape(batch, count, -1, self.columns)  # (B, F, W) -> (B, F, W / C, C)
        real, imaginary = (self.first @ frames).chunk(2, dim=2)  # (B, F, R / 2 + 1, C)
        turned_real = real * self.turn_real - imaginary * self.turn_imaginary
        turned_imaginary = real * self.turn_imaginary + imaginary * self.turn_real
        # a product of complex matrices by three real ones (Gauss)
        common = (turned_real + turned_imaginary) @ self.second_real
        real = common - turned_imaginary @ self.second_sum
        imaginary = common + turned_real @ self.second_difference
        power = real * real + imaginary * imaginary
        lower, upper = power.chunk(2, dim=3)
        upper = upper.index_select(2, self.mirrored_rows)  # many runtimes reverse an axis slowly
        power = torch.cat((lower, upper), dim=2).transpose(2, 3)  # (B, F, C / 2, R)
        return power.reshape(batch, count, -1)  # (B, F, N / 2): the Nyquist bin has no mel


class LogMel(nn.Module):
    """The log-mels of [`AscFeatureExtractor`], in operations that any runtime has, for any batch and length.

    Args:
        extractor ([`AscFeatureExtractor`]): its settings.

    Raises:
        ValueError: `n_fft` is no multiple of 4.
    """

    def __init__(self, extractor: AscFeatureExtractor):
        super().__init__()
        self.extractor = extractor
        window = torch.hann_window(extractor.win_length, periodic=False, dtype=torch.float64)
        self.power_spectrum = PowerSpectrum(window, extractor.n_fft)
        settings = {name: getattr(extractor, name) for name in ("sampling_rate", "fmin", "fmax")}
        bank = mel_filter_bank(extractor.n_mels, extractor.n_fft, **settings)
        self.bins = []
        for index, mels in enumerate(bank.split(MELS_PER_BLOCK)):
            used = mels.any(0).nonzero()[:, 0].tolist() or [0]
            self.bins.append(slice(used[0], used[-1] + 1))
            self.register_buffer(f"block_{index}", mels[:, self.bins[-1]].t().contiguous(), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        settings = self.extractor
        emphasised = waveform[:, 1:] - settings.preemphasis * waveform[:, :-1]  # (B, T) -> (B, T - 1)
        power = self.power_spectrum(self._frames(emphasised))  # (B, F, W) -> (B, F, N / 2)
        blocks = [power[..., bins] @ getattr(self, f"block_{index}") for index, bins in enumerate(self.bins)]
        mels = torch.cat(blocks, dim=2).transpose(1, 2)  # (B, M, F)
        return ((mels + settings.log_offset).log() + settings.shift) / settings.scale

    def _frames(self, signal: torch.Tensor) -> torch.Tensor:
        """Cuts frames around each multiple of the hop out of the reflected signal, as concatenated hops."""
        window, hop = self.extractor.win_length, self.extractor.hop_length
        count = signal.shape[1] // hop + 1
        per_frame = -(-window // hop)
        padded = functional.pad(signal[:, None], ((window + 1) // 2, window // 2), mode="reflect")[:, 0]
        hops = functional.pad(padded, (0, hop * per_frame))[:, : (count + per_frame - 1) * hop]
        hops = hops.reshape(signal.shape[0], count + per_frame - 1, hop)
        widths = [min(hop, window - hop * shift) for shift in range(per_frame)]
        return torch.cat([hops[:, shift : shift + count, :width] for shift, width in enumerate(widths)], dim=2)


class MelToLogits(nn.Module):
    """A folded classifier without dead channels and output class: log-mel `(B, M, F)` to logits `(B, C)`.

    Args:
        model (`nn.Module`): a classifier of this package; it is copied.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = drop_dead_channels(fuse(model)).float().cpu()

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits


class WaveformToProbabilities(nn.Module):
    """Front-end, classifier and softmax: waveform `(B, T)` to probabilities `(B, C)`.

    Args:
        model (`nn.Module`): a classifier of this package; it is copied.
        extractor ([`AscFeatureExtractor`]): its front-end.

    Raises:
        ValueError: `n_fft` is no multiple of 4.
    """

    def __init__(self, model: nn.Module, extractor: AscFeatureExtractor):
        super().__init__()
        self.log_mel = LogMel(extractor)
        self.mel_to_logits = MelToLogits(model)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.mel_to_logits(self.log_mel(waveform)).softmax(1)


__all__ = ["LogMel", "MelToLogits", "PowerSpectrum", "WaveformToProbabilities", "radices"]
