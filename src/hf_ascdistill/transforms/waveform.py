"""Augmentation of waveforms: device impulse responses and circular shifts, on any device."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from ..data.columns import DEVICE_IDS, WAVEFORM
from ..native.convolution import convolve_chosen
from ..native.kernels import can_use_kernels


def convolve(waveform: torch.Tensor, impulse_responses: torch.Tensor) -> torch.Tensor:
    """Convolves each clip with an impulse response and keeps the clip's length, without changing the energy's scale.

    Args:
        waveform (`torch.Tensor`): clips, float32 `(B, T)`.
        impulse_responses (`torch.Tensor`): one response per clip, `(B, taps)`, or one for all of them, `(1, taps)`.

    Returns:
        `torch.Tensor`: the first T samples of the linear convolution, float32 `(B, T)`.

    Raises:
        ValueError: the shapes do not fit.
    """
    if waveform.ndim != 2 or impulse_responses.ndim != 2 or len(impulse_responses) not in (1, len(waveform)):
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, impulse_responses {tuple(impulse_responses.shape)}; "
            "expected (B, T) and (B, taps) or (1, taps)."
        )
    length = _fast_length(waveform.shape[1] + impulse_responses.shape[1] - 1)
    spectra = torch.fft.rfft(waveform.float(), n=length).mul_(torch.fft.rfft(impulse_responses.float(), n=length))
    return torch.fft.irfft(spectra, n=length)[:, : waveform.shape[1]]


@lru_cache(maxsize=64)
def _fast_length(minimum: int) -> int:
    """Returns the smallest even length >= minimum without prime factors above 5, which FFTs are fast at."""
    length = minimum + minimum % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def _chunk_and_multiple(waveform: torch.Tensor) -> tuple[int, int]:
    """Returns how many clips of a batch are transformed at once at most, and of what their number is a multiple.

    A CPU's cache holds few, and each number of fewer is planned anew. A GPU takes all; its library plans anew for each
    number too, so that there are to be few of them.
    """
    return (32, 1) if waveform.device.type == "cpu" else (len(waveform), 32)


@lru_cache(maxsize=4)
def _bank_spectra(impulse_responses: torch.Tensor, length: int, device: torch.device) -> torch.Tensor:
    """Returns the spectra of a bank on a device. The cache knows a bank by its identity and stays in this process."""
    return torch.fft.rfft(impulse_responses.to(device), n=length)


@dataclass(frozen=True, eq=False)
class DeviceImpulseResponse:
    """Makes clips sound as if another device had recorded them (DIR): convolves some with an impulse response.

    Args:
        impulse_responses (`torch.Tensor`): bank, float32 `(n, taps)`; shorter responses are padded with zeros.
        p (`float`, *optional*, defaults to 0.6): probability that a clip is convolved.
        device_ids_augmented (`tuple[int, ...]`, *optional*): ids of the devices whose clips may be convolved; unset:
            all of them, as the paper says; the authors' runs took device a only.
        native_kernels (`bool`, *optional*, defaults to `True`): on a CPU, convolve in kernels that GCC compiles at the
            first use: twice as fast, the same to rounding. Without GCC a message says so, and torch does it.

    Raises:
        ValueError: the bank is not a non-empty finite `(n, taps)` tensor, or a setting is out of range.

    Source: paper, section 3.2. Each clip draws its response uniformly; label and device id stay, and so does the level
    that the response gives the clip.
    """

    impulse_responses: torch.Tensor = field(repr=False)
    p: float = field(default=0.6, metadata={"help": "probability that a clip is convolved"})
    device_ids_augmented: tuple[int, ...] | None = field(
        default=None, metadata={"help": "devices whose clips may be convolved; unset: all"}
    )
    native_kernels: bool = field(default=True, metadata={"help": "on a CPU, convolve in compiled kernels: faster"})

    def __post_init__(self) -> None:
        bank = self.impulse_responses
        if bank.ndim != 2 or not bank.numel() or bank.dtype != torch.float32:
            raise ValueError(
                f"impulse_responses are {bank.dtype} of shape {tuple(bank.shape)}; expected float32 (n, taps)."
            )
        if not torch.isfinite(bank).all():
            raise ValueError("impulse_responses hold NaN or infinite taps; remove the broken responses.")
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is {self.p}; expected a probability, from 0 to 1.")
        if self.device_ids_augmented is not None and not self.device_ids_augmented:
            raise ValueError("device_ids_augmented is empty; name devices, or leave it unset for all of them.")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convolves the chosen clips of `waveform` `(B, T)`.

        Args:
            batch (`dict`): `waveform`, and `device_ids` `(B,)` where `device_ids_augmented` is set.

        Raises:
            ValueError: the waveform is not a batch, or `device_ids` are missing.
        """
        if self.p == 0:
            return batch
        waveform = _waveform_of(batch).float()
        rows = (torch.rand(len(waveform)) < self.p).nonzero()[:, 0]
        responses = torch.randint(len(self.impulse_responses), (len(waveform),))[rows]
        if not len(rows):
            return batch
        augmented = self._augment(waveform, rows, responses)
        if self.device_ids_augmented is not None:
            # chosen here and not before: to read the ids would be to wait for the accelerator
            is_eligible = self._is_eligible(batch).to(waveform.device, non_blocking=True)
            augmented = torch.where(is_eligible[:, None], augmented, waveform)
        return {**batch, WAVEFORM: augmented}

    def _is_eligible(self, batch: dict[str, Any]) -> torch.Tensor:
        """Returns which clips come from a device whose clips may be convolved, (B,)."""
        if DEVICE_IDS not in batch:
            raise ValueError(
                f"the batch has no {DEVICE_IDS}, but only clips of devices {self.device_ids_augmented} may be "
                f"convolved; keep the column {DEVICE_IDS}, or leave device_ids_augmented unset."
            )
        ids = batch[DEVICE_IDS]
        return torch.stack([ids == device for device in self.device_ids_augmented]).any(dim=0)

    def _augment(self, waveform: torch.Tensor, rows: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """Returns all clips, those of `rows` convolved with the responses of these numbers; both lie on the CPU."""
        is_on_cpu = waveform.device.type == "cpu"
        can_be_native = self.native_kernels and is_on_cpu and self.impulse_responses.device.type == "cpu"
        if can_be_native and not waveform.requires_grad and can_use_kernels():
            chosen = torch.full((len(waveform),), -1, device="cpu").index_copy_(0, rows, responses)
            return convolve_chosen(waveform, chosen, self.impulse_responses)
        length = _fast_length(waveform.shape[1] + self.impulse_responses.shape[1] - 1)
        bank = _bank_spectra(self.impulse_responses, length, waveform.device)
        chunk, multiple = _chunk_and_multiple(waveform)
        augmented, samples = waveform.clone(), waveform.shape[1]
        padded = waveform.new_zeros((min(chunk, len(waveform)), length))  # clips are written, zeros stay
        for row, response in zip(rows.split(chunk), responses.split(chunk), strict=True):
            row = row.to(waveform.device, non_blocking=True)
            response = response.to(waveform.device, non_blocking=True)
            clips = padded[: -(-len(row) // multiple) * multiple]
            clips[: len(row), :samples] = waveform.index_select(0, row)
            spectra = torch.fft.rfft(clips)
            spectra[: len(row)].mul_(bank.index_select(0, response))
            augmented.index_copy_(0, row, torch.fft.irfft(spectra, n=length)[: len(row), :samples])
        return augmented


@dataclass(frozen=True)
class TimeRoll:
    """Shifts each clip circularly by its own random number of samples.

    Args:
        max_shift (`int`, *optional*, defaults to 4000): largest shift to either side, samples at 32 kHz.

    Raises:
        ValueError: `max_shift` is negative.

    Source: paper, section 3.1: 4,000 samples for the CNNs, 10,000 for PaSST.
    """

    max_shift: int = field(default=4000, metadata={"help": "largest circular shift in samples"})

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise ValueError(f"max_shift is {self.max_shift}; expected a number of samples, 0 or more.")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Shifts `waveform` `(B, T)`.

        Raises:
            ValueError: the waveform is not a batch.
        """
        if self.max_shift == 0:
            return batch
        waveform = _waveform_of(batch)
        shifts = torch.randint(-self.max_shift, self.max_shift + 1, (len(waveform),))
        return {**batch, WAVEFORM: roll(waveform, shifts.to(waveform.device, non_blocking=True))}


def roll(waveform: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Shifts each clip circularly, to later times for positive numbers, as `torch.roll` does for one.

    Args:
        waveform (`torch.Tensor`): clips, `(B, T)`.
        shifts (`torch.Tensor`): samples, int64 `(B,)`, on the waveform's device.

    Returns:
        `torch.Tensor`: `(B, T)`.
    """
    clips, samples = waveform.shape
    if waveform.device.type == "cpu" and not waveform.requires_grad:  # where the shifts can be read without a wait
        rolled = torch.empty_like(waveform)
        for to, clip, start in zip(rolled, waveform, (-shifts % samples).tolist(), strict=True):
            torch.cat((clip[start:], clip[:start]), out=to)
        return rolled
    # every shift of a clip is a window of the clip said twice; a gather of single samples is some three times slower
    windows = torch.cat((waveform, waveform), dim=1).unfold(1, samples, 1)
    return windows[torch.arange(clips, device=waveform.device), -shifts % samples]


def _waveform_of(batch: dict[str, Any]) -> torch.Tensor:
    waveform = batch[WAVEFORM]
    if waveform.ndim != 2:
        raise ValueError(f"{WAVEFORM} has shape {tuple(waveform.shape)}; expected a batch of mono clips, (B, T).")
    return waveform


__all__ = ["DeviceImpulseResponse", "TimeRoll", "convolve", "roll"]
