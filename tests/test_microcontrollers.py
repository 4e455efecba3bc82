"""Estimates of latency on a small CPU: by hand, and against published measurements."""

from dataclasses import replace

import pytest
import torch
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from hf_ascdistill.complexity import count_depthwise_macs, count_macs
from hf_ascdistill.microcontrollers import CORTEX_M7, Microcontroller


def test_latency_is_cycles_over_the_clock():
    target = Microcontroller("toy", clock_hz=100, macs_per_cycle=2, depthwise_macs_per_cycle=0.5)
    assert target.latency_seconds(1_000) == 5
    assert target.latency_seconds(1_000, 200) == 4 + 4


@pytest.mark.parametrize(("size", "published"), [(128, 0.10111), (224, 0.36382)])
def test_mobilenet_takes_about_what_was_measured(size, published):
    # STM32H747I-DISCO at 400 MHz, int8, STM32Cube.AI 8.1 (model zoo of STM32, flowers)
    with torch.device("meta"):
        model = MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, num_labels=5))
    macs = [count(model, (1, 3, size, size)) for count in (count_macs, count_depthwise_macs)]
    assert replace(CORTEX_M7, clock_hz=400e6).latency_seconds(*macs) == pytest.approx(published, rel=0.15)


def test_the_assumptions_are_said():
    assert CORTEX_M7.assumptions == (
        "Cortex-M7, 480 MHz, 0.5 MACs a cycle, 0.2 in depthwise convolutions; network alone, an order of magnitude"
    )
