"""CP-ResNet against the reference outputs, and what its users rely on."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_ascdistill import CpResNetConfig, CpResNetForAudioClassification, CpResNetModel
from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES

CP_RESNET = ARCHITECTURES[1]
SMALL = {"base_channels": 4, "channel_cut": 6}


def small_model(**labels) -> CpResNetForAudioClassification:
    """A small network with weights and statistics as after training, in evaluation mode."""
    torch.manual_seed(0)
    model = CpResNetForAudioClassification(CpResNetConfig(**SMALL, **labels))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture
def reference(golden):
    """Random weights of the authors' network with what they give: arrays, model and the authors' tensor names."""
    arrays = golden("cpr32_random")
    model = CpResNetForAudioClassification(CpResNetConfig())
    names = {name: CP_RESNET.tensor_name(name) for name in model.state_dict()}
    model.load_state_dict({ours: torch.from_numpy(arrays[f"sd/{theirs}"]) for ours, theirs in names.items()})
    return arrays, model, names


def reference_batch(arrays) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(arrays["x"])[:, 0], torch.from_numpy(arrays["label"])


def test_evaluation_gives_the_reference_logits(reference):
    arrays, model, _ = reference
    with torch.no_grad():
        logits = model.eval()(reference_batch(arrays)[0]).logits
    np.testing.assert_allclose(logits, arrays["out_eval"], rtol=0, atol=1e-4)


def test_a_training_step_gives_the_reference_gradients_and_statistics(reference):
    arrays, model, names = reference
    inputs, labels = reference_batch(arrays)
    output = model.train()(inputs, labels=labels)
    output.loss.backward()
    np.testing.assert_allclose(output.logits.detach(), arrays["out_train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(output.loss.item(), arrays["loss_train"], rtol=0, atol=1e-6)
    for name, parameter in model.named_parameters():
        expected = torch.from_numpy(arrays[f"grad/{names[name]}"])
        limit = 2e-2 if name == "cp_resnet.stem.conv.weight" else 1e-3
        assert (parameter.grad - expected).norm() <= limit * expected.norm(), name
    for name, buffer in model.named_buffers():
        if "running" in name:
            expected = torch.from_numpy(arrays[f"after/{names[name]}"])
            torch.testing.assert_close(buffer, expected, rtol=0, atol=1e-6, msg=name)
        else:
            assert buffer == torch.from_numpy(arrays[f"sd/{names[name]}"]) + 1


def test_channels_last_gives_the_same_logits(reference):
    arrays, model, _ = reference
    inputs, _ = reference_batch(arrays)
    transposed = inputs.transpose(1, 2).contiguous().transpose(1, 2)
    with torch.no_grad():
        expected = model.eval()(inputs).logits
        model.to(memory_format=torch.channels_last)
        for values in (inputs, transposed):
            torch.testing.assert_close(model(values).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("mels", "frames"), [(256, 640), (256, 64), (256, 43), (128, 7), (17, 5)])
def test_any_length_is_classified(mels, frames):
    logits = small_model()(torch.randn(2, mels, frames)).logits
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", [(2, 16, 5), (2, 17, 4), (256, 43), (2, 1, 256, 43)])
def test_inputs_that_are_too_small_or_no_batch_raise(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, mels, frames\), at least 17 mels and 5 frames"):
        small_model()(torch.zeros(shape))


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


def test_the_loss_is_the_cross_entropy_of_the_labels():
    model, inputs, labels = small_model(), torch.randn(3, 32, 16), torch.tensor([4, 0, 9])
    output = model(inputs, labels=labels)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels))
    assert model(inputs).loss is None
    assert not model.accepts_loss_kwargs


def test_hidden_states_are_the_outputs_of_the_blocks():
    model, inputs = small_model(), torch.randn(2, 66, 34)
    output = model.cp_resnet(inputs, output_hidden_states=True)
    shapes = [tuple(states.shape) for states in output.hidden_states]
    assert shapes == [(2, 4, 16, 8), (2, 4, 8, 8), (2, 8, 4, 8), (2, 10, 4, 8)]
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean((2, 3)))
    assert len(model(inputs, output_hidden_states=True).hidden_states) == 4
    assert model(inputs).hidden_states is None


def test_a_tuple_is_returned_on_request():
    model, inputs = small_model(), torch.randn(2, 64, 32)
    (logits,) = model(inputs, return_dict=False)
    assert torch.equal(logits, model(inputs).logits)
    features, pooled = model.cp_resnet(inputs, return_dict=False)
    assert features.dim() == 4 and pooled.dim() == 2


def assert_initialised(network: CpResNetModel) -> None:
    """Checks that every tensor of the network has the published distribution."""
    fixup = math.sqrt(1 / 4)  # four residual blocks
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.running_var == 1).all(), name
            assert not module.bias.any() and not module.running_mean.any(), name
        elif name.endswith("conv2"):
            assert not module.weight.any(), name
        elif isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel() if "stem" in name else module.out_channels * module.weight[0, 0].numel()
            expected = math.sqrt(2 / fan) * (fixup if name.endswith("conv1") else 1)
            spread = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert abs(module.weight.std().item() / expected - 1) < spread, name


def test_initial_weights_are_the_published_ones():
    torch.manual_seed(0)
    assert_initialised(CpResNetModel(CpResNetConfig()))


def test_all_logits_are_zero_at_the_start():
    torch.manual_seed(0)
    model = CpResNetForAudioClassification(CpResNetConfig())
    assert_initialised(model.cp_resnet)
    assert not model.classifier.conv.weight.any()
    for mode in (True, False):
        assert not model.train(mode)(torch.randn(3, 256, 43)).logits.any()


def test_a_new_head_is_zero_and_the_rest_is_kept(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    changed = CpResNetForAudioClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert changed.classifier.conv.weight.shape == (7, 10, 1, 1)
    assert not changed.classifier.conv.weight.any()
    assert (changed.classifier.norm.running_var == 1).all()
    kept = changed.cp_resnet.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.cp_resnet.state_dict().items())


def test_blocks_that_a_file_lacks_are_initialised(tmp_path):
    CpResNetModel(CpResNetConfig(base_channels=16)).save_pretrained(tmp_path)
    torch.manual_seed(0)
    assert_initialised(CpResNetModel.from_pretrained(tmp_path, base_channels=32, ignore_mismatched_sizes=True))
