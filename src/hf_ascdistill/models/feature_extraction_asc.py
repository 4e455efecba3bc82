"""Turns waveforms into the log-mel spectrograms that acoustic scene classifiers read, on any device."""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The front-ends of the paper's three architectures, and of PaSST before its fine-tuning; all else is common to them.
PRESETS: dict[str, dict[str, int]] = {
    "cp-mobile": {"n_fft": 4096, "win_length": 3072, "hop_length": 500, "n_mels": 256},
    "cp-resnet": {"n_fft": 4096, "win_length": 3072, "hop_length": 750, "n_mels": 256},
    "passt": {"n_fft": 1024, "win_length": 800, "hop_length": 320, "n_mels": 128},
    "passt-audioset": {"n_fft": 1024, "win_length": 800, "hop_length": 320, "n_mels": 128, "fmax": 15_000},
}
# Keys that transformers writes beside the settings.
_METADATA = frozenset({"auto_map", "custom_pipelines", "feature_extractor_type", "processor_class"})

_MELS_PER_BLOCK = 16  # a triangle covers few bins, so the bank is multiplied block by block along its diagonal
_MAX_BANKS = 1024  # the training jitter of fmax draws from 1,000 of them; those in use stay, up to 280 kB each
# On a CPU the work of one chunk has to stay in the cache; elsewhere only memory bounds it (about 0.7 GB).
_SAMPLES_PER_CHUNK_CPU = 2**21
_SAMPLES_PER_CHUNK = 2**26


class _MelScale(NamedTuple):
    """The settings that a mel filter bank follows from; see [`mel_filter_bank`]."""

    n_mels: int
    n_fft: int
    sampling_rate: int
    fmin: float
    fmax: float


def _hertz_to_mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def _mel_step(scale: _MelScale) -> float:
    """Returns the distance between neighbouring filters in mel; they are equally spaced from fmin to fmax."""
    return (_hertz_to_mel(scale.fmax) - _hertz_to_mel(scale.fmin)) / (scale.n_mels + 1)


def _in_float64(device: torch.device) -> dict[str, Any]:
    """Says where to build a table in double precision for `device`; Apple's GPUs do not have it."""
    return {"dtype": torch.float64, "device": "cpu" if device.type == "mps" else device}


def _triangles(scale: _MelScale, bins: torch.Tensor, peaks: torch.Tensor) -> torch.Tensor:
    """Returns what bins (R,) weigh in filters of the numbers `peaks` (M,) or (R, M): with p a bin's place on the mel
    scale, in steps from fmin, filter m has its peak at p = m, from 1 on, and reaches 0 one step away: (R, M)."""
    hertz = bins * (scale.sampling_rate / scale.n_fft)
    place = (1127.0 * torch.log1p(hertz / 700.0) - _hertz_to_mel(scale.fmin)) / _mel_step(scale)
    return (1.0 - (place[:, None] - peaks).abs_()).clamp_(min=0.0).float()


