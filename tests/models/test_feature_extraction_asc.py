"""The log-mel front-end: the published numbers, the forms of input, and the refusals."""

import importlib
import json
import logging as python_logging
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor
from transformers.utils import logging

from hf_ascdistill import AscFeatureExtractor
from hf_ascdistill.models import feature_extraction_asc
from hf_ascdistill.models.feature_extraction_asc import PRESETS, mel_filter_bank

MEL_TOLERANCE = 1e-4  # between float32 implementations of the front-end
GOLDEN_NAMES = {"cp-mobile": "cpm", "cp-resnet": "cpr", "passt": "passt"}
RATE = 32_000


@pytest.fixture(params=sorted(GOLDEN_NAMES))
def preset(request):
    return request.param


@pytest.fixture
def small():
    """A front-end of short windows, for what does not depend on the lengths."""
    return AscFeatureExtractor(n_fft=256, win_length=200, hop_length=100, n_mels=20)


def noise(*shape, seed=0, dtype=np.float32):
    return (np.random.default_rng(seed).normal(0, 0.1, shape)).astype(dtype)


def test_mels_are_the_published_ones(preset, golden):
    clips = golden("clips8")
    mels = AscFeatureExtractor.from_preset(preset)(clips["wav"], sampling_rate=RATE).input_values
    np.testing.assert_allclose(mels, clips[f"mel_{GOLDEN_NAMES[preset]}"], atol=MEL_TOLERANCE, rtol=0)


def test_audioset_was_evaluated_with_a_lower_upper_edge():
    before, after = AscFeatureExtractor.from_preset("passt-audioset"), AscFeatureExtractor.from_preset("passt")
    assert (before.fmax, after.fmax) == (15_000, 15_500)
    assert {**before.to_dict(), "fmax": 15_500.0} == after.to_dict()
    assert set(PRESETS) == {*GOLDEN_NAMES, "passt-audioset"}


def test_other_rates_are_resampled_as_the_published_audio_was(golden):
    clips = golden("clips8")
    mels = AscFeatureExtractor.from_preset("cp-mobile")(clips["raw44100"], sampling_rate=44_100).input_values
    np.testing.assert_allclose(mels, clips["mel_cpm"], atol=MEL_TOLERANCE, rtol=0)


@pytest.mark.parametrize("fmax", [15_001, 16_000])
@pytest.mark.parametrize("name", ["cp-mobile", "passt"])
def test_mels_at_the_ends_of_the_jitter_are_the_published_ones(name, fmax, golden):
    extra = golden("mel_extra")
    mels = AscFeatureExtractor.from_preset(name).log_mel(torch.from_numpy(extra["wav"]), fmax=fmax)
    expected = torch.from_numpy(extra[f"{GOLDEN_NAMES[name]}_fmax{fmax}"])
    torch.testing.assert_close(mels, expected, atol=MEL_TOLERANCE, rtol=0)


@pytest.mark.parametrize("fmax", [15_001, 15_500, 16_000])
@pytest.mark.parametrize(("n_mels", "n_fft"), [(256, 4096), (128, 1024)])
def test_mel_banks_are_the_published_ones(n_mels, n_fft, fmax, golden):
    bank = mel_filter_bank(n_mels, n_fft, sampling_rate=RATE, fmin=0, fmax=fmax)
    expected = golden("melbanks")[f"bank_{n_mels}_{n_fft}_{fmax}"]
    np.testing.assert_allclose(bank.numpy(), expected, atol=MEL_TOLERANCE, rtol=0)


def emphasised_frames(golden):
    """Frames of the first golden clip, as CP-Mobile's front-end cuts them."""
    waveform = torch.from_numpy(golden("mel_extra")["wav"][:1])
    return feature_extraction_asc._emphasised_frames(waveform, 0.97, 3072, 500)


def test_frames_of_the_pre_emphasised_signal_are_the_published_ones(golden):
    signal = golden("mel_extra")["cpm_preemph_clip0"]
    padded = np.pad(signal, ((0, 0), (1536, 1536)), mode="reflect")
    expected = np.lib.stride_tricks.sliding_window_view(padded, 3072, axis=1)[:, ::500]
    np.testing.assert_allclose(emphasised_frames(golden).numpy(), expected, atol=1e-7, rtol=0)


