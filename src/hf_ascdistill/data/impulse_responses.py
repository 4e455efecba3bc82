"""Impulse responses of recording devices: measured ones from a folder, or a small generated bank."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from .columns import SAMPLING_RATE

SUFFIXES = (".wav", ".flac")
MIN_PHASE_FFT_FACTOR = 8  # cepstral aliasing stays below float32 rounding
LEVEL_BAND_HZ = (200, 8_000)  # pink noise in it keeps its level
STREAM = 1  # of the seed: apart from the streams of the synthetic corpus
FADE_SHARE = 0.25  # of the taps, so that cutting a response leaves no step


@dataclass(frozen=True)
class MicrophoneRanges:
    """Ranges from which [`default_impulse_responses`] draws each microphone; frequencies log-uniformly.

    Args:
        low_cut_hz (`tuple[float, float]`): -3 dB point of the low cut, of `low_cut_order`.
        high_cut_hz (`tuple[float, float]`): -3 dB point of the high cut, of `high_cut_order`.
        tilt_db (`float`): standard deviation of the slope, dB per octave.
        resonances (`tuple[int, int]`): number of peaks and dips, of standard deviation `resonance_db` in dB.
        presence_db (`tuple[float, float]`): broad rise of capsules, at `presence_hz`, `presence_octaves` wide.
        echo_p (`float`): share of microphones with one reflection of the housing, of `echo_seconds` and `echo_gain`.
    """

    low_cut_hz: tuple[float, float] = (40.0, 350.0)
    low_cut_order: tuple[int, int] = (1, 3)
    high_cut_hz: tuple[float, float] = (3_500.0, 14_500.0)
    high_cut_order: tuple[int, int] = (1, 5)
    tilt_db: float = 1.0
    resonances: tuple[int, int] = (2, 6)
    resonance_db: float = 5.0
    resonance_hz: tuple[float, float] = (150.0, 12_000.0)
    resonance_octaves: tuple[float, float] = (0.08, 0.6)
    presence_db: tuple[float, float] = (0.0, 8.0)
    presence_hz: tuple[float, float] = (2_000.0, 7_000.0)
    presence_octaves: float = 0.7
    echo_p: float = 0.3
    echo_seconds: tuple[float, float] = (2e-4, 2e-3)
    echo_gain: tuple[float, float] = (0.1, 0.4)


def load_impulse_responses(
    folder: str | Path, *, sampling_rate: int = SAMPLING_RATE, resample: bool = False
) -> torch.Tensor:
    """Reads all impulse responses of a folder, sorted by file name, without any change of their level.

    The paper uses 66 recordings of MicIRP (44.1 and 48 kHz), so these need `resample=True`.

    Args:
        folder (`str` or `Path`): holds mono `.wav` or `.flac` files, one response each; other files are ignored.
        sampling_rate (`int`, *optional*, defaults to 32000): rate of the result in Hz.
        resample (`bool`, *optional*, defaults to `False`): resample files of another rate (soxr HQ, each from its own
            rate) instead of refusing them.

    Returns:
        `torch.Tensor`: float32, `(n, taps)`; shorter responses are padded with zeros at their end.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no audio file in the folder, or a file that is not audio, not mono, silent, not finite or of
            another rate.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} to read impulse responses from")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"folder {str(folder)!r} holds no impulse response: no file ends in {' or '.join(SUFFIXES)}")
    responses = [_read_response(path, sampling_rate, resample) for path in paths]
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(response) for response in responses], batch_first=True)


def default_impulse_responses(
    *, count: int = 24, taps: int = 512, seed: int = 0, ranges: MicrophoneRanges | None = None
) -> torch.Tensor:
    """Generates plausible microphone responses, for users without measured ones.

    They are made up, not measured: minimum-phase filters at 32 kHz with random band limits, tilt, resonances and
    presence rise, some with a reflection of the housing. Pink noise between 200 Hz and 8 kHz keeps its level.

    Args:
        count (`int`, *optional*, defaults to 24): number of responses.
        taps (`int`, *optional*, defaults to 512): length of each in samples.
        seed (`int`, *optional*, defaults to 0): same seed, same bank.
        ranges ([`MicrophoneRanges`], *optional*): what to draw from; `None` means its defaults.

    Returns:
        `torch.Tensor`: float32, `(count, taps)`.

    Raises:
        ValueError: `count` or `taps` below 1.
    """
    if count < 1 or taps < 1:
        raise ValueError(f"count is {count} and taps is {taps}, expected at least 1 of each")
    generator = np.random.default_rng([seed, STREAM])
    bank = [_generated_response(generator, taps, ranges or MicrophoneRanges()) for _ in range(count)]
    return torch.from_numpy(np.stack(bank).astype(np.float32))


