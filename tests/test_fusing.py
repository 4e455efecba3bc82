"""A fused network decides as the network does, with the parameters that a device holds."""

import copy

import numpy as np
import pytest
import torch
from published import small_passt
from torch import nn

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    drop_dead_channels,
    fuse,
    load_checkpoint,
)
from hf_ascdistill.complexity import BATCH_NORMS, count_parameters
from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES

CP_MOBILE, CP_RESNET = ARCHITECTURES[:2]
NETWORKS = {
    "cpm32_random": (CP_MOBILE, CpMobileForAudioClassification, CpMobileConfig),
    "cpr32_random": (CP_RESNET, CpResNetForAudioClassification, CpResNetConfig),
}
both_layouts = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])


@pytest.fixture(params=NETWORKS)
def reference(request, golden):
    """Random weights and statistics of the authors' network with what they give: arrays and model."""
    architecture, model_class, config_class = NETWORKS[request.param]
    arrays, model = golden(request.param), model_class(config_class()).eval()
    names = {name: architecture.tensor_name(name) for name in model.state_dict()}
    model.load_state_dict({ours: torch.from_numpy(arrays[f"sd/{theirs}"]) for ours, theirs in names.items()})
    return arrays, model


@pytest.fixture(scope="module")
def student(shared):
    """The authors' trained student."""
    return load_checkpoint(shared / "checkpoints/cpm_student_dcase23.ckpt")[0]


@both_layouts
def test_fused_networks_give_the_reference_logits(reference, memory_format):
    arrays, model = reference
    inputs, fused = torch.from_numpy(arrays["x"])[:, 0], fuse(model, memory_format=memory_format)
    with torch.inference_mode():
        logits, expected = fused(inputs).logits, model(inputs).logits
    np.testing.assert_allclose(logits, arrays["out_eval"], rtol=0, atol=1e-4)
    # relative: the logits of random weights are no nearer than that to those of the same network in float64
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_folding_is_exact(reference):
    arrays, model = reference
    model, inputs = copy.deepcopy(model).double(), torch.from_numpy(arrays["x"])[:, 0].double()
    with torch.inference_mode():
        np.testing.assert_allclose(fuse(model)(inputs).logits, model(inputs).logits, rtol=1e-12)


@both_layouts
def test_the_trained_student_decides_as_before(student, golden, memory_format):
    clips, fused = golden("clips8"), fuse(student, memory_format=memory_format)
    mels = torch.from_numpy(clips["mel_cpm"])
    with torch.inference_mode():
        batch, single = fused(mels).logits, torch.cat([fused(mel[None]).logits for mel in mels])
        expected = copy.deepcopy(student).double()(mels.double()).logits  # free of float32's rounding
    np.testing.assert_allclose(batch, clips["logits"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)


def test_a_fused_network_has_the_parameters_of_a_device(reference):
    _, model = reference
    fused = fuse(model)
    assert count_parameters(fused) == count_parameters(model, fused=True) < count_parameters(model)
    assert not any(isinstance(module, BATCH_NORMS) for module in fused.modules())


def test_fusing_leaves_the_model_alone(reference):
    model = copy.deepcopy(reference[1]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse(model)
    assert model.training and not fused.training
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in shared for parameter in fused.parameters())


def test_a_transformer_has_nothing_to_fold():
    model, inputs = small_passt(), torch.randn(2, 128, 100, generator=torch.Generator().manual_seed(0))
    fused = fuse(model)
    assert fused is not model
    with torch.inference_mode():
        assert torch.equal(fused(inputs).logits, model(inputs).logits)


def test_denormal_weights_become_zero():
    model = CpMobileForAudioClassification(CpMobileConfig(base_channels=8)).eval()
    with torch.no_grad():
        model.cp_mobile.blocks[0].expand.conv.weight[0] = 1e-40
        model.cp_mobile.blocks[1].response_norm.weight.fill_(1e-40)
    fused = fuse(model)
    weights = torch.cat([parameter.detach().flatten().abs() for parameter in fused.parameters()])
    assert not ((weights > 0) & (weights < torch.finfo(torch.float32).tiny)).any()
    assert fused.cp_mobile.blocks[1].response_norm.weight == 0


def test_a_fused_network_can_be_trained_on():
    fused = fuse(CpMobileForAudioClassification(CpMobileConfig(base_channels=8)))
    fused(torch.randn(2, 64, 32), labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())


def test_gain_offset_and_bias_are_folded_where_they_are():
    class Block(nn.Module):
        def __init__(self, *, has_bias: bool, is_affine: bool):
            super().__init__()
            self.conv1 = nn.Conv1d(3, 4, 3, bias=has_bias)
            self.norm1 = nn.BatchNorm1d(4, affine=is_affine)
            self.norm = nn.BatchNorm1d(4)  # belongs to no convolution, and stays

        def forward(self, x):
            return self.norm(torch.relu(self.norm1(self.conv1(x))))

    torch.manual_seed(0)
    for has_bias in (True, False):
        for is_affine in (True, False):
            block = Block(has_bias=has_bias, is_affine=is_affine)
            block(5 * torch.randn(16, 3, 20) + 1)  # statistics
            fused, inputs = fuse(block), torch.randn(2, 3, 20)
            assert isinstance(fused.norm1, nn.Identity) and isinstance(fused.norm, nn.BatchNorm1d)
            torch.testing.assert_close(fused(inputs), block.eval()(inputs), rtol=0, atol=1e-6)


def test_statistics_of_the_batch_cannot_be_folded():
    block = nn.Module()
    block.conv, block.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)
    with pytest.raises(ValueError, match="no running statistics"):
        fuse(block)


