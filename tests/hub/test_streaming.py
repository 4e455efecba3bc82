"""The streaming classifier: chunks of any size, smoothing, hysteresis, memory that does not grow."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from serving_parts import RATE, noise, small_model
from torch import nn

from hf_ascdistill import AscFeatureExtractor
from hf_ascdistill.hub.streaming import StreamingClassifier
from hf_ascdistill.hub.windows import predict_windows


@pytest.fixture(scope="module")
def parts():
    return small_model("cp-mobile"), AscFeatureExtractor.from_preset("cp-mobile")


class Scripted(nn.Module):
    """Says the same probability of its first class of two, call by call, whatever it hears."""

    def __init__(self, shares: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shares = iter(shares)
        self.config = SimpleNamespace(id2label={0: "bus", 1: "park"})

    def forward(self, input_values: torch.Tensor) -> SimpleNamespace:
        share = torch.tensor(next(self.shares), dtype=torch.float64)
        return SimpleNamespace(logits=torch.stack([share, 1 - share]).log()[None])


def scripted(shares: list[float], **settings) -> list:
    """Decisions of a stream whose windows have these probabilities of "bus"."""
    stream = StreamingClassifier(Scripted(shares), AscFeatureExtractor.from_preset("cp-mobile"), **settings)
    return stream.push(noise(0.5 + 0.5 * len(shares)))


def run(stream: StreamingClassifier, waveform: np.ndarray, sizes) -> list:
    decisions, first = [], 0
    while first < waveform.shape[-1]:
        size = int(next(sizes))
        decisions += stream.push(waveform[..., first : first + size])
        first += size
    return decisions + stream.finish()


def assert_same(decisions: list, expected: list) -> None:
    assert len(decisions) == len(expected) > 0
    for one, other in zip(decisions, expected, strict=True):
        assert (one.time, one.scene, one.is_change) == (other.time, other.scene, other.is_change)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.window_scores, other.window_scores)


@pytest.mark.parametrize("rate", [RATE, 44_100, 8_000])
@pytest.mark.parametrize("channels", [None, 2])
def test_chunks_of_any_size_give_the_same(parts, rate, channels):
    waveform = np.ascontiguousarray(noise(3.7, rate=rate, channels=channels).T)
    stream = StreamingClassifier(*parts, sampling_rate=rate, enter=0.5, leave=0.1, smoothing=0.7)
    whole = run(stream, waveform, iter([10**9]))
    generator = np.random.default_rng(0)
    for sizes in (
        lambda: 1 + generator.integers(0, 50),
        lambda: 160,
        lambda: rate,
        lambda: generator.integers(1, 60_000),
    ):
        assert_same(run(stream, waveform, iter(sizes, None)), whole)


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_windows_have_the_scores_of_the_same_windows_offline(parts, rate):
    waveform = noise(4.0, rate=rate)
    stream = StreamingClassifier(*parts, sampling_rate=rate)
    decisions = stream.push(waveform) + stream.finish()
    offline = predict_windows(*parts, waveform, sampling_rate=rate)
    assert [decision.time for decision in decisions] == pytest.approx((offline.times + 1.0).tolist())
    np.testing.assert_allclose([decision.window_scores for decision in decisions], offline.scores, atol=1e-5)


def test_a_decision_comes_with_the_last_sample_of_its_window(parts):
    stream = StreamingClassifier(*parts, hop=0.25)
    waveform = noise(2.0)
    assert stream.push(waveform[: RATE - 1]) == []
    assert [decision.time for decision in stream.push(waveform[RATE - 1 : RATE])] == [1.0]
    assert stream.push(waveform[:0]) == []
    assert [decision.time for decision in stream.push(waveform[: RATE // 2])] == [1.25, 1.5]


def test_scores_are_an_exponential_mean_that_starts_unbiased():
    shares = [0.9, 0.2, 0.4, 0.8]
    decisions = scripted(shares, smoothing=0.5)
    for count, decision in enumerate(decisions, start=1):
        weights = np.exp(-np.arange(count)[::-1])  # a hop of 0.5 s is one time constant
        assert decision.scores[0] == pytest.approx((weights * shares[:count]).sum() / weights.sum(), abs=1e-6)
        assert decision.window_scores[0] == pytest.approx(shares[count - 1], abs=1e-6)
    assert [decision.scores[0] for decision in scripted(shares, smoothing=0)] == pytest.approx(shares, abs=1e-6)


def test_a_scene_is_entered_above_one_threshold_and_left_below_another():
    shares = [0.6, 0.75, 0.6, 0.45, 0.35, 0.6, 0.25, 0.2, 0.5]
    scenes = [None, "bus", "bus", "bus", None, None, "park", "park", "park"]
    decisions = scripted(shares, smoothing=0, enter=0.7, leave=0.4)
    assert [decision.scene for decision in decisions] == scenes
    assert [decision.is_change for decision in decisions] == [
        False,
        True,
        False,
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_a_sure_scene_replaces_another_at_once():
    assert [decision.scene for decision in scripted([0.9, 0.1], smoothing=0, enter=0.6, leave=0.05)] == ["bus", "park"]


def test_flicker_around_one_half_changes_nothing():
    decisions = scripted([0.8] + [0.45, 0.55] * 10, smoothing=0, enter=0.6, leave=0.3)
    assert sum(decision.is_change for decision in decisions) == 1


def test_reset_begins_a_new_recording(parts):
    waveform = noise(2.6, rate=44_100)
    stream = StreamingClassifier(*parts, sampling_rate=44_100)
    first = stream.push(waveform)
    stream.push(noise(1.3, seed=1, rate=44_100))
    stream.reset()
    assert stream.scene is None
    assert_same(stream.push(waveform), first)


def test_the_end_of_a_recording_is_not_lost_in_the_resampler(parts):
    stream = StreamingClassifier(*parts, sampling_rate=44_100)
    assert [decision.time for decision in stream.push(noise(1.5, rate=44_100))] == [1.0]
    assert [decision.time for decision in stream.finish()] == [1.5]
    assert stream.push(noise(0.9, rate=44_100)) == []  # begins anew


@pytest.mark.parametrize("bad", [np.full(10, np.nan, np.float32), np.zeros(10, np.int16), np.full(10, np.inf), [0.0]])
def test_a_wrong_chunk_is_refused_and_changes_nothing(parts, bad):
    waveform, stream = noise(2.0), StreamingClassifier(*parts)
    expected = stream.push(waveform)
    stream.reset()
    decisions = stream.push(waveform[:20_000])
    with pytest.raises(ValueError, match="waveform"):
        stream.push(bad)
    assert_same(decisions + stream.push(waveform[20_000:]), expected)


def test_memory_does_not_grow_with_the_recording():
    stream = StreamingClassifier(
        Scripted([0.5] * 1_000), AscFeatureExtractor.from_preset("cp-mobile"), sampling_rate=48_000
    )
    second = noise(1.0, rate=48_000)
    for _ in range(3):
        stream.push(second)
    tracemalloc.start()
    for _ in range(40):
        stream.push(second)
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert left < 100_000  # a second at 48 kHz is 192,000 bytes


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"window": 0.2}, r"window is 0\.2 s; expected at least 0\.5 s"),
        ({"hop": 1.1}, r"hop is 1\.1 s; expected more than 0 and at most one window, 1\.0 s"),
        ({"smoothing": -1}, "smoothing is -1 s; expected a number of seconds, 0 for none"),
        ({"enter": 0.4}, r"enter is 0\.4, leave 0\.1; expected 0\.5 <= enter <= 1"),
        ({"enter": 0.5, "leave": 0.6}, r"enter is 0\.5, leave 0\.6; expected"),
        ({"sampling_rate": -1}, "sampling_rate is -1; expected a positive number of Hz"),
    ],
)
def test_settings_out_of_range_are_named(parts, settings, message):
    with pytest.raises(ValueError, match=message):
        StreamingClassifier(*parts, **settings)
