"""The learning-rate schedule: the published factors, runs of other lengths, and the refusals."""

import numpy as np
import pytest

from hf_ascdistill import EpochSchedule, warmup_rampdown_factor

SCHEDULES = ("cpm", "cpr", "passt", "qat", "qat24", "diraug_cpr", "diraug_passt", "malach")


@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_and_rates_are_the_published_ones(name, golden):
    published = golden("lr")
    warmup, ramp_length, ramp_start, last, epochs, peak = published[f"{name}_cfg"]
    schedule = EpochSchedule(int(warmup), int(ramp_start), int(ramp_length), last, int(epochs))
    factors = np.array([schedule.factor(epoch) for epoch in range(int(epochs))])
    np.testing.assert_allclose(factors, published[f"{name}_factor"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(peak * factors, published[f"{name}_lr"], atol=1e-9, rtol=0)


def test_the_default_is_the_papers_student():
    factors = [EpochSchedule().factor(epoch) for epoch in range(150)]
    assert factors[0] == pytest.approx(0.009569, abs=1e-6) and factors[1] == pytest.approx(0.013417, abs=1e-6)
    assert set(factors[14:51]) == {1.0} and factors[51] < 1
    np.testing.assert_allclose(factors[134:], 0.005)


def test_the_function_is_the_schedules_factor():
    settings = {"warmup_epochs": 3, "ramp_start": 5, "ramp_length": 4, "last": 0.1}
    factors = [warmup_rampdown_factor(epoch, **settings) for epoch in range(12)]
    assert factors == [EpochSchedule(**settings).factor(epoch) for epoch in range(12)]
    assert factors[5:10] == pytest.approx([1.0, 0.775, 0.55, 0.325, 0.1])


def test_a_run_of_the_reference_length_keeps_the_schedule():
    assert EpochSchedule().scaled(150) == EpochSchedule()


def test_a_shorter_run_keeps_the_proportions():
    assert EpochSchedule().scaled(75) == EpochSchedule(7, 25, 42, 0.005, 75)


def test_epochs_are_rounded_to_the_nearest():
    assert EpochSchedule().scaled(30) == EpochSchedule(3, 10, 17, 0.005, 30)  # 2.8, 10, 16.8


def test_a_longer_run_keeps_the_proportions():
    assert EpochSchedule().scaled(300) == EpochSchedule(28, 100, 168, 0.005, 300)


@pytest.mark.parametrize("epochs", [0.5, *range(1, 40)])
def test_any_run_rises_stays_and_falls(epochs):
    schedule = EpochSchedule().scaled(epochs)
    factors = [schedule.factor(epoch) for epoch in range(int(np.ceil(epochs)))]
    peak = factors.index(max(factors))
    assert max(factors) == 1.0 and min(factors) > 0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_epochs": -1},
        {"ramp_start": 13},  # before the warm-up ends
        {"ramp_length": 0},
        {"last": 0.0},
        {"last": 1.1},
        {"last": float("nan")},
        {"reference_epochs": 0},
    ],
)
def test_an_impossible_schedule_raises(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        EpochSchedule(**settings)


@pytest.mark.parametrize("epochs", [0, -1, float("nan")])
def test_an_impossible_run_raises(epochs):
    with pytest.raises(ValueError, match="epochs"):
        EpochSchedule().scaled(epochs)
