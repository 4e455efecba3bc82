"""The ten made-up scenes of the synthetic corpus: noise beds, hums, events and chirps with overlapping parameters."""

from dataclasses import dataclass, fields, replace

import numpy as np

from .impulse_responses import peak_db
from .synthetic_devices import fast_fft_size

RATE = 44_100  # Hz, as TAU22
REFERENCE_HZ = 1_000.0  # where a spectral tilt is 0 dB
BED_PEAK_OCTAVES = 0.8
BED_LIMIT_HZ = 40.0  # the tilt does not rise further below it
HUM_HARMONICS = 8
HUM_ROLL_OFF = 1.2  # the amplitude of harmonic k is k ** -1.2
EVENT_NOISE_SHARE = 0.5  # of an event; the rest is a decaying tone
EVENT_DECAYS = 5  # an event is cut after so many time constants
CHIRP_SECONDS = (0.05, 0.3)
CHIRP_OCTAVES = 0.6  # standard deviation of the sweep's width
SEGMENT_SHARE = 0.35  # spread between the segments of one location, as a share of that between locations
BLEED_DB = (-9.0, -3.0)  # level of the other scene that is heard through the wall


@dataclass(frozen=True)
class SceneSound:
    """Typical sound of a scene. Names end in their unit, which also says how locations vary it (`SPREAD`).

    Args:
        tilt_slope (`float`): slope of the noise bed, dB per octave.
        peak_hz (`float`): broad peak of the noise bed, of `peak_db`.
        modulation_hz (`float`): amplitude modulation of the bed, of depth `modulation_part`.
        hum_hz (`float`): fundamental of a harmonic drone, at `hum_db` against the bed.
        event_per_s (`float`): rate of short events around `event_hz` that decay within `event_s`, at `event_db`.
        chirp_per_s (`float`): rate of sweeps around `chirp_hz`, at `chirp_db`.
    """

    tilt_slope: float
    peak_hz: float
    peak_db: float
    modulation_hz: float
    modulation_part: float
    hum_hz: float
    hum_db: float
    event_per_s: float
    event_s: float
    event_hz: float
    event_db: float
    chirp_per_s: float
    chirp_hz: float
    chirp_db: float


# Standard deviation between locations at a spread of 1, by unit: additive for dB, slope and part, else of the log.
ADDITIVE_SPREAD = {"slope": 1.5, "db": 4.0, "part": 0.15}
LOG_SPREAD = {"hz": 0.4, "s": 0.5}

SCENES = {  # tilt, peak Hz dB, modulation Hz part, hum Hz dB, events per s, s, Hz, dB, chirps per s, Hz, dB
    "arcade": SceneSound(-3.5, 1_200, 6, 4.0, 0.5, 220, -6, 3.0, 0.08, 2_000, 10, 4.0, 1_200, 10),
    "boiler_room": SceneSound(-4.5, 150, 6, 0.7, 0.4, 60, 3, 0.8, 0.40, 500, 10, 0.1, 600, 0),
    "canteen": SceneSound(-4.0, 600, 6, 5.0, 0.7, 180, -14, 5.0, 0.05, 3_000, 13, 0.7, 500, 8),
    "foundry": SceneSound(-4.0, 300, 6, 1.5, 0.5, 100, -4, 2.5, 0.30, 1_800, 13, 0.1, 900, 0),
    "greenhouse": SceneSound(-3.0, 2_500, 6, 8.0, 0.4, 120, -10, 8.0, 0.01, 4_000, 18, 0.5, 2_500, 6),
    "harbour": SceneSound(-4.5, 220, 6, 0.4, 0.6, 80, -4, 0.5, 0.60, 900, 10, 1.5, 2_000, 8),
    "orchard": SceneSound(-3.5, 2_000, 6, 1.0, 0.4, 150, -14, 0.7, 0.02, 3_500, 12, 5.0, 3_200, 11),
    "print_shop": SceneSound(-3.5, 900, 6, 10.0, 0.8, 140, -5, 10.0, 0.02, 1_400, 14, 0.1, 1_500, 0),
    "quarry": SceneSound(-4.0, 280, 6, 2.0, 0.6, 70, -8, 6.0, 0.12, 800, 13, 0.2, 1_000, 4),
    "server_room": SceneSound(-3.0, 800, 6, 0.3, 0.2, 350, 0, 0.3, 0.03, 2_500, 8, 0.2, 1_800, 0),
}


def vary(sound: SceneSound, generator: np.random.Generator, spread: float) -> SceneSound:
    """Draws one place (or moment) of a scene around its typical sound.

    Args:
        sound ([`SceneSound`]): the typical sound.
        generator (`np.random.Generator`): source of the draws.
        spread (`float`): scales the standard deviations; 0 returns the sound itself.

    Returns:
        [`SceneSound`]: the varied sound.
    """
    drawn = {}
    for field in fields(sound):
        unit, value, deviation = field.name.rpartition("_")[2], getattr(sound, field.name), generator.normal(0, spread)
        if unit in ADDITIVE_SPREAD:
            drawn[field.name] = value + ADDITIVE_SPREAD[unit] * deviation
        else:
            drawn[field.name] = value * np.exp(LOG_SPREAD[unit] * deviation)
    drawn["modulation_part"] = float(np.clip(drawn["modulation_part"], 0, 1))
    return replace(sound, **drawn)


