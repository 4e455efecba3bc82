"""The networks that are exported: waveform to log-mel, log-mel to logits, and both in one, of static operations."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from ..fusing import drop_dead_channels, fuse
from ..models.feature_extraction_asc import AscFeatureExtractor, mel_filter_bank
from ..models.modeling_cp_mobile import RESPONSE_EPS, CpMobileGlobalResponseNorm

MELS_PER_BLOCK = 32  # a triangle covers few bins: the bank is multiplied block by block along its diagonal


def radices(n_fft: int) -> tuple[int, int]:
    """Returns two even factors of `n_fft`, the second about a quarter of the first: [`PowerSpectrum`] is fastest so.

    Raises:
        ValueError: there are none.
    """
    if n_fft % 4:
        raise ValueError(f"n_fft is {n_fft}; an exported front-end needs a multiple of 4.")
    largest = max(2, math.isqrt(n_fft) // 2)
    columns = max(columns for columns in range(2, largest + 1, 2) if n_fft % (2 * columns) == 0)
    return n_fft // columns, columns


class PowerSpectrum(nn.Module):
    """Power spectrum of windowed frames, by matrix products: every runtime has fast ones, few a fast transform.

    With N = R C, sample n = C a + b and bin k = c + R d, the Fourier transform is one of length R over a, a turn by
    exp(-2 pi i b c / N), and one of length C over b (Cooley and Tukey, 1965). Frames are real, so that c up to R / 2
    is enough: bin N - k has the power of bin k.

    Args:
        window (`torch.Tensor`): `(W,)`, float64, no longer than the transform.
        n_fft (`int`): length N of the transform, samples, a multiple of 4.
        turns_tables (`bool`, *optional*, defaults to `False`): apply window and turn to the tables of the first
            transform, one for each b, and not to frames: less work where a runtime computes constants once.

    Attributes:
        bins (`torch.Tensor`): the bin that each row of the result holds, `(rows,)`, near ones together; -1 where
            another row holds it too, and for the Nyquist bin, which has no mel.

    Raises:
        ValueError: `n_fft` is no multiple of 4.
    """

    def __init__(self, window: torch.Tensor, n_fft: int, *, turns_tables: bool = False):
        super().__init__()
        self.turns_tables = turns_tables
        rows, self.columns = radices(n_fft)
        self.used_rows = -(-len(window) // self.columns)  # the zeros that fill up the transform are left out
        self.padding = self.used_rows * self.columns - len(window)
        count = torch.arange(n_fft, dtype=torch.float64)
        places, half = count[: self.columns], count[: rows // 2 + 1]
        first = 2 * math.pi / rows * torch.outer(half, count[: self.used_rows])
        turn = 2 * math.pi / n_fft * torch.outer(places, half)[:, :, None]
        window = functional.pad(window, (0, self.padding)).reshape(self.used_rows, self.columns)
        # 0, C - 1, 1, C - 2, ...: neighbours hold near bins
        harmonics = torch.stack((places, places.flip(0)), dim=1).flatten()[: self.columns]
        second = 2 * math.pi / self.columns * torch.outer(harmonics, places)
        tables = {
            "first_real": first.cos(),  # (c, a)
            "first_imaginary": -first.sin(),
            "turn_real": turn.cos(),  # (b, c, 1)
            "turn_imaginary": -turn.sin(),
            "window": window.t()[:, None],  # (b, 1, a)
            # (d, 2 b): the columns are real and imaginary part of each b
            "second_real": torch.stack((second.cos(), second.sin()), dim=2).flatten(1),
            "second_imaginary": torch.stack((-second.sin(), second.cos()), dim=2).flatten(1),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float().contiguous(), persistent=False)
        bins = half + rows * harmonics[:, None]  # (C, R / 2 + 1)
        is_second = (harmonics[:, None] >= self.columns // 2) & ((half == 0) | (half == rows // 2))
        bins = torch.minimum(bins, n_fft - bins).masked_fill(is_second, -1)
        self.register_buffer("bins", bins.long().flatten(), persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        batch, _, count = frames.shape
        frames = functional.pad(frames, (0, 0, 0, self.padding)) if self.padding else frames
        # (B, W, F) -> (B, b, a, F)
        frames = frames.reshape(batch, self.used_rows, self.columns, count).transpose(1, 2)
        if self.turns_tables:
            turned = self._turned(self.first_real * self.window, self.first_imaginary * self.window) @ frames
        else:
            frames = frames * self.window.transpose(1, 2)
            turned = self._turned(self.first_real @ frames, self.first_imaginary @ frames)
        turned = turned.reshape(batch, 2 * self.columns, -1)  # (B, 2 b, c F)
        real, imaginary = self.second_real @ turned, self.second_imaginary @ turned
        return (real * real + imaginary * imaginary).reshape(batch, -1, count)  # (B, C (R / 2 + 1), F)

    def _turned(self, real: torch.Tensor, imaginary: torch.Tensor) -> torch.Tensor:
        """Turns the phases of numbers `(..., b, c, n)`: `(..., b, 2 c, n)`, real parts before imaginary ones."""
        turned_real = real * self.turn_real - imaginary * self.turn_imaginary
        turned_imaginary = real * self.turn_imaginary + imaginary * self.turn_real
        return torch.cat((turned_real, turned_imaginary), dim=-2)


class FourierPower(nn.Module):
    """Power spectrum of windowed frames by torch's own transform, in place of [`PowerSpectrum`].

    Args:
        window (`torch.Tensor`): `(W,)`.
        n_fft (`int`): length of the transform, samples.

    Attributes:
        bins (`torch.Tensor`): the bin of each row of the result, all but the Nyquist one, which has no mel.
    """

    def __init__(self, window: torch.Tensor, n_fft: int):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("bins", torch.arange(n_fft // 2), persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(frames.transpose(1, 2) * self.window, n=self.n_fft)  # (B, W, F) -> (B, F, bins)
        return torch.view_as_real(spectrum).square().sum(-1)[..., :-1].transpose(1, 2)


class LogMel(nn.Module):
    """The log-mels of [`AscFeatureExtractor`], in operations that any runtime has, for any batch and length.

    Args:
        extractor ([`AscFeatureExtractor`]): its settings.
        power_spectrum (`Callable`, *optional*, defaults to [`PowerSpectrum`]): builds the transform from window and
            `n_fft`.

    Raises:
        ValueError: `n_fft` is no multiple of 4.
    """

    def __init__(
        self,
        extractor: AscFeatureExtractor,
        power_spectrum: Callable[[torch.Tensor, int], nn.Module] = PowerSpectrum,
    ):
        super().__init__()
        self.extractor = extractor
        window = torch.hann_window(extractor.win_length, periodic=False, dtype=torch.float64)
        self.power_spectrum = power_spectrum(window, extractor.n_fft)
        settings = {name: getattr(extractor, name) for name in ("sampling_rate", "fmin", "fmax")}
        bank = mel_filter_bank(extractor.n_mels, extractor.n_fft, **settings)
        bins = self.power_spectrum.bins
        bank = bank[:, bins.clamp_min(0)] * (bins >= 0)  # a column for each row of the power spectrum
        self.rows = []
        for index, mels in enumerate(bank.split(MELS_PER_BLOCK)):
            used = mels.any(0).nonzero()[:, 0].tolist() or [0]
            self.rows.append(slice(used[0], used[-1] + 1))
            self.register_buffer(f"block_{index}", mels[:, self.rows[-1]].contiguous(), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        settings = self.extractor
        emphasised = waveform[:, 1:] - settings.preemphasis * waveform[:, :-1]  # (B, T) -> (B, T - 1)
        power = self.power_spectrum(self._frames(emphasised))  # (B, W, F) -> (B, rows, F)
        blocks = [getattr(self, f"block_{index}") @ power[:, rows] for index, rows in enumerate(self.rows)]
        mels = torch.cat(blocks, dim=1)  # (B, M, F)
        return ((mels + settings.log_offset).log() + settings.shift) / settings.scale

    def _frames(self, signal: torch.Tensor) -> torch.Tensor:
        """Cuts frames around each multiple of the hop out of the reflected signal, as concatenated hops: (B, W, F)."""
        window, hop = self.extractor.win_length, self.extractor.hop_length
        count = signal.shape[1] // hop + 1
        per_frame = -(-window // hop)
        hops = functional.pad(self._reflected(signal), (0, hop * per_frame))[:, : (count + per_frame - 1) * hop]
        hops = hops.reshape(signal.shape[0], count + per_frame - 1, hop).transpose(1, 2)
        widths = [min(hop, window - hop * shift) for shift in range(per_frame)]
        return torch.cat([hops[:, :width, shift : shift + count] for shift, width in enumerate(widths)], dim=1)

    def _reflected(self, signal: torch.Tensor) -> torch.Tensor:
        """Continues the signal `(B, T)` by half a window at both ends."""
        window = self.extractor.win_length
        return functional.pad(signal[:, None], ((window + 1) // 2, window // 2), mode="reflect").squeeze(1)


class FourierLogMel(LogMel):
    """[`LogMel`] by [`FourierPower`], with the samples of a frame side by side.

    Args:
        extractor ([`AscFeatureExtractor`]): its settings.
    """

    def __init__(self, extractor: AscFeatureExtractor):
        super().__init__(extractor, FourierPower)

    def _frames(self, signal: torch.Tensor) -> torch.Tensor:
        frames = self._reflected(signal).unfold(1, self.extractor.win_length, self.extractor.hop_length)
        return frames.transpose(1, 2)  # (B, F, W) -> (B, W, F)


class ResponseNorm(nn.Module):
    """A [`CpMobileGlobalResponseNorm`] in the fewest operations, without what only its gradient needs.

    Args:
        norm ([`CpMobileGlobalResponseNorm`]): its gain and offset are shared.
    """

    def __init__(self, norm: CpMobileGlobalResponseNorm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        norm = (hidden_states * hidden_states).sum(dim=(2, 3), keepdim=True).sqrt()  # a square becomes a slow power
        share = self.weight / (norm.mean(dim=1, keepdim=True) + RESPONSE_EPS)
        return hidden_states * (1 + norm * share) + self.bias


class MelToLogits(nn.Module):
    """A folded classifier without dead channels and output class: log-mel `(B, M, F)` to logits `(B, C)`.

    Args:
        model (`nn.Module`): a classifier of this package; it is copied.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = drop_dead_channels(fuse(model)).float().cpu()
        for name, module in list(self.model.named_modules()):
            if isinstance(module, CpMobileGlobalResponseNorm):
                self.model.set_submodule(name, ResponseNorm(module))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits


class WaveformToProbabilities(nn.Module):
    """Front-end, classifier and softmax: waveform `(B, T)` to probabilities `(B, C)`.

    Args:
        model (`nn.Module`): a classifier of this package; it is copied.
        extractor ([`AscFeatureExtractor`]): its front-end.
        log_mel (`Callable`, *optional*, defaults to [`LogMel`]): builds the front-end from the extractor.

    Raises:
        ValueError: `n_fft` is no multiple of 4.
    """

    def __init__(
        self,
        model: nn.Module,
        extractor: AscFeatureExtractor,
        log_mel: Callable[[AscFeatureExtractor], nn.Module] = LogMel,
    ):
        super().__init__()
        self.log_mel = log_mel(extractor)
        self.mel_to_logits = MelToLogits(model)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.mel_to_logits(self.log_mel(waveform)).softmax(1)


__all__ = [
    "FourierLogMel",
    "FourierPower",
    "LogMel",
    "MelToLogits",
    "PowerSpectrum",
    "ResponseNorm",
    "WaveformToProbabilities",
    "radices",
]
