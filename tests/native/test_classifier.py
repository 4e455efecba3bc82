"""CP-Mobile as one kernel against the reference logits and against itself in float64, and what it leaves to torch."""

import copy
import pickle

import pytest
import torch
from compilers import needs_gcc
from native_modules import torch_threads

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    drop_dead_channels,
    fuse,
    load_checkpoint,
    use_native_kernels,
)
from hf_ascdistill.native.classifier import NativeClassifier, can_classify

pytestmark = needs_gcc
SMALL = {"base_channels": 8, "channels_multiplier": 1.5}


def folded_model(**settings) -> CpMobileForAudioClassification:
    """A folded model whose parameters are random, those that start as 0 too."""
    torch.manual_seed(0)
    model = fuse(CpMobileForAudioClassification(CpMobileConfig(**{**SMALL, **settings})))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "response_norm" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits_of(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return model(inputs).logits


def test_the_published_student_gives_the_reference_logits(golden, shared):
    clips = golden("clips8")
    model, _ = load_checkpoint(shared / "checkpoints/cpm_student_dcase23.ckpt")
    expected, inputs = torch.from_numpy(clips["logits"]), torch.from_numpy(clips["mel_cpm"])
    for folded in (fuse(model), drop_dead_channels(fuse(model))):
        torch.testing.assert_close(logits_of(NativeClassifier(folded), inputs), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "settings", [{}, {"base_channels": 24}, {"expansion_rate": 3.1}, {"channels_multiplier": 2.3}]
)
@pytest.mark.parametrize("shape", [(3, 32, 20), (1, 33, 21), (9, 16, 7), (2, 1, 1), (1, 5, 700), (2, 300, 3)])
def test_logits_are_those_of_float64(settings, shape):
    model, inputs = folded_model(**settings), noise(*shape)
    expected = logits_of(copy.deepcopy(model).double(), inputs.double())
    error = (logits_of(NativeClassifier(model), inputs) - expected).norm() / expected.norm()
    usual = (logits_of(model, inputs) - expected).norm() / expected.norm()
    assert error <= max(2 * usual, 2e-6)


def test_threads_and_batches_do_not_change_the_bits():
    model, inputs = NativeClassifier(folded_model()), noise(13, 64, 20)
    results = []
    for count in (1, 2, 3):
        with torch_threads(count):
            results.append(logits_of(model, inputs))
            results.append(torch.cat([logits_of(model, clip) for clip in inputs.split(1)]))
    assert all(torch.equal(result, results[0]) for result in results)


def test_inputs_stay_and_may_lie_apart_in_memory():
    model, inputs = NativeClassifier(folded_model()), noise(20, 32, 5).transpose(0, 2)
    before = inputs.clone()
    logits = logits_of(model, inputs)
    assert torch.equal(inputs, before) and torch.equal(logits, logits_of(model, before.contiguous()))


def test_nan_reaches_the_logits_of_its_clip_and_of_no_other():
    inputs = noise(2, 32, 20)
    inputs[1, 7, 7] = torch.nan
    logits = logits_of(NativeClassifier(folded_model()), inputs)
    assert logits[0].isfinite().all() and logits[1].isnan().all()


def test_what_the_kernel_does_not_do_goes_the_usual_way():
    model, inputs = folded_model(), noise(2, 32, 20)
    native, labels = NativeClassifier(model), torch.tensor([1, 2])
    logits = native(inputs).logits
    assert logits.requires_grad and torch.equal(logits, model(inputs).logits)
    with torch.inference_mode():
        assert torch.equal(native(inputs, labels=labels).loss, model(inputs, labels=labels).loss)
        assert len(native(inputs, output_hidden_states=True).hidden_states) == 6
        with pytest.raises(ValueError, match=r"expected \(batch, mels, frames\)"):
            native(inputs[0])
        native = native.to(torch.float64)
        assert native(inputs.double()).logits.dtype == torch.float64


@pytest.mark.parametrize("shape", [(1, 32, 0), (1, 0, 20)])
def test_inputs_without_places_are_refused_as_torch_refuses_them(shape):
    native = NativeClassifier(folded_model())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="[Ii]nput"):
        native(torch.zeros(shape))


def test_outputs_that_the_configuration_asks_for_are_there():
    native, inputs = NativeClassifier(folded_model()), noise(2, 32, 20)
    native.config.output_hidden_states = True
    with torch.inference_mode():
        assert len(native(inputs).hidden_states) == 6
    native.config.output_hidden_states, native.config.return_dict = False, False
    with torch.inference_mode():
        assert isinstance(native(inputs), tuple)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_it_can_be_copied_with_its_weights_as_they_are(again):
    native, inputs = NativeClassifier(folded_model()), noise(2, 32, 20)
    with torch.no_grad():
        native.model.classifier.conv.bias += 1
    copied = again(native)
    assert copied._network is not None
    torch.testing.assert_close(logits_of(copied, inputs), logits_of(native, inputs) + 1)
    torch.testing.assert_close(logits_of(again(native.double()), inputs.double()), logits_of(copied, inputs).double())


@pytest.mark.filterwarnings("ignore")  # torch.jit is of the past
def test_a_traced_model_computes_what_the_model_does():
    native, inputs = NativeClassifier(folded_model()).requires_grad_(False), noise(2, 32, 20)
    with torch.no_grad():
        traced = torch.jit.trace(lambda inputs: native(inputs).logits, inputs)
        torch.testing.assert_close(traced(2 * inputs), native(2 * inputs).logits, rtol=1e-5, atol=1e-5)


def test_other_models_are_refused():
    folded, hooked = folded_model(), folded_model()
    hooked.cp_mobile.blocks[2].register_forward_hook(lambda *_: None)
    replaced = folded_model()
    replaced.cp_mobile.blocks[1].expand.conv = torch.nn.Sequential(replaced.cp_mobile.blocks[1].expand.conv)
    others = [
        CpMobileForAudioClassification(CpMobileConfig(**SMALL)),
        fuse(CpMobileForAudioClassification(CpMobileConfig.from_preset("4m"))),
        fuse(CpResNetForAudioClassification(CpResNetConfig())),
        folded_model().double(),
        hooked,
        replaced,
    ]
    for model in others:
        assert not can_classify(model)
        with pytest.raises(ValueError, match=r"pass fuse\(model\) of a CP-Mobile"):
            NativeClassifier(model)
    assert can_classify(folded) and can_classify(use_native_kernels(folded))
