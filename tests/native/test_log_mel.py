"""The kernel's log-mels against the golden ones, and against the same mathematics in float64."""

import math

import pytest
import torch
from compilers import needs_gcc
from native_modules import torch_threads

from hf_ascdistill import AscFeatureExtractor
from hf_ascdistill.models.feature_extraction_asc import PRESETS, mel_filter_bank
from hf_ascdistill.native.log_mel import can_transform, log_mel

TOLERANCE = 1e-4
GOLDEN_NAMES = {"cp-mobile": "cpm", "cp-resnet": "cpr", "passt": "passt"}


def exact(extractor: AscFeatureExtractor, waveform: torch.Tensor) -> torch.Tensor:
    """The extractor's log-mels in float64, by the formulas."""
    signal, length = waveform.double(), extractor.win_length
    signal = signal[:, 1:] - extractor.preemphasis * signal[:, :-1]
    padded = torch.nn.functional.pad(signal[:, None], ((length + 1) // 2, length // 2), mode="reflect")[:, 0]
    window = torch.hann_window(length, periodic=False, dtype=torch.float64)
    frames = padded.unfold(1, length, extractor.hop_length) * window
    powers = torch.fft.rfft(frames, n=extractor.n_fft).abs().square()
    edges = {name: getattr(extractor, name) for name in ("sampling_rate", "fmin", "fmax")}
    energies = powers @ mel_filter_bank(extractor.n_mels, extractor.n_fft, **edges).double().t()
    log_mels = ((energies + extractor.log_offset).log() + extractor.shift) / extractor.scale
    return log_mels.transpose(1, 2)


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) / 10


@needs_gcc
@pytest.mark.parametrize("preset", GOLDEN_NAMES)
def test_mels_are_the_published_ones(preset, golden):
    clips = golden("clips8")
    log_mels = log_mel(AscFeatureExtractor.from_preset(preset), torch.from_numpy(clips["wav"]))
    expected = torch.from_numpy(clips[f"mel_{GOLDEN_NAMES[preset]}"])
    torch.testing.assert_close(log_mels, expected, atol=TOLERANCE, rtol=0)


@needs_gcc
@pytest.mark.parametrize("fmax", [15_001, 16_000])
@pytest.mark.parametrize("preset", ["cp-mobile", "passt"])
def test_mels_at_the_ends_of_the_jitter_are_the_published_ones(preset, fmax, golden):
    extra = golden("mel_extra")
    log_mels = log_mel(AscFeatureExtractor.from_preset(preset), torch.from_numpy(extra["wav"]), fmax=fmax)
    expected = torch.from_numpy(extra[f"{GOLDEN_NAMES[preset]}_fmax{fmax}"])
    torch.testing.assert_close(log_mels, expected, atol=TOLERANCE, rtol=0)


SETTINGS = [
    {"n_fft": 8, "win_length": 8, "hop_length": 3, "n_mels": 2},
    {"n_fft": 16, "win_length": 9, "hop_length": 16, "n_mels": 3},
    {"n_fft": 54, "win_length": 51, "hop_length": 20, "n_mels": 8},  # 27 complex numbers, without a middle
    {"n_fft": 96, "win_length": 96, "hop_length": 1, "n_mels": 11},
    {"n_fft": 256, "win_length": 1, "hop_length": 100, "n_mels": 20},
    {"n_fft": 256, "win_length": 200, "hop_length": 300, "n_mels": 200},  # filters without a bin, hops beyond windows
    {"n_fft": 512, "win_length": 500, "hop_length": 160, "n_mels": 40, "fmin": 300.0, "fmax": 5000.0},
    {"n_fft": 768, "win_length": 700, "hop_length": 250, "n_mels": 64, "sampling_rate": 16_000, "fmax": 8000.0},
    {"n_fft": 2048, "win_length": 1001, "hop_length": 77, "preemphasis": 0.5, "log_offset": 1e-3, "shift": 1.0},
]


@needs_gcc
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("more", [0, 1, 1234])
def test_other_settings_and_lengths_follow_the_formulas(settings, more):
    extractor = AscFeatureExtractor(**settings)
    waveform = noise(3, extractor.n_fft + more)
    log_mels = log_mel(extractor, waveform)
    torch.testing.assert_close(log_mels.double(), exact(extractor, waveform), atol=TOLERANCE, rtol=0)


@needs_gcc
@pytest.mark.parametrize("level", [1e-12, 1e-3, 1.0, 1e4])
def test_silence_and_loud_clips_keep_their_exactness(level):
    extractor = AscFeatureExtractor.from_preset("cp-mobile")
    waveform = level * noise(1, 8000)
    torch.testing.assert_close(log_mel(extractor, waveform).double(), exact(extractor, waveform), atol=1e-4, rtol=0)
    nothing = torch.full((1, 256, 16), (math.log(1e-5) + 4.5) / 5)
    torch.testing.assert_close(log_mel(extractor, torch.zeros(1, 8000)), nothing, atol=1e-6, rtol=0)


@needs_gcc
def test_nan_shows_in_the_frames_it_is_in_and_nowhere_else():
    extractor, waveform = AscFeatureExtractor.from_preset("cp-resnet"), noise(2, 32_000)
    waveform[1, 16_000] = math.nan
    assert torch.equal(log_mel(extractor, waveform).isnan(), extractor.log_mel(waveform).isnan())


@needs_gcc
def test_threads_batches_and_memory_do_not_change_the_bits():
    extractor, waveform = AscFeatureExtractor.from_preset("cp-mobile"), noise(32_000, 3).t()
    before, results = waveform.clone(), []
    for count in (1, 3):
        with torch_threads(count):
            results.append(log_mel(extractor, waveform))
    assert torch.equal(*results) and torch.equal(waveform, before)
    assert torch.equal(torch.cat([log_mel(extractor, clip[None]) for clip in waveform]), results[0])


@needs_gcc
def test_other_defaults_of_torch_change_nothing():
    extractor, waveform = AscFeatureExtractor(n_fft=96, win_length=90, hop_length=40, n_mels=9), noise(2, 300)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            first = log_mel(extractor, waveform)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(first.double(), exact(extractor, waveform), atol=TOLERANCE, rtol=0)


def test_transforms_are_twice_products_of_two_and_three():
    assert all(can_transform(settings["n_fft"]) for settings in PRESETS.values())
    assert [n_fft for n_fft in range(2, 60, 2) if can_transform(n_fft)] == [8, 12, 16, 18, 24, 32, 36, 48, 54]
