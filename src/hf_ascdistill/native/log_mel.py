"""Log-mel spectrograms on a CPU, faster than with torch's transforms."""

import ctypes
import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from .kernels import call, room

SHORTEST = 8  # samples; a window of fewer has too few to be reflected


class LogMelSettings(ctypes.Structure):
    """What the kernel works on; `lowest` is fmin, and `step` the distance between filters, in mel."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("clips", "samples", "n_fft", "win_length", "hop_length", "n_mels")),
        *((name, ctypes.c_float) for name in ("preemphasis", "log_offset", "shift", "scale")),
        *((name, ctypes.c_double) for name in ("lowest", "step")),
    ]


class _Tables(NamedTuple):
    """What log_mel.cpp says of them."""

    window: torch.Tensor
    mels: torch.Tensor
    turns: torch.Tensor
    half_turns: torch.Tensor
    row_of: torch.Tensor
    order: torch.Tensor


def _hertz_to_mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def can_transform(n_fft: int) -> bool:
    """Returns whether the kernel has transforms of this length, twice a product of 2 and 3.

    Args:
        n_fft (`int`): FFT length, samples, even.
    """
    rest = n_fft // 2
    for factor in (2, 3):
        while rest % factor == 0:
            rest //= factor
    return rest == 1 and n_fft >= SHORTEST


@lru_cache(maxsize=8)
def _tables(n_fft: int, win_length: int, sampling_rate: int) -> _Tables:
    rows = n_fft // 2
    double = {"dtype": torch.float64, "device": "cpu"}
    frequencies = torch.arange(rows, **double) * (sampling_rate / n_fft)
    tables = _Tables(
        window=torch.hann_window(win_length, periodic=False, **double).div_(2).float(),
        mels=1127.0 * torch.log1p(frequencies / 700.0),
        turns=room(n_fft),
        half_turns=room(rows + 2),
        row_of=room(rows, dtype=torch.int32),
        order=room(n_fft // 4, dtype=torch.int32),
    )
    call("log_mel_tables", LogMelSettings(n_fft=n_fft), *tables[2:])
    return tables


def log_mel(extractor: Any, waveform: torch.Tensor, *, fmax: float | None = None) -> torch.Tensor:
    """Computes what the extractor's `log_mel` does, to rounding.

    Args:
        extractor ([`AscFeatureExtractor`]): its settings; see [`can_transform`] for `n_fft`.
        waveform (`torch.Tensor`): mono clips on the CPU, float32 `(B, T)`, `n_fft` samples or more.
        fmax (`float`, *optional*): upper edge of the mel bank, Hz; unset: the extractor's.

    Returns:
        `torch.Tensor`: float32 `(B, M, F)`, F = (T - 1) // hop_length + 1.

    Raises:
        ImportError: the kernels cannot be compiled, see [`load_kernels`].
    """
    clips, samples = waveform.shape
    names = ("n_fft", "win_length", "hop_length", "n_mels", "preemphasis", "log_offset", "shift", "scale")
    lowest, highest = (_hertz_to_mel(edge) for edge in (extractor.fmin, extractor.fmax if fmax is None else fmax))
    settings = LogMelSettings(
        clips=clips,
        samples=samples,
        lowest=lowest,
        step=(highest - lowest) / (extractor.n_mels + 1),
        **{name: getattr(extractor, name) for name in names},
    )
    tables = _tables(extractor.n_fft, extractor.win_length, extractor.sampling_rate)
    log_mels = waveform.new_empty(clips, extractor.n_mels, (samples - 1) // extractor.hop_length + 1)
    call("log_mel", settings, waveform.contiguous(), *tables, log_mels)
    return log_mels


__all__ = ["can_transform", "log_mel"]