def render(sound: SceneSound, generator: np.random.Generator, seconds: int) -> np.ndarray:
    """Synthesises a scene.

    Args:
        sound ([`SceneSound`]): what to play.
        generator (`np.random.Generator`): source of all randomness.
        seconds (`int`): length.

    Returns:
        `np.ndarray`: float64, `(44100 * seconds,)`; the noise bed has a root mean square of 1 before its modulation.
    """
    time = np.arange(seconds * RATE) / RATE
    wave = _bed(sound, generator, len(time)) * _modulation(sound, generator, time)
    wave += _amplitude(sound.hum_db) * _hum(sound.hum_hz, generator, time)
    for _ in range(generator.poisson(sound.event_per_s * seconds)):
        _add(wave, _event(sound, generator), generator)
    for _ in range(generator.poisson(sound.chirp_per_s * seconds)):
        _add(wave, _chirp(sound, generator), generator)
    return wave


def _bed(sound: SceneSound, generator: np.random.Generator, samples: int) -> np.ndarray:
    size = fast_fft_size(samples)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / RATE), BED_LIMIT_HZ)
    level = sound.tilt_slope * np.log2(frequencies / REFERENCE_HZ)
    level += peak_db(frequencies, sound.peak_hz, sound.peak_db, BED_PEAK_OCTAVES)
    white = generator.normal(size=(2, len(frequencies)))
    noise = np.fft.irfft((white[0] + 1j * white[1]) * _amplitude(level), size)[:samples]
    return noise / np.sqrt(np.mean(noise**2))


def _modulation(sound: SceneSound, generator: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Two incommensurate sines, so that the modulation has a rate but no exact period."""
    first, second = (
        np.sin(2 * np.pi * sound.modulation_hz * ratio * time + _phase(generator)) for ratio in (1, 0.618)
    )
    return 1 + sound.modulation_part * (0.6 * first + 0.4 * second)


def _hum(fundamental: float, generator: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Harmonic drone of root mean square 1 with a slow vibrato."""
    vibrato = 0.5 * np.sin(2 * np.pi * generator.uniform(0.2, 2.0) * time + _phase(generator))
    angle = 2 * np.pi * fundamental * time + vibrato + _phase(generator)
    before, harmonic, twice_cosine = np.zeros_like(time), np.sin(angle), 2 * np.cos(angle)
    wave = np.zeros_like(time)
    for number in range(1, HUM_HARMONICS + 1):
        wave += number**-HUM_ROLL_OFF * generator.uniform(0.3, 1.0) * harmonic
        before, harmonic = harmonic, twice_cosine * harmonic - before  # sin((k+1)x) = 2 cos(x) sin(kx) - sin((k-1)x)
    return wave / np.sqrt(np.mean(wave**2))


def _event(sound: SceneSound, generator: np.random.Generator) -> np.ndarray:
    """A struck thing: a decaying tone and noise, `event_db` above the bed at its start."""
    decay = sound.event_s * np.exp(generator.normal(0, 0.3))
    time = np.arange(max(64, min(int(EVENT_DECAYS * decay * RATE), RATE))) / RATE
    frequency = min(sound.event_hz * np.exp(generator.normal(0, 0.3)), RATE / 3)
    tone = np.sin(2 * np.pi * frequency * time + _phase(generator)) * np.sqrt(2)
    noise = generator.normal(size=len(time)) * np.sin(2 * np.pi * frequency * time) * np.sqrt(2)
    mixed = EVENT_NOISE_SHARE * noise + (1 - EVENT_NOISE_SHARE) * tone
    return _amplitude(sound.event_db + generator.normal(0, 3)) * mixed * np.exp(-time / decay)


def _chirp(sound: SceneSound, generator: np.random.Generator) -> np.ndarray:
    """A call: a sine swept exponentially under a Hann window."""
    time = np.arange(int(generator.uniform(*CHIRP_SECONDS) * RATE)) / RATE
    start = sound.chirp_hz * np.exp(generator.normal(0, 0.2))
    octaves = generator.normal(0, CHIRP_OCTAVES)
    frequency = np.minimum(start * 2 ** (octaves * time / time[-1]), RATE / 3)
    window = np.hanning(len(time)) * np.sqrt(2)
    return (
        _amplitude(sound.chirp_db + generator.normal(0, 3)) * window * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
    )


def _add(wave: np.ndarray, piece: np.ndarray, generator: np.random.Generator) -> None:
    """Adds a piece in place at a random moment; it may begin before the wave does and end after it."""
    start = int(generator.integers(-len(piece) + 1, len(wave)))
    inside = slice(max(start, 0), min(start + len(piece), len(wave)))
    wave[inside] += piece[inside.start - start : inside.stop - start]


def _amplitude(level_db):
    return 10 ** (level_db / 20)


def _phase(generator: np.random.Generator) -> float:
    return generator.uniform(0, 2 * np.pi)


__all__ = ["RATE", "SCENES", "SceneSound", "render", "vary"]
