"""Online teachers: what each of them sees, what they say, and a random stream that knows nothing of them."""

import numpy as np
import pytest
import torch
from test_trainer import CLIPS, StopAt, clips, small_student, trainer_of, weights
from tiny_corpus import tiny_model
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationSettings,
    CpResNetConfig,
    CpResNetForAudioClassification,
    OnlineTeachers,
    build_frontend,
    default_impulse_responses,
)
from hf_ascdistill.teachers import model_identity

SCENES = [f"scene {number}" for number in range(10)]
PRESETS = ("cp-mobile", "cp-resnet", "passt")


class Average(nn.Module):
    """A teacher for any front-end: its logits follow the mean of the log-mel, and keep what it was shown."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(gain * torch.linspace(-1, 1, len(SCENES)))
        self.config = tiny_model(SCENES).config
        self.seen = []

    def forward(self, input_values):
        self.seen.append(input_values)
        return SequenceClassifierOutput(logits=input_values.mean(dim=(1, 2))[:, None] * self.gain)


def online(*presets: str, model=Average) -> OnlineTeachers:
    return OnlineTeachers({f"teacher {n}": (model(), plain(preset)) for n, preset in enumerate(presets)})


def plain(preset: str) -> AcousticFrontend:
    return AcousticFrontend(AscFeatureExtractor.from_preset(preset))


def cp_resnet() -> nn.Module:
    """A small CP-ResNet whose logits are not all 0, as those of a new one are."""
    torch.manual_seed(1)
    model = CpResNetForAudioClassification(CpResNetConfig(base_channels=16))
    [nn.init.normal_(parameter, std=0.3) for parameter in model.parameters()]
    return model


def frontend(preset: str = "cp-mobile", **settings):
    """An augmenting front-end that always convolves, rolls, masks and mixes."""
    chosen = {"dir_p": 1.0, "fms_p": 1.0, "max_time_mask": 20, **settings}
    return build_frontend(
        AscFeatureExtractor.from_preset(preset),
        AugmentationSettings(**chosen),
        impulse_responses=default_impulse_responses(),
    )


def short_frontend():
    """For clips of a quarter of a second."""
    return frontend(device_generalization="fms", fms_p=0.5, max_time_mask=0)


def waveforms(count: int = 8) -> dict[str, torch.Tensor]:
    noise = torch.randn(count, 32_000, generator=torch.Generator().manual_seed(0))
    return {"waveform": noise * torch.linspace(0.01, 0.3, count)[:, None], "labels": torch.zeros(count).long()}


def test_teacher_with_the_student_s_front_end_sees_the_student_s_bits():
    views = online("cp-mobile").views(waveforms(), frontend())
    assert torch.equal(views.teachers[0], views.batch["input_values"])


@pytest.mark.parametrize("student", PRESETS)
def test_other_front_end_sees_what_it_makes_of_the_same_random_numbers(student):
    teachers = online(*PRESETS)
    torch.manual_seed(3)
    views = teachers.views(waveforms(), frontend(student))
    for extractor, view in zip(teachers.extractors, views.teachers, strict=True):
        torch.manual_seed(3)
        alone = frontend(student).with_extractor(extractor)(waveforms())["input_values"]
        torch.testing.assert_close(view, alone, atol=0, rtol=0)
    assert {tuple(view.shape[1:]) for view in views.teachers} == {(256, 64), (256, 43), (128, 100)}


def test_batch_and_random_stream_are_those_without_teachers():
    teachers = online("cp-resnet", "passt")
    torch.manual_seed(3)
    views, after = teachers.views(waveforms(), frontend()), torch.rand(5)
    torch.manual_seed(3)
    alone, after_alone = frontend()(waveforms()), torch.rand(5)
    assert views.batch.keys() == alone.keys()
    assert all(torch.equal(views.batch[name], alone[name]) for name in alone)
    assert torch.equal(after, after_alone)


def test_random_stream_is_kept_where_other_front_ends_draw_more():
    def jitter(batch):
        values = batch["input_values"]
        return {**batch, "input_values": values + 0.01 * torch.randn(values.shape)}

    student, teachers = AcousticFrontend(AscFeatureExtractor(), (), (jitter,)), online("cp-resnet", "passt")
    torch.manual_seed(3)
    _, after = teachers.views(waveforms(), student), torch.rand(5)
    torch.manual_seed(3)
    _, after_alone = student(waveforms()), torch.rand(5)
    assert torch.equal(after, after_alone)


def covered(view: torch.Tensor, axis: int) -> tuple[float, float]:
    """Where the mask of a batch begins and ends on an axis, as shares of it."""
    is_covered = (view == view.new_tensor(0.9)).all(dim=3 - axis).all(dim=0).nonzero()[:, 0]
    size = view.shape[axis]
    return (is_covered.min().item() / size, (is_covered.max().item() + 1) / size) if len(is_covered) else (0.0, 0.0)


@pytest.mark.parametrize("axis", [1, 2])
def test_masks_lie_at_the_same_mels_and_seconds_in_all_front_ends(axis):
    student, teachers = frontend(device_generalization="none", max_freq_mask=96), online("passt", "cp-resnet")
    torch.manual_seed(0)
    spans = []
    for _ in range(20):
        views = teachers.views(waveforms(2), student)
        spans.append([covered(view, axis) for view in (views.batch["input_values"], *views.teachers)])
    spans = torch.tensor(spans)
    assert (spans[:, 0, 1] - spans[:, 0, 0]).max() > 0.2
    cell = 1 / 43 if axis == 2 else 1 / 128
    torch.testing.assert_close(spans[:, 1:], spans[:, :1].expand_as(spans[:, 1:]), atol=2 * cell, rtol=0)


def test_mixed_statistics_come_from_the_same_partners_in_all_front_ends():
    """Clips of one loudness each: after mixing, the levels tell lambda and the partner."""
    student = frontend(device_generalization="fms", max_freq_mask=0, max_time_mask=0)
    teachers = online("passt", "cp-resnet")
    torch.manual_seed(5)
    views = teachers.views(waveforms(), student)
    levels = [view.mean(dim=(1, 2)) for view in (views.batch["input_values"], *views.teachers)]
    plain = [frontend(preset).evaluation()(waveforms())["input_values"].mean(dim=(1, 2)) for preset in PRESETS]
    moved = (levels[0] - plain[0]).abs()
    assert moved.max() > 0.2
    torch.testing.assert_close(levels[1] - plain[2], levels[0] - plain[0], atol=0.05, rtol=0)
    torch.testing.assert_close(levels[2] - plain[1], levels[0] - plain[0], atol=0.05, rtol=0)


def test_same_front_end_is_computed_once():
    views = online("cp-resnet", "cp-mobile", "cp-resnet").views(waveforms(), frontend())
    assert views.teachers[0] is views.teachers[2]
    assert views.teachers[1] is views.batch["input_values"]


def test_logits_are_the_mean_of_raw_logits_without_gradient():
    models = [Average(1.0), Average(3.0)]
    teachers = OnlineTeachers({name: (model, plain("cp-mobile")) for name, model in zip("ab", models, strict=True)})
    view = torch.rand(4, 256, 64)
    logits = teachers.logits([view, view])
    torch.testing.assert_close(logits, Average(2.0)(view).logits)
    assert logits.dtype == torch.float32 and not logits.requires_grad


def test_teachers_stay_in_evaluation_mode_and_frozen():
    teacher = cp_resnet().train()
    teachers = OnlineTeachers({"a": (teacher, plain("cp-resnet"))})
    before = weights(teacher).clone()
    views = teachers.views(waveforms(), frontend())
    assert torch.equal(teachers.logits(views.teachers), teachers.logits(views.teachers))
    assert torch.equal(weights(teacher), before)  # running statistics too
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_identity_names_weights_and_front_end():
    teachers = online("cp-resnet", model=cp_resnet)
    (identity,) = teachers.identities
    assert (identity["name"], identity["mode"]) == ("teacher 0", "online")
    assert identity["model"] == model_identity(cp_resnet())
    assert identity["front_end"]["hop_length"] == 750


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({}, "at least one teacher"),
        (
            {"a": (Average(), AcousticFrontend(AscFeatureExtractor(sampling_rate=44_100)))},
            "front-end of a takes 44100 Hz",
        ),
    ],
)
def test_teachers_that_cannot_teach_raise(teachers, message):
    with pytest.raises(ValueError, match=message):
        OnlineTeachers(teachers)


def test_log_mels_in_place_of_waveforms_raise():
    with pytest.raises(ValueError, match="no waveform.*--frontend_seat accelerator"):
        online("cp-mobile").views({"input_values": torch.zeros(2, 256, 64)}, frontend())


def test_cached_logits_beside_online_teachers_raise(tmp_path):
    trainer = trainer_of(tmp_path, small_student(), teachers=online("cp-mobile"))
    with pytest.raises(ValueError, match="has teacher_logits and there are online teachers"):
        trainer.train()


def online_trainer(folder, model=None, *, teachers=None, **settings):
    """A trainer on clips without logits, with a student of CP-Mobile and by default a teacher of CP-ResNet."""
    teachers = online("cp-resnet", model=cp_resnet) if teachers is None else teachers
    model = small_student() if model is None else model
    settings = {"frontend": short_frontend(), "dataset": clips(teacher=False), **settings}
    return trainer_of(folder, model, teachers=teachers, **settings)


class Inputs(list):
    """Keeps what a model is given: `Inputs.of(model)`."""

    @classmethod
    def of(cls, model: nn.Module) -> "Inputs":
        seen = cls()
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_values"].clone()), with_kwargs=True
        )
        return seen


def test_student_is_shown_what_it_is_shown_with_cached_logits(tmp_path):
    cached, taught = small_student(), small_student()
    shown = [Inputs.of(model) for model in (cached, taught)]
    trainer_of(tmp_path / "cached", cached, frontend=short_frontend()).train()
    online_trainer(tmp_path / "online", taught).train()
    assert len(shown[0]) == len(shown[1]) == 2 * CLIPS / 16
    assert all(torch.equal(one, other) for one, other in zip(*shown, strict=True))
    assert not torch.equal(weights(cached), weights(taught))


def test_loss_is_equation_1_with_the_teachers_of_the_augmented_clips(tmp_path):
    teachers = online("cp-mobile", "cp-resnet")
    trainer = online_trainer(tmp_path, teachers=teachers)
    trainer.model.train()
    batch = trainer._prepare_inputs(trainer.data_collator([clips(teacher=False)[i] for i in range(8)]))
    views = [model.seen[-1] for model in teachers.models]
    torch.testing.assert_close(views[0], batch["input_values"], atol=0, rtol=0)
    expected = sum(Average()(view).logits for view in views) / 2
    torch.testing.assert_close(batch["teacher_logits"], expected)


def test_both_loss_parts_are_logged(tmp_path):
    trainer = online_trainer(tmp_path)
    trainer.train()
    for row in [row for row in trainer.state.log_history if "loss" in row]:
        assert row["loss"] == pytest.approx(0.02 * row["label_loss"] + 0.98 * row["teacher_loss"], rel=1e-4)


def test_evaluation_goes_without_teachers(tmp_path):
    teachers = online("cp-resnet")
    trainer = online_trainer(tmp_path, teachers=teachers)
    metrics = trainer.evaluate(clips(teacher=False))
    plain = trainer_of(tmp_path, small_student()).evaluate(clips(teacher=False))
    assert metrics["eval_loss"] == plain["eval_loss"]
    assert not teachers.models[0].seen


def test_checkpoint_and_optimizer_hold_the_student_alone(tmp_path):
    student = small_student()
    trainer = online_trainer(tmp_path, student)
    trainer.train()
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(list(student.parameters()))
    trainer.save_model(str(tmp_path / "saved"))
    saved = type(student).from_pretrained(tmp_path / "saved")
    assert torch.equal(weights(saved), weights(student))


def test_accumulated_batches_are_each_taught(tmp_path):
    teachers = online("cp-resnet")
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    trainer = online_trainer(tmp_path, teachers=teachers, **settings)
    trainer.train()
    assert trainer.state.global_step == 4
    assert [len(view) for view in teachers.models[0].seen] == [8] * 8


def test_bf16_autocast_covers_the_teachers_and_spares_the_front_end(tmp_path):
    inside, teacher = set(), cp_resnet()
    seen = Inputs.of(teacher)
    first = next(module for module in teacher.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, args, output: inside.add(output.dtype))
    teachers = OnlineTeachers({"a": (teacher, plain("cp-resnet"))})
    student = small_student()
    online_trainer(tmp_path, student, teachers=teachers, bf16=True, num_train_epochs=1).train()
    assert {view.dtype for view in seen} == {torch.float32}
    assert inside == {torch.bfloat16}
    assert torch.isfinite(weights(student)).all()


@pytest.mark.parametrize("stop", [4, 5])
def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, stop):
    settings = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 3}
    straight, resumed = small_student(), small_student()
    online_trainer(tmp_path / "straight", straight, **settings).train()
    with pytest.raises(KeyboardInterrupt):
        online_trainer(tmp_path / "resumed", callbacks=[StopAt(stop)], **settings).train()
    online_trainer(tmp_path / "resumed", resumed, **settings).train(resume_from_checkpoint=True)
    assert torch.equal(weights(straight), weights(resumed))


def test_teacher_alone_can_teach(tmp_path):
    """With the label loss all but off, a student comes closer to its online teacher."""
    teacher = online("cp-mobile")
    trainer = online_trainer(tmp_path, teachers=teacher, kd_lambda=0.0, num_train_epochs=12, learning_rate=1e-2)
    trainer.train()
    losses = [row["teacher_loss"] for row in trainer.state.log_history if "teacher_loss" in row]
    assert np.mean(losses[-3:]) < 0.75 * losses[0]
