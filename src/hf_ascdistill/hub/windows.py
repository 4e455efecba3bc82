"""Scores long recordings window by window, as the request handler does."""

from dataclasses import dataclass

import numpy as np
import torch

from ..models import AscFeatureExtractor
from .handler import SHORTEST_RECORDING, SHORTEST_WINDOW, check_samples, cut_windows, resample, window_logits


@dataclass(frozen=True)
class WindowScores:
    """Scores of the windows of one recording.

    Args:
        times (`np.ndarray`): where each window begins, seconds, float64 `(N,)`.
        scores (`np.ndarray`): probabilities, float64 `(N, C)`.
        window (`float`): length of a window, seconds; shorter where the recording is.
    """

    times: np.ndarray
    scores: np.ndarray
    window: float

    @property
    def mean(self) -> np.ndarray:
        """The recording's scores `(C,)`: the mean of its windows' probabilities, in which each second counts alike."""
        return self.scores.mean(axis=0)


def predict_windows(
    model: torch.nn.Module,
    extractor: AscFeatureExtractor,
    waveform: np.ndarray,
    *,
    sampling_rate: int,
    window: float = 1.0,
    hop: float = 0.5,
    batch_size: int = 32,
) -> WindowScores:
    """Scores a recording in windows.

    The windows follow each other by `hop`; where they end before the recording, one more ends with it, so that each
    holds only what was recorded. A recording shorter than a window is its only window, as it is; one below 0.5 s is
    mirrored up to that length.

    Args:
        model (`torch.nn.Module`): an audio classifier; it is left in evaluation mode.
        extractor ([`AscFeatureExtractor`]): its front-end.
        waveform (`np.ndarray`): floating point of full scale 1, `(T,)` or `(channels, T)`; channels are averaged.
        sampling_rate (`int`): of the waveform, Hz; another one than the extractor's is resampled (soxr HQ).
        window (`float`, *optional*, defaults to 1.0): seconds, at least 0.5; the models learn from 1 s.
        hop (`float`, *optional*, defaults to 0.5): seconds, at most one window.
        batch_size (`int`, *optional*, defaults to 32): windows at a time.

    Returns:
        [`WindowScores`]: times, scores, and their mean.

    Raises:
        ValueError: the waveform is no floating-point array of these shapes, lasts less than 0.1 s, or holds NaN,
            infinite samples or samples far above full scale; or a setting is out of range.
    """
    lengths = check_windowing(window, hop, extractor.sampling_rate)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    if sampling_rate <= 0:
        raise ValueError(f"sampling_rate is {sampling_rate}; expected a positive number of Hz.")
    samples = mix_down(waveform)
    if len(samples) < SHORTEST_RECORDING * sampling_rate:
        least = f"expected at least {SHORTEST_RECORDING} s"
        raise ValueError(f"waveform has {len(samples)} samples at {sampling_rate} Hz; {least}.")
    samples = resample(samples, sampling_rate, extractor.sampling_rate)
    shortest = round(SHORTEST_WINDOW * extractor.sampling_rate)
    starts, windows = cut_windows(samples, window=lengths[0], hop=lengths[1], shortest=shortest)
    scores = window_logits(model.eval(), extractor, windows, batch_size=batch_size).double().softmax(-1).numpy()
    rate = extractor.sampling_rate
    return WindowScores(np.array(starts) / rate, scores, window=min(window, len(samples) / rate))


def check_windowing(window: float, hop: float, sampling_rate: int) -> tuple[int, int]:
    """Checks a window and a hop, and returns them in samples.

    Raises:
        ValueError: the window is shorter than 0.5 s, or the hop not within one sample and one window.
    """
    if not SHORTEST_WINDOW <= window < float("inf"):
        raise ValueError(f"window is {window} s; expected at least {SHORTEST_WINDOW} s: below, accuracy falls apart.")
    if not 1 / sampling_rate <= hop <= window:
        raise ValueError(f"hop is {hop} s; expected more than 0 and at most one window, {window} s.")
    return round(window * sampling_rate), round(hop * sampling_rate)


def mix_down(waveform: np.ndarray) -> np.ndarray:
    """Returns the mean of the channels, float32 (T,), of a waveform (T,) or (channels, T).

    Raises:
        ValueError: it is no floating-point array of these shapes, or holds NaN, infinite samples or samples far above
            full scale.
    """
    if not isinstance(waveform, np.ndarray) or waveform.dtype.kind != "f" or waveform.ndim not in (1, 2):
        shape = f"{waveform.dtype} of shape {waveform.shape}" if isinstance(waveform, np.ndarray) else type(waveform)
        raise ValueError(
            f"waveform is {shape}; expected a floating-point array (T,) or (channels, T) of full scale 1."
        )
    samples = np.ascontiguousarray(np.atleast_2d(waveform), dtype=np.float32).mean(axis=0)
    check_samples(samples, name="waveform")
    return samples


__all__ = ["WindowScores", "check_windowing", "mix_down", "predict_windows"]
