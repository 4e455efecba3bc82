"""Which networks work in channels_last, and where."""

import pytest
import torch
from tiny_corpus import tiny_model
from tiny_teachers import tiny_cpr, tiny_passt

from hf_ascdistill import inference_copy
from hf_ascdistill.memory_format import fastest_memory_format

SCENES = [f"scene-{index}" for index in range(10)]
LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize(
    ("build", "elsewhere"),
    [(tiny_model, LAST), (tiny_cpr, CONTIGUOUS), (tiny_passt, LAST)],
    ids=["cpm", "cpr", "passt"],
)
def test_only_wide_groups_on_an_accelerator_stay_contiguous(build, elsewhere):
    model = build(SCENES)
    assert fastest_memory_format(model, "cpu") is LAST
    assert fastest_memory_format(model, torch.device("cuda", 1)) is elsewhere


@pytest.mark.parametrize(("device", "is_last"), [("cpu", True), ("meta", False)])
def test_a_copy_for_inference_lies_in_memory_as_it_works_fastest(device, is_last):
    copied = inference_copy(tiny_cpr(SCENES), device)
    weights = [parameter for parameter in copied.parameters() if parameter.ndim == 4]
    telling = [weight for weight in weights if weight.shape[1] > 1 and weight[0, 0].numel() > 1]  # others are both
    assert telling and all(weight.is_contiguous(memory_format=LAST) == is_last for weight in telling)
    assert {weight.device.type for weight in weights} == {device}