def test_power_spectrum_is_the_published_one(golden):
    extra, frames = golden("mel_extra"), emphasised_frames(golden)
    windowed = torch.nn.functional.pad(frames * feature_extraction_asc._hann_window(3072, frames.device), (0, 1024))
    squares = feature_extraction_asc._spectral_squares(windowed)
    power = squares.unflatten(-1, (-1, 2)).sum(-1).transpose(1, 2).numpy()
    expected = extra["cpm_power_clip0"]
    # where a bin is weak, its rounding error comes from the strongest bin of its frame
    tolerance = 1e-4 * expected + 1e-6 * expected.max(axis=1, keepdims=True)
    assert (np.abs(power - expected) <= tolerance).all()


def test_silence_gives_the_floor(preset):
    mels = AscFeatureExtractor.from_preset(preset)(np.zeros(RATE, np.float32), sampling_rate=RATE).input_values
    np.testing.assert_allclose(mels, -1.40259, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"), [("cp-mobile", (256, 64)), ("cp-resnet", (256, 43)), ("passt", (128, 100))]
)
def test_one_second_gives_the_published_shape(name, shape):
    assert AscFeatureExtractor.from_preset(name)(noise(RATE), sampling_rate=RATE).input_values.shape == (1, *shape)


def test_mask_value_is_the_normalised_zero():
    assert AscFeatureExtractor().mask_value == pytest.approx(0.9)


@pytest.mark.parametrize("samples", [256, 257, 399, 400, 401, 1000, 5001])
def test_any_length_equals_a_plain_stft(small, samples):
    waveform = torch.from_numpy(noise(3, samples, dtype=np.float64))
    emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
    window = torch.hann_window(200, periodic=False, dtype=torch.float64)
    spectrum = torch.stft(emphasised, 256, 100, 200, window, pad_mode="reflect", return_complex=True)
    bank = mel_filter_bank(20, 256, sampling_rate=RATE, fmin=0, fmax=15_500).double()
    expected = ((bank @ spectrum.abs().square() + 1e-5).log() + 4.5) / 5
    torch.testing.assert_close(small.log_mel(waveform.float()).double(), expected, atol=MEL_TOLERANCE, rtol=0)


def test_an_odd_window_equals_a_plain_stft():
    extractor = AscFeatureExtractor(n_fft=256, win_length=201, hop_length=100, n_mels=20, preemphasis=0)
    waveform = torch.from_numpy(noise(2, 1000))
    window = torch.hann_window(201, periodic=False)
    spectrum = torch.stft(waveform[:, 1:], 256, 100, 201, window, pad_mode="reflect", return_complex=True)
    bank = mel_filter_bank(20, 256, sampling_rate=RATE, fmin=0, fmax=15_500)
    expected = ((bank @ spectrum.abs().square() + 1e-5).log() + 4.5) / 5
    torch.testing.assert_close(extractor.log_mel(waveform), expected, atol=1e-5, rtol=0)


def test_chunks_do_not_change_the_mels(small, monkeypatch):
    waveform = torch.from_numpy(noise(7, 3000))
    whole = small.log_mel(waveform)
    monkeypatch.setattr(feature_extraction_asc, "_SAMPLES_PER_CHUNK_CPU", 8 * 256)  # clips of 30 frames are cut, too
    torch.testing.assert_close(small.log_mel(waveform), whole, atol=1e-5, rtol=0)


def test_a_clip_does_not_depend_on_its_batch(small):
    waveform = torch.from_numpy(noise(20, 3000))
    torch.testing.assert_close(small.log_mel(waveform)[5:6], small.log_mel(waveform[5:6]), atol=1e-5, rtol=0)


def test_fmax_changes_the_bank_and_does_not_stick(small):
    waveform = torch.from_numpy(noise(1, 1000))
    before, other = small.log_mel(waveform), small.log_mel(waveform, fmax=12_000)
    assert (before - other).abs().max() > 0.1
    assert torch.equal(small.log_mel(waveform), before)


def test_all_forms_of_input_agree(small):
    clips = noise(2, 1000)
    expected = small(clips, sampling_rate=RATE).input_values
    for form in (
        clips.tolist(),
        list(clips),
        tuple(torch.from_numpy(clips)),
        torch.from_numpy(clips),
        torch.from_numpy(clips).requires_grad_(),
        clips.astype(np.float64),
        clips[:, ::-1].copy()[:, ::-1],
    ):
        np.testing.assert_array_equal(small(form, sampling_rate=RATE).input_values, expected)


