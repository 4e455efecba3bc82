"""Copies for inference: the same logits, the kernel where it can be, and nothing changed in the model."""

import copy

import pytest
import torch
from compilers import needs_gcc
from tiny_teachers import tiny_teachers

from hf_ascdistill import inference, inference_copy
from hf_ascdistill.native.classifier import NativeClassifier

SCENES = [f"scene {number}" for number in range(10)]


@pytest.mark.parametrize("name", ["cpm-s0", "cpr-s0", "passt-s0"])
@pytest.mark.parametrize("native_kernels", [True, False])
def test_a_copy_gives_the_logits_and_leaves_the_model_alone(name, native_kernels):
    model, frontend = tiny_teachers(SCENES)[name]
    before, inputs = copy.deepcopy(model.state_dict()), torch.randn(3, frontend.extractor.n_mels, 40)
    fast = inference_copy(model.train(), native_kernels=native_kernels)
    with torch.inference_mode():
        torch.testing.assert_close(fast(inputs).logits, model.eval()(inputs).logits, rtol=1e-4, atol=1e-5)
    assert not fast.training and next(fast.parameters()).device.type == "cpu"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@needs_gcc
def test_only_a_cp_mobile_that_may_has_the_kernel(monkeypatch):
    models = {name: model for name, (model, _) in tiny_teachers(SCENES).items()}
    kinds = {name: isinstance(inference_copy(model), NativeClassifier) for name, model in models.items()}
    assert kinds == {"cpm-s0": True, "cpm-s1": True, "cpr-s0": False, "passt-s0": False}
    assert not isinstance(inference_copy(models["cpm-s0"], native_kernels=False), NativeClassifier)
    assert not isinstance(inference_copy(models["cpm-s0"], "meta"), NativeClassifier)
    monkeypatch.setattr(inference, "can_use_kernels", lambda: False)
    assert not isinstance(inference_copy(models["cpm-s0"]), NativeClassifier)
