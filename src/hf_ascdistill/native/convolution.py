"""Convolution of clips with impulse responses on a CPU, twice as fast as with torch's transforms."""

import ctypes
from functools import lru_cache

import torch

from .kernels import call, room

MOST_LANES = 16  # complex numbers in a row of the kernels, at most


class ConvolutionSizes(ctypes.Structure):
    """Sizes of a batch of clips, or of a bank of responses, and of their transforms."""

    _fields_ = [(name, ctypes.c_int) for name in ("clips", "samples", "numbers")]


def transform_size(samples: int) -> int:
    """Returns how many complex numbers hold so many real samples: a power of 2 or three times one, 16 or more."""
    needed = max(-(-samples // 2), MOST_LANES)
    powers = [MOST_LANES * 2**exponent for exponent in range(needed.bit_length())]
    return min(size for size in powers + [3 * power for power in powers] if size >= needed)


@lru_cache(maxsize=4)
def _tables(size: int) -> torch.Tensor:
    tables = room(5 * size + 2 * (2 * MOST_LANES) ** 2)
    call("convolution_tables", ConvolutionSizes(0, 0, size), tables)
    return tables


@lru_cache(maxsize=4)
def _bank_spectra(responses: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the spectra of a bank. The cache knows a bank by its identity and stays in this process."""
    spectra = responses.new_empty(len(responses), 2 * size)
    call("response_spectra", ConvolutionSizes(*responses.shape, size), responses.contiguous(), _tables(size), spectra)
    return spectra


def convolve_chosen(waveform: torch.Tensor, chosen: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
    """Convolves some clips of a batch with responses of a bank, and keeps their length.

    Args:
        waveform (`torch.Tensor`): clips on the CPU, float32 `(B, T)`.
        chosen (`torch.Tensor`): number of each clip's response, -1 for a clip that stays as it is, int64 `(B,)`.
        responses (`torch.Tensor`): bank, float32 `(n, taps)` on the CPU; its spectra are kept for the next call.

    Returns:
        `torch.Tensor`: the first T samples of the linear convolutions, `(B, T)`.

    Raises:
        ImportError: the kernels cannot be compiled, see [`load_kernels`].
    """
    clips, samples = waveform.shape
    size = transform_size(samples + responses.shape[1] - 1)
    tables, spectra, convolved = _tables(size), _bank_spectra(responses, size), waveform.new_empty(clips, samples)
    inputs = waveform.contiguous(), chosen.contiguous()
    call("convolve", ConvolutionSizes(clips, samples, size), *inputs, spectra, tables, convolved)
    return convolved


__all__ = ["convolve_chosen", "transform_size"]