@pytest.mark.filterwarnings("error")
def test_a_read_only_array_passes_without_a_warning(small):
    clips = noise(2, 1000)
    clips.setflags(write=False)
    small(clips, sampling_rate=RATE)


def test_one_clip_is_a_batch_of_one(small):
    clip = noise(1000)
    expected = small(clip[None], sampling_rate=RATE).input_values
    np.testing.assert_array_equal(small(clip.tolist(), sampling_rate=RATE).input_values, expected)


def test_return_tensors_choose_the_type(small):
    clip = noise(1000)
    tensor = small(clip, sampling_rate=RATE, return_tensors="pt").input_values
    array = small(clip, sampling_rate=RATE, return_tensors="np").input_values
    assert tensor.dtype == torch.float32 and array.dtype == np.float32
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_the_input_is_not_changed(small):
    clips = torch.from_numpy(noise(2, 1000))
    before = clips.clone()
    small(clips, sampling_rate=RATE)
    small.log_mel(clips)
    assert torch.equal(clips, before)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros(1000, np.int16), "int16.*divide"),
        (torch.zeros(1000, dtype=torch.int64), "int64.*divide"),
        ([0, 1, 0, 1], "int64.*divide"),
        (np.zeros((1, 2, 1000), np.float32), r"\(1, 2, 1000\).*mono"),
        (np.zeros((0, 1000), np.float32), r"\(0, 1000\)"),
        ([], r"\(0,\)|\(1, 0\)"),
        ([noise(1000), noise(900)], r"\(900,\), \(1000,\).*one length"),
        (noise(255), "255 samples.*at least 256"),
        (["airport"], "dtype"),
    ],
)
def test_what_is_no_clip_raises(small, clip, message):
    with pytest.raises(ValueError, match=message):
        small(clip, sampling_rate=RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_raises_and_names_the_clip(small, value):
    clips = noise(3, 1000)
    clips[1, 7] = value
    with pytest.raises(ValueError, match=r"NaN or infinite.*\[1\]"):
        small(clips, sampling_rate=RATE)


@pytest.mark.parametrize("waveform", [torch.zeros(1000), torch.zeros(1, 1000, dtype=torch.int16), torch.zeros(2, 255)])
def test_log_mel_refuses_what_is_no_batch_of_clips(small, waveform):
    with pytest.raises(ValueError, match="expected"):
        small.log_mel(waveform)


@pytest.mark.parametrize("rate", [0, -16_000, float("nan")])
def test_an_impossible_rate_raises(small, rate):
    with pytest.raises(ValueError, match="sampling_rate"):
        small(noise(1000), sampling_rate=rate)


def test_another_rate_without_a_resampler_raises(small, monkeypatch):
    real = importlib.import_module

    def import_module(name, *arguments):
        if name == "soxr":
            raise ModuleNotFoundError("No module named 'soxr'", name="soxr")
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match="44100 Hz.*32000 Hz.*soxr"):
        small(noise(1000), sampling_rate=44_100)
    small(noise(1000), sampling_rate=RATE)


def test_a_missing_rate_is_warned_about_once(small):
    records = []
    handler = python_logging.Handler()
    handler.emit = records.append
    logger = logging.get_logger(feature_extraction_asc.__name__)
    logger.addHandler(handler)
    logger.warning_once.cache_clear()
    try:
        for _ in range(2):
            small(noise(1000))
    finally:
        logger.removeHandler(handler)
    [record] = records
    assert "32000 Hz is assumed" in record.getMessage()


