"""A CP-Mobile that trains in native kernels against the reference outputs, and when it does not."""

import copy

import pytest
import torch
from compilers import needs_gcc
from reference_steps import assert_reference_losses, assert_reference_step
from torch import nn

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    fuse,
)
from hf_ascdistill.native import kernels, use_native_kernels
from hf_ascdistill.native.networks import NativeBlock, NativeStem, is_native

pytestmark = needs_gcc
SMALL = {"base_channels": 8, "channels_multiplier": 1.5}


def small_model() -> CpMobileForAudioClassification:
    torch.manual_seed(0)
    return use_native_kernels(CpMobileForAudioClassification(CpMobileConfig(**SMALL))).train()


def is_native_step(model: nn.Module, inputs: torch.Tensor) -> bool:
    """Whether any kernel is called in a forward pass."""
    called = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("inverted_residual", "stem"):
            patch.setattr(f"hf_ascdistill.native.{module}.call", lambda name, *_: called.append(name) or _refuse())
        try:
            model(inputs)
        except InterruptedError:
            return True
    assert not called
    return False


def _refuse() -> None:
    raise InterruptedError


def test_a_training_step_gives_the_reference_logits_gradients_and_statistics(golden):
    # one ReLU of the millions that opens at another rounding moves a gradient by half a percent
    assert_reference_step(use_native_kernels, golden, gradient_limit=2e-2)


def test_three_adam_steps_give_the_reference_losses(golden, shared):
    assert_reference_losses(use_native_kernels, golden, shared)


def test_evaluation_tensors_and_files_are_those_of_the_model(tmp_path):
    model = CpMobileForAudioClassification(CpMobileConfig(**SMALL)).eval()
    native = use_native_kernels(copy.deepcopy(model))
    inputs = torch.randn(2, 32, 20)
    assert torch.equal(native(inputs).logits, model(inputs).logits)
    assert list(native.state_dict()) == list(model.state_dict())
    for network in (model, native):
        network.save_pretrained(tmp_path / str(network is native))
    usual, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("False", "True")
    )
    assert "model.safetensors" in usual and usual == other


def test_stem_and_blocks_are_native_and_so_are_those_of_a_copy():
    model = copy.deepcopy(small_model())
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(NativeStem) == 1 and kinds.count(NativeBlock) == 6
    assert is_native_step(model, torch.randn(2, 32, 20))


def test_other_networks_stay_as_they_are_and_need_no_compiler(monkeypatch):
    monkeypatch.setattr("hf_ascdistill.native.networks.load_kernels", _refuse)
    model = CpResNetForAudioClassification(CpResNetConfig())
    kinds = [type(module) for module in model.modules()]
    assert [type(module) for module in use_native_kernels(model).modules()] == kinds


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.eval(),
        lambda model: [norm.eval() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)],
        lambda model: [
            setattr(norm, "momentum", None) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)
        ],
        lambda model: [
            conv.register_forward_hook(lambda *_: None) for conv in model.modules() if isinstance(conv, nn.Conv2d)
        ],
    ],
    ids=["evaluation", "frozen statistics", "cumulative statistics", "hooks"],
)
def test_what_the_kernels_do_not_do_is_done_as_before(change):
    model = small_model()
    change(model)
    assert not is_native_step(model, torch.randn(2, 32, 20))


def test_other_types_and_single_clips_are_trained_as_before():
    inputs = torch.randn(2, 32, 20)
    assert not is_native_step(small_model().double(), inputs.double())
    assert not is_native_step(small_model(), inputs[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_native_step(small_model(), inputs)


@pytest.mark.parametrize("name", ["depthwise.norm", "project.norm", "expand.conv"])
def test_layers_of_another_type_are_not_for_the_kernels(name):
    block, maps = small_model().cp_mobile.blocks[0], torch.randn(2, 8, 8, 8)
    layers = block.expand, block.depthwise, block.project
    assert is_native(block, maps, layers)
    block.get_submodule(name).double()
    assert not is_native(block, maps, layers)


@pytest.mark.parametrize("shape", [(2, 32, 0), (2, 0, 20)])
def test_inputs_without_places_are_refused_as_torch_refuses_them(shape):
    with pytest.raises((RuntimeError, ValueError)) as usual:
        CpMobileForAudioClassification(CpMobileConfig(**SMALL)).train()(torch.zeros(shape))
    with pytest.raises(usual.type) as own:
        small_model()(torch.zeros(shape))
    assert str(own.value) == str(usual.value)
    assert not is_native(small_model().cp_mobile.stem, torch.zeros(shape), ())


def test_a_model_on_another_device_is_not_for_the_kernels():
    block, maps = small_model().cp_mobile.blocks[0].to("meta"), torch.randn(2, 8, 8, 8)
    assert not is_native(block, maps, (block.expand, block.depthwise, block.project))


def test_strides_that_the_kernels_lack_are_trained_as_before():
    block, maps = small_model().cp_mobile.blocks[0], torch.randn(2, 8, 9, 9)
    block.depthwise.conv.stride = (3, 1)
    block.has_shortcut = False
    assert not is_native_step(block, maps)


def test_what_comes_out_may_be_changed_in_place():
    model, inputs = small_model(), torch.randn(2, 32, 20)
    first = model.cp_mobile.stem(inputs)
    first.mul_(2)
    model.cp_mobile.blocks[0](first).relu_().sum().backward()
    assert first.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_response_of_another_type_is_not_for_the_kernels(name):
    block, maps = small_model().cp_mobile.blocks[0], torch.randn(2, 8, 8, 8)
    parameter = getattr(block.response_norm, name)
    parameter.data = parameter.data.double()
    assert not is_native_step(block, maps)


def test_blocks_too_wide_to_gain_are_trained_as_before(monkeypatch):
    block, maps = small_model().cp_mobile.blocks[0], torch.randn(2, 8, 8, 8)
    assert is_native_step(block, maps)
    monkeypatch.setattr("hf_ascdistill.native.networks.MOST_EXPANDED_CHANNELS", block.expand.conv.out_channels - 1)
    assert not is_native_step(block, maps)


def test_a_replaced_layer_trains_as_before():
    block = small_model().cp_mobile.blocks[0]
    block.expand.conv = nn.Sequential(block.expand.conv)
    assert not is_native_step(block, torch.randn(2, 8, 8, 8))


def test_a_folded_copy_trains_as_before():
    folded = fuse(small_model()).train()
    assert not is_native_step(folded, torch.randn(2, 32, 20))


def test_frozen_parameters_get_no_gradient():
    model = small_model()
    model.cp_mobile.blocks[0].expand.conv.weight.requires_grad_(False)
    model(torch.randn(2, 32, 20)).logits.sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == ["cp_mobile.blocks.0.expand.conv.weight"]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_lie_in_memory_as_their_parameters_do(memory_format):
    model = small_model().to(memory_format=memory_format)
    model(torch.randn(2, 32, 20)).logits.sum().backward()
    strides = {name: (parameter.grad.stride(), parameter.stride()) for name, parameter in model.named_parameters()}
    assert all(own == expected for own, expected in strides.values()), strides


def test_the_padding_is_that_of_the_kernels():
    assert f"PADDING = {kernels.PADDING};" in (kernels.FOLDER / "matrices.h").read_text()