def test_dead_channels_of_the_published_student_are_dropped_without_a_trace(student):
    fused, inputs = fuse(student).double(), torch.randn(2, 256, 64, dtype=torch.float64)
    smaller = drop_dead_channels(fused, multiple_of=1)
    assert count_parameters(fused) - count_parameters(smaller) == 11_743  # 61 channels
    with torch.inference_mode():
        torch.testing.assert_close(smaller(inputs).logits, fused(inputs).logits, rtol=1e-12, atol=1e-12)


def test_dead_channels_stay_where_they_fill_a_vector(student):
    fused, inputs = fuse(student).double(), torch.randn(2, 256, 64, dtype=torch.float64)
    smaller = drop_dead_channels(fused)
    assert [block.depthwise.conv.groups for block in smaller.cp_mobile.blocks] == [96, 96, 96, 96, 192, 192]
    with torch.inference_mode():
        torch.testing.assert_close(smaller(inputs).logits, fused(inputs).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("multiple_of", [1, 16])
def test_a_block_without_a_living_channel_keeps_one(student, multiple_of):
    fused, inputs = fuse(student).double(), torch.randn(2, 256, 64, dtype=torch.float64)
    with torch.no_grad():
        fused.cp_mobile.blocks[2].depthwise.conv.weight.zero_()
    smaller = drop_dead_channels(fused, multiple_of=multiple_of)
    assert smaller.cp_mobile.blocks[2].depthwise.conv.groups == multiple_of
    with torch.inference_mode():
        torch.testing.assert_close(smaller(inputs).logits, fused(inputs).logits, rtol=1e-12, atol=1e-12)


def test_what_a_dead_channel_says_goes_into_the_projection(reference):
    arrays, model = reference
    inputs, fused = torch.from_numpy(arrays["x"])[:, 0].double(), fuse(model).double()
    blocks = getattr(fused, "cp_mobile", nn.Module()).children()
    with torch.no_grad():
        for block in (block for stage in blocks if isinstance(stage, nn.ModuleList) for block in stage):
            block.depthwise.conv.weight[::3] = 0
            block.depthwise.conv.bias[::3] = 0.5
    smaller = drop_dead_channels(fused, multiple_of=1)
    with torch.inference_mode():
        torch.testing.assert_close(smaller(inputs).logits, fused(inputs).logits, rtol=1e-9, atol=1e-9)
    is_mobile = isinstance(model, CpMobileForAudioClassification)
    assert (count_parameters(smaller) < count_parameters(fused)) is is_mobile
