"""Simulated int8: its levels, gradients and ranges, how it trains, and the float model that comes of it."""

import pytest
import torch
from test_trainer import clips, plain_frontend, small_student, trainer_of
from torch import nn
from transformers import AutoModelForAudioClassification, TrainerCallback

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    FreezeRanges,
    calibrate,
    fuse,
    plain_model,
    prepare_qat,
)
from hf_ascdistill.quantization import ActivationRange, FakeQuantConv2d, activation_ranges

LOG_MELS = torch.linspace(-1.4, 2.0, 4 * 256 * 16).reshape(4, 256, 16).sin()


def moved_statistics(model: nn.Module) -> nn.Module:
    """The model with statistics of batch normalisation that folding must take into account."""
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(LOG_MELS)
    return model.eval()


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return moved_statistics(small_student())


@pytest.fixture
def quantized(student) -> nn.Module:
    """A student as int8, calibrated."""
    return calibrate(prepare_qat(fuse(student)), clips(), frontend=plain_frontend())


def state_of(ranges) -> list[tuple[float, float]]:
    return [(float(measured.minimum), float(measured.maximum)) for measured in ranges]


def convolutions(model: nn.Module) -> list[FakeQuantConv2d]:
    return [module for module in model.modules() if isinstance(module, FakeQuantConv2d)]


def test_activations_are_rounded_to_levels_between_minimum_and_maximum():
    measured = ActivationRange("a place").train()
    measured(torch.tensor([-5.1, 0.0, 20.4]))  # 255 steps of 0.1, 0 is level 51
    scale, zero = measured.levels()
    assert (float(scale), int(zero)) == (pytest.approx(0.1), 51)
    rounded = measured.eval()(torch.tensor([-9.0, -0.04, 0.0, 0.16, 20.4, 30.0]))
    torch.testing.assert_close(rounded, torch.tensor([-5.1, 0.0, 0.0, 0.2, 20.4, 20.4]), atol=1e-5, rtol=0)


def test_range_holds_zero_where_no_activation_does():
    measured = ActivationRange("a place").train()
    measured(torch.tensor([3.0, 25.5]))
    assert state_of([measured]) == [(0.0, 25.5)]


def test_range_is_the_mean_over_batches_and_then_moves_slowly():
    measured = ActivationRange("a place").train()
    for highest in (1.0, 3.0):
        measured(torch.tensor([0.0, highest]))
    assert float(measured.maximum) == pytest.approx(2.0)
    measured.batches.fill_(1000)
    measured(torch.tensor([0.0, 3.0]))
    assert float(measured.maximum) == pytest.approx(2.0 + 0.01)


def test_weights_have_at_most_255_levels_around_zero_in_each_channel(quantized):
    for conv in convolutions(quantized):
        steps = conv.rounded_weight().detach() / conv.weight_scales().reshape(-1, 1, 1, 1)
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        assert steps.abs().max() <= 127.001
        assert all(len(channel.round().unique()) <= 255 for channel in steps)
        assert (conv.rounded_weight() - conv.weight).abs().amax((1, 2, 3)).le(conv.weight_scales() * 0.5001).all()


