"""The nine made-up recording devices of the synthetic corpus: filter, gain, soft compression, noise and resolution."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .impulse_responses import butterworth_db, minimum_phase_fir, peak_db

FIR_TAPS = 1024  # 23 ms at 44.1 kHz
FIR_FFT = 8 * FIR_TAPS
REFERENCE_HZ = 1_000.0  # where a tilt is 0 dB


@dataclass(frozen=True)
class SyntheticDevice:
    """What one device does to a sound.

    Args:
        low_cut (`tuple[float, int]`): -3 dB point in Hz and order.
        high_cut (`tuple[float, int]`): -3 dB point in Hz and order.
        tilt_db (`float`): slope, dB per octave.
        peaks (`tuple[tuple[float, float, float], ...]`): resonances and dips: centre in Hz, gain in dB, octaves.
        gain_db (`float`): gain.
        drive (`float`): soft compression `tanh(drive * x) / drive`; 0 means none.
        noise_db (`float`): level of its white noise, dB below full scale.
        bits (`int`): resolution.
    """

    low_cut: tuple[float, int]
    high_cut: tuple[float, int]
    tilt_db: float = 0.0
    peaks: tuple[tuple[float, float, float], ...] = ()
    gain_db: float = 0.0
    drive: float = 0.0
    noise_db: float = -90.0
    bits: int = 24


# a, b, c stand for real devices, s1..s3 for simulated ones in training; s4..s6, the unseen ones, colour most.
DEVICES = {
    "a": SyntheticDevice((20, 2), (20_000, 4)),
    "b": SyntheticDevice((90, 2), (15_000, 3), 0.3, ((3_200, 5, 0.5), (700, -3, 0.6)), -3, 0.8, -72, 16),
    "c": SyntheticDevice((140, 2), (12_000, 3), -0.4, ((1_800, 6, 0.4), (5_500, -5, 0.4)), -5, 1.0, -70, 16),
    "s1": SyntheticDevice((110, 3), (10_000, 2), 0.6, ((450, 7, 0.3), (2_500, -7, 0.5)), -2, 1.0, -70, 16),
    "s2": SyntheticDevice((60, 2), (8_500, 3), -1.0, ((1_100, -8, 0.4), (4_200, 8, 0.3)), 2, 1.5, -68, 16),
    "s3": SyntheticDevice((180, 2), (13_000, 4), 1.0, ((900, 8, 0.3), (6_500, -8, 0.5)), -4, 0.8, -72, 16),
    "s4": SyntheticDevice((300, 4), (4_200, 4), 1.5, ((600, -10, 0.4), (2_600, 11, 0.3)), -6, 2.0, -62, 14),
    "s5": SyntheticDevice((60, 1), (2_600, 3), -1.5, ((1_300, 9, 0.25), (350, 7, 0.4)), -2, 2.0, -60, 14),
    "s6": SyntheticDevice(
        (500, 2), (9_000, 5), 1.0, ((1_500, -12, 0.5), (3_200, 10, 0.3), (6_500, 8, 0.3)), -8, 4.0, -60, 14
    ),
}


def record(
    sound: np.ndarray, device: str, generator: np.random.Generator, *, strength: float, rate: int
) -> np.ndarray:
    """Records a sound with a device.

    Args:
        sound (`np.ndarray`): `(T,)`, full scale is 1.
        device (`str`): key of `DEVICES`.
        generator (`np.random.Generator`): source of the device's noise.
        strength (`float`): scales the device's frequency response in dB; 0 leaves it flat.
        rate (`int`): sampling rate in Hz.

    Returns:
        `np.ndarray`: `(T,)`, within -1..1, rounded to the device's resolution.
    """
    specification = DEVICES[device]
    size = fast_fft_size(len(sound) + FIR_TAPS - 1)
    spectrum = np.fft.rfft(sound, size) * _device_spectrum(device, strength, rate, size)
    recorded = np.fft.irfft(spectrum, size)[: len(sound)] * 10 ** (specification.gain_db / 20)
    if specification.drive:
        recorded = np.tanh(specification.drive * recorded) / specification.drive
    recorded += generator.normal(0, 10 ** (specification.noise_db / 20), len(recorded))
    steps = 2 ** (specification.bits - 1)
    return np.clip(np.round(recorded * steps), -steps, steps - 1) / steps


@lru_cache
def _device_spectrum(device: str, strength: float, rate: int, size: int) -> np.ndarray:
    """Spectrum of a device's filter at the FFT size of the sounds, `(size // 2 + 1,)`."""
    specification = DEVICES[device]
    frequencies = np.fft.rfftfreq(FIR_FFT, 1 / rate)
    frequencies[0] = frequencies[1] / 2  # the curves are drawn over log frequency
    level = butterworth_db(specification.low_cut[0] / frequencies, specification.low_cut[1])
    level += butterworth_db(frequencies / specification.high_cut[0], specification.high_cut[1])
    level += specification.tilt_db * np.log2(frequencies / REFERENCE_HZ)
    for peak in specification.peaks:
        level += peak_db(frequencies, *peak)
    return np.fft.rfft(minimum_phase_fir(level * strength, FIR_TAPS), size)


def fast_fft_size(length: int) -> int:
    """Smallest even size of the form 2^i 3^j 5^k that is not below `length`.

    Args:
        length (`int`): number of samples.

    Returns:
        `int`: a size whose FFT is fast.
    """
    odd_parts = (3**three * 5**five for three in range(12) for five in range(8))
    return min(odd << max(1, (-(-length // odd) - 1).bit_length()) for odd in odd_parts)


__all__ = ["DEVICES", "SyntheticDevice", "fast_fft_size", "record"]
