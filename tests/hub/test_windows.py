"""Windowed prediction as a library call."""

import numpy as np
import pytest
import soxr
import torch
from serving_parts import RATE, noise, small_model

from hf_ascdistill import AscFeatureExtractor
from hf_ascdistill.hub.windows import predict_windows


@pytest.fixture(scope="module")
def parts():
    return small_model("cp-mobile"), AscFeatureExtractor.from_preset("cp-mobile")


def probabilities(parts, clip: np.ndarray) -> np.ndarray:
    """Softmax of the logits of one clip at 32 kHz."""
    model, extractor = parts
    with torch.no_grad():
        features = extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_values"]
        return model(features).logits[0].double().softmax(-1).numpy()


def test_each_window_has_the_scores_of_its_samples(parts):
    waveform = noise(2.3)
    result = predict_windows(*parts, waveform, sampling_rate=RATE)
    np.testing.assert_allclose(result.times, [0.0, 0.5, 1.0, 1.3])
    expected = [probabilities(parts, waveform[round(time * RATE) :][:RATE]) for time in result.times]
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    np.testing.assert_allclose(result.mean, np.mean(expected, axis=0), atol=1e-5)
    assert result.window == 1.0
    assert np.abs(result.scores[0] - result.scores[1]).max() > 1e-3


def test_the_batch_size_changes_nothing(parts):
    waveform = noise(5.0)
    one, many = (predict_windows(*parts, waveform, sampling_rate=RATE, batch_size=size) for size in (1, 32))
    np.testing.assert_allclose(one.scores, many.scores, atol=1e-5)


def test_scores_are_those_of_the_request_handler(parts, handler):
    waveform = noise(3.1, rate=44_100, channels=2).T
    parameters = {"window": 2.0, "hop": 0.7, "per_window": True}
    answer = handler({"inputs": {"raw": waveform, "sampling_rate": 44_100}, "parameters": parameters})
    result = predict_windows(*parts, waveform, sampling_rate=44_100, window=2.0, hop=0.7)
    for entry in answer:
        index = handler.model.config.label2id[entry["label"]]
        assert entry["score"] == pytest.approx(result.mean[index], abs=1e-5)
        assert [window["start"] for window in entry["windows"]] == pytest.approx(result.times.tolist())


def test_a_recording_is_resampled_as_a_whole(parts):
    waveform = noise(2.0, rate=48_000)
    resampled = soxr.resample(waveform, 48_000, RATE, quality="HQ")
    result = predict_windows(*parts, waveform, sampling_rate=48_000)
    np.testing.assert_array_equal(result.scores, predict_windows(*parts, resampled, sampling_rate=RATE).scores)


def test_short_recordings_are_one_window(parts):
    waveform = noise(0.7)
    result = predict_windows(*parts, waveform, sampling_rate=RATE)
    assert result.window == pytest.approx(0.7) and result.times.tolist() == [0.0]
    np.testing.assert_allclose(result.scores[0], probabilities(parts, waveform), atol=1e-5)
    mirrored = np.concatenate([waveform[:10_000], waveform[3_998:9_999][::-1]])[: RATE // 2]
    result = predict_windows(*parts, waveform[:10_000], sampling_rate=RATE)
    np.testing.assert_allclose(result.scores[0], probabilities(parts, mirrored), atol=1e-5)


def test_the_model_is_left_in_evaluation_mode(parts):
    model = small_model("cp-mobile").train()
    result = predict_windows(model, parts[1], noise(1.0), sampling_rate=RATE)
    assert not model.training
    np.testing.assert_allclose(result.scores[0], probabilities(parts, noise(1.0)), atol=1e-5)


@pytest.mark.parametrize(
    "waveform,settings,message",
    [
        (noise(1.0), {"window": 0.4}, r"window is 0\.4 s; expected at least 0\.5 s"),
        (noise(1.0), {"hop": 0}, "hop is 0 s; expected more than 0 and at most one window"),
        (noise(1.0), {"hop": 1.5}, r"hop is 1\.5 s"),
        (noise(1.0), {"batch_size": 0}, "batch_size is 0; expected at least 1"),
        (noise(1.0), {"sampling_rate": 0}, "sampling_rate is 0; expected a positive number of Hz"),
        (noise(0.05), {}, r"waveform has 1600 samples at 32000 Hz; expected at least 0\.1 s"),
        (np.zeros(0, np.float32), {}, "waveform has 0 samples"),
        (np.zeros(RATE, np.int16), {}, r"waveform is int16 of shape \(32000,\); expected a floating-point array"),
        ([0.0] * RATE, {}, "waveform is .*list.*; expected a floating-point array"),
        (np.zeros((1, 1, RATE)), {}, r"waveform is float64 of shape \(1, 1, 32000\)"),
        (np.full(RATE, np.nan), {}, "the peak of waveform is nan"),
        (np.full(RATE, 1e4), {}, r"the peak of waveform is 10000\.0; expected full scale 1"),
    ],
)
def test_wrong_input_is_named(parts, waveform, settings, message):
    with pytest.raises(ValueError, match=message):
        predict_windows(*parts, waveform, **{"sampling_rate": RATE, **settings})