@lru_cache(maxsize=_MAX_BANKS)
def _filter_blocks(scale: _MelScale, device: torch.device) -> tuple[tuple[slice, torch.Tensor], ...]:
    """Returns the bank as blocks along its diagonal, (parts, weights), each weight twice; built without waiting."""
    bins_per_hertz, low, step = scale.n_fft / scale.sampling_rate, _hertz_to_mel(scale.fmin), _mel_step(scale)
    firsts = np.arange(0, scale.n_mels, _MELS_PER_BLOCK)
    counts = np.minimum(_MELS_PER_BLOCK, scale.n_mels - firsts)
    edges = (700.0 * np.expm1((low + edge * step) / 1127.0) for edge in (firsts, firsts + counts + 1))  # Hz
    lower, upper = (edge * bins_per_hertz for edge in edges)
    stops = np.minimum(np.ceil(upper).astype(int) + 1, scale.n_fft // 2)
    starts = np.minimum(np.floor(lower).astype(int), stops - 1)
    heights = stops - starts
    # the rows of all blocks, one below another: their bins, and the first filters of their blocks
    rows = torch.from_numpy(np.stack([np.r_[*map(slice, starts, stops)], np.repeat(firsts, heights)]))
    bins, offsets = rows.to(**_in_float64(device), non_blocking=True)
    peaks = offsets[:, None] + torch.arange(1, _MELS_PER_BLOCK + 1, **_in_float64(device))
    weights = _triangles(scale, bins, peaks).to(device).repeat_interleave(2, dim=0).split((2 * heights).tolist())
    parts = map(slice, (2 * starts).tolist(), (2 * stops).tolist())
    return tuple((part, block[:, :count]) for part, block, count in zip(parts, weights, counts, strict=True))


@lru_cache(maxsize=32)
def _hann_window(win_length: int, device: torch.device) -> torch.Tensor:
    return torch.hann_window(win_length, periodic=False, **_in_float64(device)).float().to(device)


def mel_filter_bank(n_mels: int, n_fft: int, *, sampling_rate: int, fmin: float, fmax: float) -> torch.Tensor:
    """Builds a Kaldi mel filter bank: triangles linear in mel, peak 1, without area normalisation.

    Args:
        n_mels (`int`): filters, equally spaced in mel = 1127 ln(1 + f / 700).
        n_fft (`int`): FFT length, samples, even.
        sampling_rate (`int`): Hz.
        fmin (`float`): lower edge of the first filter, Hz.
        fmax (`float`): upper edge of the last filter, Hz.

    Returns:
        `torch.Tensor`: weights, float32 `(n_mels, n_fft // 2 + 1)`; the Nyquist bin has weight 0.

    Raises:
        ValueError: the edges do not satisfy 0 <= fmin < fmax <= sampling_rate / 2.
    """
    _check_edges(fmin, fmax, sampling_rate)
    scale = _MelScale(n_mels, n_fft, sampling_rate, float(fmin), float(fmax))
    bins, peaks = (torch.arange(count, dtype=torch.float64) for count in (n_fft // 2, n_mels))
    weights = _triangles(scale, bins, peaks + 1)
    return torch.nn.functional.pad(weights.t(), (0, 1)).contiguous()


def _emphasised_frames(waveform: torch.Tensor, coefficient: float, win_length: int, hop_length: int) -> torch.Tensor:
    """Returns frames around each multiple of the hop of y[n] = x[n + 1] - coefficient * x[n], reflected at its ends:
    (B, T) -> (B, F, win), a view. They are as long as the window: zeros around it would only turn the phase."""
    samples, before, after = waveform.shape[1] - 1, (win_length + 1) // 2, win_length // 2
    padded = waveform.new_empty((len(waveform), before + samples + after))
    signal = padded[:, before : before + samples]
    torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=coefficient, out=signal)
    padded[:, :before] = signal[:, 1 : before + 1].flip(1)
    padded[:, before + samples :] = signal[:, samples - 1 - after : samples - 1].flip(1)
    return padded.unfold(1, win_length, hop_length)


def _spectral_squares(windowed: torch.Tensor) -> torch.Tensor:
    """Returns squares of real and imaginary parts in turn, which the bank adds: (..., n_fft) -> (..., n_fft + 2)."""
    return torch.view_as_real(torch.fft.rfft(windowed)).square_().flatten(-2)


def _mel_energies(frames: torch.Tensor, scale: _MelScale) -> torch.Tensor:
    """Returns the mel energies (B, F, M) of frames (B, F, win_length), chunk by chunk."""
    clips, count, win_length = frames.shape
    limit = (_SAMPLES_PER_CHUNK_CPU if frames.device.type == "cpu" else _SAMPLES_PER_CHUNK) // scale.n_fft or 1
    window, blocks = _hann_window(win_length, frames.device), _filter_blocks(scale, frames.device)
    energies = frames.new_empty((clips, count, scale.n_mels))
    clip_step, frame_step = max(1, limit // count), min(limit, count)
    padded = frames.new_empty((min(clip_step, clips), frame_step, scale.n_fft))
    padded[..., win_length:].zero_()  # they stay, while windows are written before them
    for clip in range(0, clips, clip_step):
        for frame in range(0, count, frame_step):
            part = slice(clip, clip + clip_step), slice(frame, frame + frame_step)
            windowed = padded[: len(frames[part]), : frames[part].shape[1]]
            torch.mul(frames[part], window, out=windowed[..., :win_length])
            squares = _spectral_squares(windowed)
            torch.cat([squares[..., parts] @ weights for parts, weights in blocks], dim=-1, out=energies[part])
    return energies


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keeps matrix products in true float32 where Trainer or a user has allowed TF32 or bfloat16: log-mels would move
    by more than two float32 implementations differ."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


class AscFeatureExtractor(FeatureExtractionMixin):
    r"""Turns waveforms into normalised log-mel spectrograms: pre-emphasis, centred STFT with a symmetric Hann window,
    power, Kaldi mel bank, `(ln(mel + log_offset) + shift) / scale`. The waveform's gain is left as it is.

    Args:
        sampling_rate (`int`, *optional*, defaults to 32000): rate of the waveforms, Hz.
        n_fft (`int`, *optional*, defaults to 4096): FFT length, samples, even; a clip must not be shorter.
        win_length (`int`, *optional*, defaults to 3072): window length, samples.
        hop_length (`int`, *optional*, defaults to 500): samples between frames.
        n_mels (`int`, *optional*, defaults to 256): mel filters M.
        fmin (`float`, *optional*, defaults to 0.0): lower edge of the mel bank, Hz.
        fmax (`float`, *optional*, defaults to 15500.0): upper edge of the mel bank in evaluation, Hz.
        preemphasis (`float`, *optional*, defaults to 0.97): weight of the earlier sample in the pre-emphasis.
        log_offset (`float`, *optional*, defaults to 1e-5): added before the logarithm.
        shift (`float`, *optional*, defaults to 4.5): added to the logarithm.
        scale (`float`, *optional*, defaults to 5.0): divides the shifted logarithm.

    Raises:
        ValueError: a setting is unknown or out of range.

    The defaults are the front-end of CP-Mobile; [`AscFeatureExtractor.from_preset`] gives those of the paper's other
    architectures (Morocutti et al., DCASE 2023, section 3.1). Example:

    ```python
    >>> import numpy as np
    >>> from hf_ascdistill import AscFeatureExtractor
    >>> extractor = AscFeatureExtractor.from_preset("cp-mobile")
    >>> extractor(np.zeros(32_000, np.float32), sampling_rate=32_000).input_values.shape
    (1, 256, 64)
    ```
    """

    model_input_names = ["input_values"]
    padding_value = 0.0  # a pipeline's batches need one; it shows nowhere, since clips of a batch have one length

    def __init__(
        self,
        *,
        sampling_rate: int = 32_000,
        n_fft: int = 4096,
        win_length: int = 3072,
        hop_length: int = 500,
        n_mels: int = 256,
        fmin: float = 0.0,
        fmax: float = 15_500.0,
        preemphasis: float = 0.97,
        log_offset: float = 1e-5,
        shift: float = 4.5,
        scale: float = 5.0,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(name for name in kwargs if name not in _METADATA and not name.startswith("_"))
        if unknown:
            raise ValueError(f"unknown front-end setting(s): {', '.join(unknown)}; see the class's arguments.")
        kwargs.pop("feature_extractor_type", None)  # written when saved
        super().__init__(**kwargs)
        self.sampling_rate, self.n_fft, self.win_length = sampling_rate, n_fft, win_length
        self.hop_length, self.n_mels = hop_length, n_mels
        self.fmin, self.fmax, self.preemphasis = float(fmin), float(fmax), float(preemphasis)
        self.log_offset, self.shift, self.scale = float(log_offset), float(shift), float(scale)
        self._check_settings()

    @classmethod
    def from_preset(cls, name: str, **settings: Any) -> "AscFeatureExtractor":
        """Creates the front-end of one of the paper's architectures.

        Args:
            name (`str`): `"cp-mobile"`, `"cp-resnet"`, `"passt"` or, as AudioSet was evaluated, `"passt-audioset"`.
            settings: settings that differ from the preset's.

        Raises:
            ValueError: the preset or a setting is unknown.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown front-end preset {name!r}; expected one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **settings})

    @property
    def mask_value(self) -> float:
        """The normalised value of a masked cell: masks write 0 before the normalisation."""
        return self.shift / self.scale

    @torch.no_grad()
    def log_mel(self, waveform: torch.Tensor, *, fmax: float | None = None) -> torch.Tensor:
        """Computes normalised log-mel spectrograms on the waveform's device, in float32 also under autocast.

        Nothing here waits for an accelerator: NaN passes through, where `__call__` raises.

        Args:
            waveform (`torch.Tensor`): mono clips at `sampling_rate`, floating point `(B, T)`.
            fmax (`float`, *optional*): upper edge of the mel bank, Hz; unset: that of evaluation.

        Returns:
            `torch.Tensor`: float32 `(B, M, F)`, F = (T - 1) // hop_length + 1.

        Raises:
            ValueError: no floating-point clips (B, T), clips shorter than one FFT window, or `fmax` out of range.
        """
        if waveform.ndim != 2 or not waveform.is_floating_point():
            raise ValueError(
                f"waveform is {waveform.dtype} of shape {tuple(waveform.shape)}; expected floating-point clips (B, T)."
            )
        self._check_length(waveform.shape[1])
        fmax = self.fmax if fmax is None else float(fmax)
        _check_edges(self.fmin, fmax, self.sampling_rate)
        scale = _MelScale(self.n_mels, self.n_fft, self.sampling_rate, self.fmin, fmax)
        with torch.autocast(waveform.device.type, enabled=False), _full_float32():
            frames = _emphasised_frames(waveform.float(), self.preemphasis, self.win_length, self.hop_length)
            energies = _mel_energies(frames, scale)
        mels = energies.transpose(1, 2).contiguous()  # (B, F, M) -> (B, M, F)
        return mels.add_(self.log_offset).log_().add_(self.shift).div_(self.scale)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        device: str | torch.device = "cpu",
    ) -> BatchFeature:
        """Turns one waveform or a batch of them into log-mel spectrograms.

        Args:
            raw_speech (`np.ndarray`, `torch.Tensor`, `list[float]` or a list of clips): mono, floating point, full
                scale 1: one clip `(T,)`, or a batch `(B, T)` of clips of one length.
            sampling_rate (`int`, *optional*): rate of `raw_speech`, Hz. Another rate than the extractor's is
                resampled (soxr HQ, needs `soxr`); unset: it is taken to be the extractor's.
            return_tensors (`str`, *optional*): `"pt"` for a tensor on `device`, `"np"` or unset for an array.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): where the work is done.

        Returns:
            [`BatchFeature`]: `input_values`, float32 `(B, M, F)`; B is 1 for a single clip.

        Raises:
            ValueError: the samples are no floating-point numbers, are NaN or infinite, the clips differ in length or
                are shorter than one FFT window.
            ImportError: the clips must be resampled and `soxr` is not installed.
        """
        waveform = _as_waveform(raw_speech)
        if sampling_rate is None:
            logger.warning_once(
                f"No sampling_rate was given to {type(self).__name__}; {self.sampling_rate} Hz is assumed. Pass it: "
                "clips of another rate give wrong features without an error."
            )
        elif sampling_rate != self.sampling_rate:
            waveform = _resample(waveform, sampling_rate, self.sampling_rate)
        waveform = waveform.to(device)
        _check_finite(waveform)
        input_values = self.log_mel(waveform)
        if return_tensors != "pt":
            input_values = input_values.cpu().numpy()
        return BatchFeature({"input_values": input_values}, tensor_type=return_tensors)

    def _check_length(self, num_samples: int) -> None:
        if num_samples < self.n_fft:
            raise ValueError(
                f"a clip of {num_samples} samples is shorter than one FFT window; expected at least {self.n_fft} "
                f"samples ({self.n_fft / self.sampling_rate:.3f} s): take a longer clip or pad it."
            )

    def _check_settings(self) -> None:
        for name in ("sampling_rate", "n_fft", "win_length", "hop_length", "n_mels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a positive whole number.")
        if self.n_fft % 2 or self.win_length > self.n_fft:
            raise ValueError(f"n_fft is {self.n_fft}; expected an even number >= win_length, {self.win_length}.")
        if self.log_offset <= 0 or self.scale <= 0:
            raise ValueError(f"log_offset is {self.log_offset}, scale {self.scale}; expected positive numbers.")
        _check_edges(self.fmin, self.fmax, self.sampling_rate)


def _check_edges(fmin: float, fmax: float, sampling_rate: int) -> None:
    if not 0 <= fmin < fmax <= sampling_rate / 2:
        raise ValueError(
            f"fmin is {fmin} Hz and fmax {fmax} Hz; expected 0 <= fmin < fmax <= half the rate of {sampling_rate} Hz."
        )


def _as_tensor(value: Any) -> torch.Tensor:
    """Returns samples as a float32 tensor, a tensor on its own device."""
    samples = value if isinstance(value, torch.Tensor) else np.asarray(value)
    is_float = samples.is_floating_point() if isinstance(samples, torch.Tensor) else samples.dtype.kind == "f"
    if not is_float:
        raise ValueError(
            f"raw_speech is of dtype {samples.dtype}; expected floating-point samples of full scale 1: divide integer "
            "samples by their full scale, e.g. int16 by 32768.0."
        )
    if isinstance(samples, torch.Tensor):
        return samples.detach().float()
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    return torch.from_numpy(samples if samples.flags.writeable else samples.copy())


def _as_waveform(raw_speech: Any) -> torch.Tensor:
    """Returns one clip or a batch of clips as a float32 tensor (B, T)."""
    if isinstance(raw_speech, list | tuple) and len(raw_speech) and np.ndim(raw_speech[0]):
        clips = [_as_tensor(clip) for clip in raw_speech]
        lengths = sorted({tuple(clip.shape) for clip in clips})
        if len(lengths) > 1:
            raise ValueError(
                f"the clips of the batch have shapes {', '.join(map(str, lengths))}; expected one length: cut or pad "
                "them, or pass them one by one."
            )
        waveform = torch.stack(clips)
    else:
        waveform = _as_tensor(raw_speech)
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    if waveform.ndim != 2 or not waveform.numel():
        raise ValueError(f"raw_speech has shape {tuple(waveform.shape)}; expected mono clips, (T,) or (B, T).")
    return waveform


def _check_finite(waveform: torch.Tensor) -> None:
    is_bad = ~torch.isfinite(waveform).all(dim=1)
    if is_bad.any():
        rows = is_bad.nonzero()[:, 0].tolist()
        raise ValueError(f"raw_speech holds NaN or infinite samples in clip(s) {rows}; mend or leave them out.")


def _resample(waveform: torch.Tensor, source_rate: int, target_rate: int) -> torch.Tensor:
    """Returns clips (B, T) at another rate, by the resampler that the paper's audio went through."""
    if not source_rate > 0:
        raise ValueError(f"sampling_rate is {source_rate!r}; expected a positive number of Hz.")
    try:
        soxr = importlib.import_module("soxr")
    except ImportError as error:
        raise ImportError(
            f"raw_speech has {source_rate} Hz and the extractor {target_rate} Hz; resampling needs the package soxr: "
            "`pip install soxr`, or resample before."
        ) from error
    clips = [soxr.resample(clip, source_rate, target_rate, quality="HQ") for clip in waveform.cpu().numpy()]
    return torch.from_numpy(np.stack(clips))


__all__ = ["PRESETS", "AscFeatureExtractor", "mel_filter_bank"]
