"""Convolution of clips with impulse responses on a CPU, twice as fast as with torch's transforms."""

import ctypes
from functools import lru_cache

import torch

from .kernels import call

LINE = 16  # complex numbers in a row of the kernels


class ConvolutionSizes(ctypes.Structure):
    """Sizes of a batch of clips, or of a bank of responses, and of their transforms."""

    _fields_ = [(name, ctypes.c_int) for name in ("clips", "samples", "rows")]


def transform_rows(samples: int) -> int:
    """Returns how many rows of a transform hold so many real samples: a power of 2, or three times one."""
    needed = -(-samples // (2 * LINE))
    powers = [2**exponent for exponent in range(needed.bit_length() + 1)]
    return min(rows for rows in powers + [3 * power for power in powers] if rows >= needed)


@lru_cache(maxsize=4)
def _tables(rows: int) -> torch.Tensor:
    tables = torch.empty(4 * LINE * rows + 2 * (2 * LINE) ** 2 + 4 * rows)
    call("convolution_tables", ConvolutionSizes(0, 0, rows), tables)
    return tables


@lru_cache(maxsize=4)
def _bank_spectra(responses: torch.Tensor, rows: int) -> torch.Tensor:
    """Returns the spectra of a bank. The cache knows a bank by its identity and stays in this process."""
    spectra = responses.new_empty(len(responses), rows, 2 * LINE)
    call("response_spectra", ConvolutionSizes(*responses.shape, rows), responses.contiguous(), _tables(rows), spectra)
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
    rows = transform_rows(samples + responses.shape[1] - 1)
    tables, spectra, convolved = _tables(rows), _bank_spectra(responses, rows), waveform.new_empty(clips, samples)
    inputs = waveform.contiguous(), chosen.contiguous()
    call("convolve", ConvolutionSizes(clips, samples, rows), *inputs, spectra, tables, convolved)
    return convolved


__all__ = ["convolve_chosen", "transform_rows"]
