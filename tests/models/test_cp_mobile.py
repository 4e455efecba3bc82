"""CP-Mobile against the reference outputs, and what its users rely on."""

import math

import numpy as np
import pytest
import torch
from reference_steps import assert_reference_losses, assert_reference_step, reference_batch, reference_model
from torch import nn
from torch.nn import functional

from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification, CpMobileModel
from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES
from hf_ascdistill.models.modeling_cp_mobile import (
    CpMobileBlock,
    CpMobileGlobalResponseNorm,
    global_response_norm,
)

CP_MOBILE = ARCHITECTURES[0]
SMALL = {"base_channels": 8, "channels_multiplier": 1.5}


def small_model(**labels) -> CpMobileForAudioClassification:
    """A small network with statistics and gains as after training, in evaluation mode."""
    torch.manual_seed(0)
    model = CpMobileForAudioClassification(CpMobileConfig(**SMALL, **labels))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, CpMobileGlobalResponseNorm):
            nn.init.constant_(module.weight, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def reference(golden):
    """Random weights of the authors' network with what they give: arrays, model and names."""
    arrays = golden("cpm32_random")
    return arrays, *reference_model(lambda name: arrays[f"sd/{name}"])


def test_evaluation_gives_the_reference_logits(reference):
    arrays, model, _ = reference
    with torch.no_grad():
        logits = model.eval()(reference_batch(arrays)[0]).logits
    np.testing.assert_allclose(logits, arrays["out_eval"], rtol=0, atol=1e-4)


def test_a_training_step_gives_the_reference_gradients_and_statistics(golden):
    assert_reference_step(lambda model: model, golden, gradient_limit=1e-3)


def test_three_adam_steps_give_the_reference_losses(golden, shared):
    assert_reference_losses(lambda model: model, golden, shared)


def test_global_response_norm_is_the_published_formula():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    weight, bias = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-0.2], dtype=torch.float64)
    norm = x.pow(2).sum((2, 3), keepdim=True).sqrt()
    expected = weight * x * (norm / (norm.mean(1, keepdim=True) + 1e-6)) + bias + x
    torch.testing.assert_close(global_response_norm(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


def test_a_silent_channel_has_finite_gradients():
    x = torch.randn(2, 4, 3, 3)
    x[:, 1] = 0
    x.requires_grad_()
    weight, bias = torch.tensor([0.5], requires_grad=True), torch.zeros(1, requires_grad=True)
    global_response_norm(x, weight, bias).square().sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (x, weight, bias))


def test_the_shortcut_of_a_strided_block_is_an_average_that_counts_the_padding():
    block = CpMobileBlock(8, 8, expanded_channels=24, stride=(2, 2)).eval()
    nn.init.zeros_(block.project.norm.weight)  # leaves only the shortcut
    output = block(torch.ones(1, 8, 4, 4))
    expected = torch.tensor([[4, 6], [6, 9]]) / 9
    torch.testing.assert_close(output[0, 0], expected)


def test_a_block_that_changes_the_channels_has_no_shortcut():
    block = CpMobileBlock(8, 16, expanded_channels=24, stride=(1, 1)).eval()
    nn.init.zeros_(block.project.norm.weight)
    assert not block(torch.ones(1, 8, 4, 4)).any()


def test_channels_last_gives_the_same_logits(reference):
    arrays, model, _ = reference
    inputs, _ = reference_batch(arrays)
    transposed = inputs.transpose(1, 2).contiguous().transpose(1, 2)
    with torch.no_grad():
        expected = model.eval()(inputs).logits
        model.to(memory_format=torch.channels_last)
        for values in (inputs, transposed):
            torch.testing.assert_close(model(values).logits, expected, rtol=0, atol=1e-4)
        model.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize(("mels", "frames"), [(256, 640), (256, 64), (256, 43), (128, 7), (1, 1)])
def test_any_length_is_classified(mels, frames):
    logits = small_model()(torch.randn(2, mels, frames)).logits
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_and_stays_close_to_float32(dtype):
    model, inputs, labels = small_model(), torch.randn(4, 64, 32), torch.arange(4)
    expected = model(inputs).logits.detach()
    with torch.autocast("cpu", dtype=dtype):
        output = model(inputs, labels=labels)
    output.loss.backward()
    assert output.logits.dtype == output.loss.dtype == torch.float32  # averages and losses keep their precision
    torch.testing.assert_close(output.logits.detach(), expected, rtol=0, atol=0.1 * expected.abs().max().item())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_double_precision_agrees_with_single():
    model, inputs = small_model(), torch.randn(2, 64, 32)
    single = model(inputs).logits
    double = model.double()(inputs.double()).logits
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(256, 64), (2, 1, 256, 64)])
def test_inputs_that_are_no_batch_of_spectrograms_raise(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, mels, frames\)"):
        small_model()(torch.zeros(shape))


def test_the_loss_is_the_cross_entropy_of_the_labels():
    model, inputs, labels = small_model(), torch.randn(3, 32, 16), torch.tensor([4, 0, 9])
    output = model(inputs, labels=labels)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels))
    assert model(inputs).loss is None
    assert not model.accepts_loss_kwargs


def test_hidden_states_are_the_outputs_of_the_blocks():
    model, inputs = small_model(), torch.randn(2, 64, 32)
    output = model.cp_mobile(inputs, output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [
        (2, 8, 16, 8),
        (2, 8, 8, 4),
        (2, 8, 8, 4),
        (2, 16, 4, 4),
        (2, 16, 4, 4),
        (2, 24, 4, 4),
    ]
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean((2, 3)))
    assert len(model(inputs, output_hidden_states=True).hidden_states) == 6
    assert model(inputs).hidden_states is None


def test_a_tuple_is_returned_on_request():
    model, inputs = small_model(), torch.randn(2, 64, 32)
    (logits,) = model(inputs, return_dict=False)
    assert torch.equal(logits, model(inputs).logits)
    features, pooled = model.cp_mobile(inputs, return_dict=False)
    assert features.dim() == 4 and pooled.dim() == 2


def assert_initialised(model: nn.Module) -> None:
    """Checks that every tensor has the published distribution."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * module.weight[0, 0].numel()))
            spread = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert abs(module.weight.std().item() / expected - 1) < spread, name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.running_var == 1).all(), name
            assert not module.bias.any() and not module.running_mean.any(), name
        elif isinstance(module, CpMobileGlobalResponseNorm):
            assert not module.weight.any() and not module.bias.any(), name


@pytest.mark.parametrize("model_class", [CpMobileModel, CpMobileForAudioClassification])
def test_initial_weights_are_the_published_ones(model_class):
    torch.manual_seed(0)
    assert_initialised(model_class(CpMobileConfig()))


def test_the_seed_decides_the_initial_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = CpMobileForAudioClassification(CpMobileConfig(**SMALL))
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_new_head_is_initialised_and_the_rest_is_kept(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    changed = CpMobileForAudioClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert changed.config.num_labels == changed.classifier.norm.num_features == 7
    assert changed.config.id2label[6] == "LABEL_6"
    assert_initialised(changed.classifier)
    kept = changed.cp_mobile.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.cp_mobile.state_dict().items())


def test_weights_of_the_network_alone_start_a_classifier(tmp_path):
    model = small_model()
    model.cp_mobile.save_pretrained(tmp_path)
    torch.manual_seed(0)
    started = CpMobileForAudioClassification.from_pretrained(tmp_path)
    inputs = torch.randn(1, 64, 32)
    assert torch.equal(started.cp_mobile(inputs).pooler_output, model.cp_mobile(inputs).pooler_output)
    assert_initialised(started.classifier)