def test_weights_and_bias_of_a_small_convolution():
    conv = nn.Conv2d(1, 2, (1, 2))
    conv.weight.data = torch.tensor([[1.27, 0.014], [-0.254, 0.0031]]).reshape(2, 1, 1, 2)
    conv.bias.data = torch.tensor([0.01234, -1.0])
    measured = ActivationRange("its input").train()
    measured(torch.tensor([0.0, 25.5]))  # steps of 0.1
    rounded = FakeQuantConv2d.of(conv, source=measured)
    expected = torch.tensor([[1.27, 0.01], [-0.254, 0.004]]).reshape(2, 1, 1, 2)
    torch.testing.assert_close(rounded.rounded_weight(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(rounded.rounded_bias(), torch.tensor([0.012, -1.0]), atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter(quantized):
    quantized.train()
    with torch.no_grad():
        for block in quantized.cp_mobile.blocks:
            block.response_norm.weight.fill_(0.1)
    nn.functional.cross_entropy(quantized(LOG_MELS).logits, torch.arange(4)).backward()
    for name, parameter in quantized.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_quantised_network_is_near_the_float_one(student, quantized):
    with torch.inference_mode():
        expected, found = student(LOG_MELS).logits, quantized(LOG_MELS).logits
    assert (found - expected).abs().max() < 0.1 * (expected.max() - expected.min())
    assert not torch.equal(found, expected)


@pytest.mark.parametrize(
    ("model", "ranges"),
    [
        (CpMobileForAudioClassification(CpMobileConfig(base_channels=8)), 2 + 6 * 4 + 2),
        (CpResNetForAudioClassification(CpResNetConfig(base_channels=32)), 1 + 4 * 3 + 2 + 2),  # two have shortcuts
    ],
)
def test_every_convolution_reads_rounded_numbers(model, ranges):
    quantized = prepare_qat(fuse(model)).train()
    seen = {}
    for name, module in quantized.named_modules():
        if isinstance(module, FakeQuantConv2d):
            module.register_forward_hook(lambda conv, inputs, _, name=name: seen.update({name: (conv, inputs[0])}))
    quantized(LOG_MELS)
    assert len(seen) == len(convolutions(quantized)) > 0
    for name, (conv, inputs) in seen.items():
        if name.endswith("conv") and "shortcut" not in name and "expand" not in name:
            steps = inputs.detach() / conv.sources[0].levels()[0]
            torch.testing.assert_close(steps, steps.round(), atol=1e-2, rtol=0, msg=name)
    assert len(list(activation_ranges(quantized))) == ranges


def test_the_model_that_is_prepared_stays_as_it_is(student):
    fused = fuse(student)
    names = [name for name, _ in fused.named_modules()]
    prepare_qat(fused)
    assert [name for name, _ in fused.named_modules()] == names and not convolutions(fused)


def test_ranges_move_in_training_alone_and_not_when_frozen(quantized):
    ranges = list(activation_ranges(quantized))
    before = state_of(ranges)
    quantized.eval()(3 * LOG_MELS)
    assert state_of(ranges) == before
    quantized.train()
    for measured in ranges:
        measured.is_frozen = True
    quantized(3 * LOG_MELS)
    assert state_of(ranges) == before
    for measured in ranges:
        measured.is_frozen = False
    quantized(3 * LOG_MELS)
    assert all(now != earlier for now, earlier in zip(state_of(ranges), before, strict=True))


class RangesByEpoch(TrainerCallback):
    def __init__(self):
        self.ends = []

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.ends.append((state_of(activation_ranges(model)), model.classifier.conv.weight.clone()))


def test_ranges_stay_in_the_last_epochs_while_weights_learn(quantized, tmp_path):
    view = RangesByEpoch()
    trainer_of(tmp_path, quantized, callbacks=[FreezeRanges(2), view], num_train_epochs=4).train()
    (first, _), (second, early), (third, late), (fourth, _) = view.ends
    assert first != second == third == fourth
    assert not torch.equal(early, late)


def test_ranges_are_frozen_too_where_steps_are_counted(quantized, tmp_path):
    trainer_of(tmp_path, quantized, callbacks=[FreezeRanges(1)], max_steps=4).train()  # two epochs
    assert all(measured.is_frozen for measured in activation_ranges(quantized))


def test_training_that_was_interrupted_ends_in_the_same_numbers(student, tmp_path):
    settings = {"num_train_epochs": 3, "save_strategy": "epoch", "save_total_limit": 5}

    def trained(folder) -> dict:
        model = calibrate(prepare_qat(fuse(student)), clips(), frontend=plain_frontend())
        trainer = trainer_of(folder, model, callbacks=[FreezeRanges(1)], **settings)
        trainer.train(resume_from_checkpoint=True)
        return trainer.model.state_dict()

    whole = trained(tmp_path / "run")
    for step in (4, 6):
        (tmp_path / "run" / f"checkpoint-{step}" / "complete").unlink()
    resumed = trained(tmp_path / "run")
    assert whole.keys() == resumed.keys() and any(name.endswith("minimum") for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_plain_model_loads_anywhere_and_gives_the_same_levels(quantized, tmp_path):
    plain_model(quantized).save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    again = prepare_qat(fuse(loaded))
    for ours, theirs in zip(convolutions(quantized), convolutions(again), strict=True):
        torch.testing.assert_close(theirs.weight_scales(), ours.weight_scales())
        torch.testing.assert_close(theirs.rounded_weight(), ours.rounded_weight(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(theirs.bias, ours.bias)
    ranges = {
        name: tensor for name, tensor in quantized.state_dict().items() if name not in dict(again.named_parameters())
    }
    again.load_state_dict(ranges, strict=False)
    with torch.inference_mode():
        expected = quantized(LOG_MELS).logits
        difference = (again.eval()(LOG_MELS).logits - expected).abs().max()
    assert difference <= 0.02 * (expected.max() - expected.min())  # a level of some activations


def test_calibration_depends_on_the_seed_alone(student):
    def ranges(seed: int) -> list:
        model = prepare_qat(fuse(student))
        calibrate(model, clips(), frontend=plain_frontend(), max_clips=8, seed=seed)
        return state_of(activation_ranges(model))

    assert ranges(0) == ranges(0) != ranges(1)


def test_unfit_models_and_empty_calibration_raise(student, quantized):
    with pytest.raises(ValueError, match="not folded, cp_mobile.stem.first.norm the first: pass fuse"):
        prepare_qat(student)
    with pytest.raises(ValueError, match="no ranges to measure: pass prepare_qat"):
        calibrate(fuse(student), clips(), frontend=plain_frontend())
    with pytest.raises(ValueError, match="0 clips and max_clips 512 calibrate nothing"):
        calibrate(quantized, clips().select([]), frontend=plain_frontend())
    broken = clips().map(lambda row: {"waveform": row["waveform"] * float("nan")})
    with pytest.raises(
        ValueError, match="input of cp_mobile.stem.first.conv is NaN or infinite for some of the clips"
    ):
        calibrate(quantized, broken, frontend=plain_frontend())
    with pytest.raises(ValueError, match="parameters in torch.bfloat16; expected float32"):
        prepare_qat(fuse(student).bfloat16())
    student.config.model_type, kind = "asc-passt", student.config.model_type
    with pytest.raises(ValueError, match="of the type asc-passt; expected one of asc-cp-mobile, asc-cp-resnet"):
        prepare_qat(student)
    student.config.model_type = kind