@pytest.mark.parametrize(
    "settings",
    [
        {"n_mels": 0},
        {"hop_length": 1.5},
        {"win_length": 5000},
        {"n_fft": 4095},
        {"fmin": -1.0},
        {"fmax": 16_001.0},
        {"fmin": 15_500.0},
        {"log_offset": 0.0},
        {"n_mel": 128},
    ],
)
def test_an_impossible_setting_raises(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AscFeatureExtractor(**settings)


def test_an_unknown_preset_raises():
    with pytest.raises(ValueError, match="cp-mobil'.*cp-mobile, cp-resnet, passt"):
        AscFeatureExtractor.from_preset("cp-mobil")


@pytest.mark.parametrize(("fmin", "fmax"), [(0, 16_001), (5000, 4000), (-1, 4000)])
def test_impossible_edges_of_a_bank_raise(fmin, fmax):
    with pytest.raises(ValueError, match="fmin.*fmax"):
        mel_filter_bank(20, 256, sampling_rate=RATE, fmin=fmin, fmax=fmax)


def test_saving_keeps_every_setting_and_no_array(tmp_path):
    extractor = AscFeatureExtractor.from_preset("passt", fmax=15_000, hop_length=321)
    extractor(noise(RATE), sampling_rate=RATE)
    extractor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    assert file.stat().st_size < 1000 and json.loads(file.read_text())["n_mels"] == 128
    loaded = AscFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict() and loaded.hop_length == 321


def test_a_saved_front_end_loads_through_the_auto_class(tmp_path):
    AscFeatureExtractor.from_preset("cp-resnet").save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is AscFeatureExtractor and loaded.hop_length == 750


def test_pickles_are_small_and_equal(small):
    small(noise(1000), sampling_rate=RATE)
    pickled = pickle.dumps(small)
    assert len(pickled) < 1000 and pickle.loads(pickled).to_dict() == small.to_dict()


@pytest.fixture
def fast_matrix_products():
    """Allows bfloat16 on CPUs that have it and TF32 on GPUs, as Trainer does by default on newer GPUs."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(precision)


def test_autocast_leaves_the_mels_alone(small):
    waveform = torch.from_numpy(noise(4, 5000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mels = small.log_mel(waveform)
    assert mels.dtype == torch.float32
    assert torch.equal(mels, small.log_mel(waveform))


def test_fast_matrix_products_leave_the_mels_alone(golden, fast_matrix_products):
    clips = golden("clips8")
    mels = AscFeatureExtractor().log_mel(torch.from_numpy(clips["wav"]))
    torch.testing.assert_close(mels, torch.from_numpy(clips["mel_cpm"]), atol=MEL_TOLERANCE, rtol=0)


def test_matrix_products_are_exact_inside_only(small, fast_matrix_products, monkeypatch):
    seen = []
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    spectral_squares = feature_extraction_asc._spectral_squares

    def watched(windowed):
        seen.extend(backend.fp32_precision for backend in backends)
        return spectral_squares(windowed)

    monkeypatch.setattr(feature_extraction_asc, "_spectral_squares", watched)
    before = [backend.fp32_precision for backend in backends]
    small.log_mel(torch.from_numpy(noise(1, 1000)))
    assert seen == ["ieee", "ieee"] and [backend.fp32_precision for backend in backends] == before
    assert torch.get_float32_matmul_precision() == "medium"


def test_half_precision_waveforms_give_float32_mels(small):
    waveform = torch.from_numpy(noise(2, 1000))
    mels = small.log_mel(waveform.bfloat16())
    assert mels.dtype == torch.float32
    assert torch.equal(mels, small.log_mel(waveform.bfloat16().float()))


def test_no_gradient_flows_through_the_mels(small):
    assert not small.log_mel(torch.from_numpy(noise(1, 1000)).requires_grad_()).requires_grad


def test_tables_made_in_inference_mode_serve_training(small):
    feature_extraction_asc._filter_blocks.cache_clear()
    feature_extraction_asc._hann_window.cache_clear()
    waveform = torch.from_numpy(noise(1, 1000))
    with torch.inference_mode():
        expected = small.log_mel(waveform).clone()
    mels = small.log_mel(waveform)
    assert not mels.is_inference() and torch.equal(mels, expected)


def test_the_jitter_builds_each_bank_once(small):
    waveform = torch.from_numpy(noise(1, 256))
    for _ in range(2):
        for fmax in range(15_001, 15_101):
            small.log_mel(waveform, fmax=fmax)
    before = feature_extraction_asc._filter_blocks.cache_info().misses
    small.log_mel(waveform, fmax=15_001)
    assert feature_extraction_asc._filter_blocks.cache_info().misses == before


@pytest.mark.parametrize("preset", sorted(feature_extraction_asc.PRESETS))
def test_all_banks_of_the_jitter_together_stay_small(preset):
    extractor = AscFeatureExtractor.from_preset(preset)
    scale = feature_extraction_asc._MelScale(extractor.n_mels, extractor.n_fft, 32_000, 0.0, 16_000.0)
    blocks = feature_extraction_asc._filter_blocks(scale, torch.device("cpu"))
    assert feature_extraction_asc._MAX_BANKS * sum(weights.nbytes for _, weights in blocks) < 300e6