def minimum_phase_fir(level_db: np.ndarray, taps: int) -> np.ndarray:
    """Makes the shortest causal filter of a given magnitude response (homomorphic method).

    Args:
        level_db (`np.ndarray`): level at the `n_fft // 2 + 1` bins of a real FFT, in dB.
        taps (`int`): length of the filter; its last quarter is faded out.

    Returns:
        `np.ndarray`: float64, `(taps,)`.
    """
    cepstrum = np.fft.irfft(level_db * np.log(10) / 20)
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:taps]
    faded = int(taps * FADE_SHARE)
    response[taps - faded :] *= np.cos(np.linspace(0, np.pi / 2, faded)) ** 2
    return response


def butterworth_db(ratio: np.ndarray, order: int) -> np.ndarray:
    """Level of a Butterworth filter.

    Args:
        ratio (`np.ndarray`): frequency / cut-off for a high cut, cut-off / frequency for a low cut.
        order (`int`): order; the slope is `6 * order` dB per octave.

    Returns:
        `np.ndarray`: level in dB, -3.01 where `ratio` is 1.
    """
    return -10 * np.log10(1 + ratio ** (2 * order))


def peak_db(frequencies: np.ndarray, centre_hz: float, gain_db: float, octaves: float) -> np.ndarray:
    """Level of a bell-shaped peak or dip.

    Args:
        frequencies (`np.ndarray`): in Hz, above 0.
        centre_hz (`float`): centre.
        gain_db (`float`): level at the centre.
        octaves (`float`): standard deviation of the bell.

    Returns:
        `np.ndarray`: level in dB.
    """
    return gain_db * np.exp(-0.5 * (np.log2(frequencies / centre_hz) / octaves) ** 2)


def _read_response(path: Path, sampling_rate: int, resample: bool) -> np.ndarray:
    try:
        response, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"impulse response {str(path)!r} cannot be read as audio: {error}") from error
    if response.shape[1] != 1:
        raise ValueError(f"impulse response {str(path)!r} has {response.shape[1]} channels, expected mono")
    if not np.isfinite(response).all():
        raise ValueError(f"impulse response {str(path)!r} holds NaN or infinite samples")
    if not response.any():
        raise ValueError(f"impulse response {str(path)!r} is silent: it would turn every clip into silence")
    if rate == sampling_rate:
        return response[:, 0]
    if not resample:
        raise ValueError(
            f"impulse response {str(path)!r} has {rate} Hz, expected {sampling_rate} Hz; resample the files or give "
            "resample=True"
        )
    return soxr.resample(response[:, 0], rate, sampling_rate, quality="HQ")


def _generated_response(generator: np.random.Generator, taps: int, ranges: MicrophoneRanges) -> np.ndarray:
    bins = 1 + (1 << int(np.ceil(np.log2(max(taps, 64))))) * MIN_PHASE_FFT_FACTOR // 2
    frequencies = np.linspace(0, SAMPLING_RATE / 2, bins)
    frequencies[0] = frequencies[1] / 2  # the curves are drawn over log frequency
    level = _generated_level(generator, frequencies, ranges)
    pink = ((frequencies >= LEVEL_BAND_HZ[0]) & (frequencies <= LEVEL_BAND_HZ[1])) / frequencies
    level -= 10 * np.log10(np.sum(pink * 10 ** (level / 10)) / np.sum(pink))
    response = minimum_phase_fir(level, taps)
    if generator.random() >= ranges.echo_p:
        return response
    delay = int(generator.uniform(*ranges.echo_seconds) * SAMPLING_RATE)
    echo = np.concatenate([np.zeros(delay), response])[:taps] * generator.uniform(*ranges.echo_gain)
    return response + echo * generator.choice((-1, 1))


def _generated_level(generator: np.random.Generator, frequencies: np.ndarray, ranges: MicrophoneRanges) -> np.ndarray:
    low_cut, high_cut = _log_uniform(generator, ranges.low_cut_hz), _log_uniform(generator, ranges.high_cut_hz)
    level = butterworth_db(low_cut / frequencies, generator.integers(*ranges.low_cut_order, endpoint=True))
    level += butterworth_db(frequencies / high_cut, generator.integers(*ranges.high_cut_order, endpoint=True))
    level += generator.normal(0, ranges.tilt_db) * np.log2(frequencies / 1_000)
    presence = _log_uniform(generator, ranges.presence_hz), generator.uniform(*ranges.presence_db)
    level += peak_db(frequencies, *presence, ranges.presence_octaves)
    for _ in range(generator.integers(*ranges.resonances, endpoint=True)):
        centre, width = _log_uniform(generator, ranges.resonance_hz), _log_uniform(generator, ranges.resonance_octaves)
        level += peak_db(frequencies, centre, generator.normal(0, ranges.resonance_db), width)
    return level


def _log_uniform(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(generator.uniform(*np.log(limits))))


__all__ = [
    "MicrophoneRanges",
    "butterworth_db",
    "default_impulse_responses",
    "load_impulse_responses",
    "minimum_phase_fir",
    "peak_db",
]
