"""The trainer: which loss, which updates, which learning rate, and exact resumption."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.utils.memory import should_reduce_batch_size
from compilers import needs_gcc
from datasets import Dataset
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationSettings,
    CpMobileConfig,
    CpMobileForAudioClassification,
    DeviceImpulseResponse,
    DistillationTrainer,
    DistillationTrainingArguments,
    build_frontend,
    distillation_loss,
    last_complete_checkpoint,
)
from hf_ascdistill.native.classifier import NativeClassifier
from hf_ascdistill.native.networks import NativeBlock

CLIPS, SAMPLES, SCENES = 32, 8_000, 10


class LinearProbe(nn.Module):
    """A classifier without batch normalisation: its updates do not depend on how a batch is cut."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(256, SCENES)

    def forward(self, input_values):
        return SequenceClassifierOutput(logits=self.linear(input_values.mean(dim=-1)))


def clips(teacher: bool = True) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {
        "waveform": rng.normal(0, 0.1, (CLIPS, SAMPLES)).astype(np.float32),
        "labels": rng.integers(0, SCENES, CLIPS),
        "device_ids": rng.integers(0, 3, CLIPS),
    }
    if teacher:
        columns["teacher_logits"] = rng.normal(0, 2, (CLIPS, SCENES)).astype(np.float32)
    return Dataset.from_dict({name: list(values) for name, values in columns.items()}).with_format("numpy")


def plain_frontend() -> AcousticFrontend:
    return AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))


def augmenting_frontend() -> AcousticFrontend:
    return build_frontend(
        AscFeatureExtractor.from_preset("cp-mobile"), AugmentationSettings(device_generalization="fms", fms_p=0.5)
    )


def small_student() -> nn.Module:
    torch.manual_seed(0)
    return CpMobileForAudioClassification(CpMobileConfig(base_channels=8))


def trainer_of(
    tmp_path, model, *, frontend=None, dataset=None, evaluation=None, callbacks=(), teachers=None, **settings
) -> DistillationTrainer:
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "eval_strategy": "no", "seed": 5}
    arguments = DistillationTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, **{**defaults, "save_strategy": "no", **settings}
    )
    dataset = clips() if dataset is None else dataset
    return DistillationTrainer(
        model,
        arguments,
        frontend=frontend or plain_frontend(),
        teachers=teachers,
        train_dataset=dataset,
        eval_dataset=evaluation,
        callbacks=list(callbacks),
    )


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.float().flatten() for value in model.state_dict().values()])


def test_loss_with_teacher_logits_is_equation_1(tmp_path):
    trainer = trainer_of(tmp_path, LinearProbe(), kd_lambda=0.3, kd_temperature=3.0, kd_reduction="mean")
    batch = trainer._prepare_inputs(trainer.data_collator([clips()[i] for i in range(4)]))
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    settings = {"kd_lambda": 0.3, "temperature": 3.0, "reduction": "mean"}
    expected = distillation_loss(outputs.logits, batch["teacher_logits"], batch["labels"], **settings)
    torch.testing.assert_close(loss, expected)


def test_loss_without_teacher_logits_is_the_label_loss(tmp_path):
    trainer = trainer_of(tmp_path, LinearProbe(), dataset=clips(teacher=False))
    batch = trainer._prepare_inputs(trainer.data_collator([clips(teacher=False)[i] for i in range(4)]))
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(outputs.logits, batch["labels"]))


def test_both_loss_parts_are_logged_and_add_up(tmp_path):
    trainer = trainer_of(tmp_path, LinearProbe())
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 2
    for row in logged:
        assert row["loss"] == pytest.approx(0.02 * row["label_loss"] + 0.98 * row["teacher_loss"], rel=1e-4)


def test_accumulated_batches_give_the_update_of_one_batch(tmp_path):
    whole, halves = LinearProbe(), LinearProbe()
    trainer_of(tmp_path / "whole", whole, per_device_train_batch_size=16).train()
    trainer_of(tmp_path / "halves", halves, per_device_train_batch_size=8, gradient_accumulation_steps=2).train()
    torch.testing.assert_close(weights(whole), weights(halves), atol=1e-6, rtol=0)
    assert (weights(whole) - weights(LinearProbe())).abs().max() > 1e-6


def test_l2_penalty_reaches_every_parameter(tmp_path):
    optimizer = trainer_of(tmp_path, small_student(), weight_decay=0.5).create_optimizer()
    assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(small_student().parameters()))


def test_learning_rate_changes_once_per_epoch_along_the_schedule(tmp_path):
    rates = []

    class Record(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            rates.append(optimizer.param_groups[0]["lr"])

    settings = {"num_train_epochs": 15, "per_device_train_batch_size": 8}
    trainer = trainer_of(tmp_path, LinearProbe(), callbacks=[Record()], **settings)
    trainer.train()
    expected = [9e-4 * trainer.args.schedule.factor(epoch) for epoch in range(15) for _ in range(4)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_same_seed_gives_the_same_weights_twice(tmp_path):
    models = [small_student(), small_student()]
    for index, model in enumerate(models):
        trainer_of(tmp_path / str(index), model, frontend=augmenting_frontend()).train()
    assert torch.equal(weights(models[0]), weights(models[1]))


def test_other_seed_gives_other_weights(tmp_path):
    models = [small_student(), small_student()]
    for seed, model in enumerate(models):
        trainer_of(tmp_path / str(seed), model, frontend=augmenting_frontend(), seed=seed).train()
    assert not torch.equal(weights(models[0]), weights(models[1]))


class StopAt(TrainerCallback):
    """Stops a training as a kill between two steps would: the newest checkpoint is all that is left."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("save", "stop"), [({"save_strategy": "epoch"}, 5), ({"save_strategy": "steps", "save_steps": 3}, 4)]
)
def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, save, stop):
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "frontend": augmenting_frontend(), **save}
    straight = small_student()
    trainer_of(tmp_path / "straight", straight, **settings).train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "resumed", small_student(), callbacks=[StopAt(stop)], **settings).train()
    resumed = small_student()
    trainer_of(tmp_path / "resumed", resumed, **settings).train(resume_from_checkpoint=True)
    assert torch.equal(weights(straight), weights(resumed))


def test_rate_changes_at_the_end_of_whole_epochs_also_where_the_last_is_none(tmp_path):
    falling = {"lr_warmup_epochs": 0, "lr_ramp_start": 1, "lr_ramp_length": 149}
    settings = {"num_train_epochs": 2.5, "per_device_train_batch_size": CLIPS // 8, **falling}
    trainer = trainer_of(tmp_path, LinearProbe(), **settings)
    trainer.create_optimizer_and_scheduler(num_training_steps=20)
    factors = [trainer.lr_scheduler.lr_lambdas[0](step) for step in range(20)]
    assert [step for step in range(1, 20) if factors[step] != factors[step - 1]] == [8, 16]


def test_checkpoint_that_was_not_written_whole_is_passed_over(tmp_path):
    trainer_of(tmp_path, LinearProbe(), save_strategy="epoch").train()
    half = tmp_path / "checkpoint-99"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert not half.exists()


def test_save_total_limit_keeps_the_newest_checkpoints(tmp_path):
    trainer_of(tmp_path, LinearProbe(), save_strategy="epoch", save_total_limit=1, num_train_epochs=3).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_resuming_removes_what_a_kill_left_beyond_the_limit(tmp_path):
    settings = {"save_strategy": "epoch", "num_train_epochs": 3}
    trainer_of(tmp_path, LinearProbe(), save_total_limit=2, **settings).train()  # as if killed before it removed one
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    newest = last_complete_checkpoint(tmp_path)
    trainer_of(tmp_path, LinearProbe(), save_total_limit=1, **settings).train(resume_from_checkpoint=True)
    assert [str(path) for path in tmp_path.glob("checkpoint-*")] == [newest]


def test_evaluation_sees_no_augmentation(tmp_path):
    trainer = trainer_of(tmp_path, small_student(), frontend=augmenting_frontend())
    batch = trainer.data_collator([clips()[i] for i in range(4)])
    trainer.model.eval()
    first, second = (trainer._prepare_inputs(dict(batch))["input_values"] for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    torch.testing.assert_close(first, plain_frontend().evaluation()(dict(batch))["input_values"], atol=0, rtol=0)


def test_waveforms_without_a_front_end_raise(tmp_path):
    arguments = DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no")
    with pytest.raises(ValueError, match="no front-end"):
        DistillationTrainer(LinearProbe(), arguments, train_dataset=clips()).train()


def test_bf16_autocast_trains_and_leaves_the_front_end_in_float32(tmp_path):
    seen = []
    model = small_student()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_values"].dtype), with_kwargs=True
    )
    trainer_of(tmp_path, model, bf16=True, num_train_epochs=1).train()
    assert set(seen) == {torch.float32}
    assert torch.isfinite(weights(model)).all()


class CountReads(TorchDispatchMode):
    """Counts how often the host reads a number of a tensor, which on an accelerator is to wait for it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_accelerator(tmp_path):
    reads = []
    for steps_per_epoch in (2, 4):
        trainer = trainer_of(tmp_path, small_student(), per_device_train_batch_size=CLIPS // steps_per_epoch)
        with CountReads() as counter:
            trainer.train()
        assert trainer.state.global_step == 2 * steps_per_epoch
        reads.append(counter.count)
    assert reads[0] == reads[1], "a step reads numbers of tensors"


def test_compiled_student_trains_as_the_plain_one_and_saves_under_the_same_names(tmp_path):
    losses, models = [], []
    for settings in ({}, {"torch_compile_backend": "aot_eager"}):
        model = small_student()
        trainer = trainer_of(
            tmp_path, model, channels_last=False, max_steps=1, logging_strategy="steps", logging_steps=1, **settings
        )
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        trainer.save_model(str(tmp_path / "saved"))
        models.append(CpMobileForAudioClassification.from_pretrained(tmp_path / "saved"))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    torch.testing.assert_close(weights(models[0]), weights(models[1]), atol=2e-3, rtol=0)  # Adam: up to 2 rates


PLAIN = {"channels_last": False, "fused_adam": False, "native_kernels": False}


def test_first_loss_of_the_fast_paths_is_that_of_the_plain_ones(tmp_path):
    losses = {}
    for name, settings in {"fast": {}, "plain": PLAIN}.items():
        trainer = trainer_of(
            tmp_path,
            small_student(),
            frontend=augmenting_frontend(),
            logging_strategy="steps",
            logging_steps=1,
            **settings,
        )
        trainer.train()
        losses[name] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses["fast"][0] == pytest.approx(losses["plain"][0], abs=1e-4)
    assert losses["fast"][-1] == pytest.approx(losses["plain"][-1], abs=1e-2)


@needs_gcc
def test_evaluation_in_the_native_kernel_sees_the_model_as_it_is_now(tmp_path, monkeypatch):
    calls, logits = [], NativeClassifier.logits
    monkeypatch.setattr(NativeClassifier, "logits", lambda self, inputs: calls.append(1) or logits(self, inputs))
    model = small_student()
    native, usual = (
        trainer_of(tmp_path, model, frontend=plain_frontend(), native_kernels=is_on) for is_on in (True, False)
    )
    native.train()
    for _ in range(2):
        with torch.no_grad():
            model.classifier.norm.bias[3] += 1
        own = native.predict(clips()).predictions
        assert calls
        calls.clear()
        np.testing.assert_allclose(own, usual.predict(clips()).predictions, atol=1e-5)
        assert not calls


def test_native_kernels_can_be_switched_off(tmp_path):
    responses = DeviceImpulseResponse(torch.ones(1, 4))
    for is_on in (True, False):
        frontend = replace(plain_frontend(), waveform_transforms=(responses,))
        trainer = trainer_of(tmp_path, small_student(), frontend=frontend, native_kernels=is_on)
        kinds = [type(module) for module in trainer.model.modules()]
        assert kinds.count(NativeBlock) == 6 * is_on
        assert trainer.frontend.waveform_transforms[0].native_kernels == is_on


def test_without_gcc_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_ascdistill.trainer.can_use_kernels", lambda: False)
    trainer = trainer_of(tmp_path, small_student(), num_train_epochs=1)
    trainer.train()
    assert not any(isinstance(module, NativeBlock) for module in trainer.model.modules())
    assert trainer.state.global_step == 2


class Overflow:
    """A hook that ends a forward pass as an accelerator without memory would."""

    def __init__(self, passes):
        self.passes = passes

    def __call__(self, *_):
        self.passes -= 1
        if self.passes < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nsecond line")


def test_step_without_memory_names_what_needs_less_and_leaves_the_checkpoint(tmp_path):
    steps = {"save_strategy": "steps", "save_steps": 2}
    model = small_student()
    handle = model.register_forward_hook(Overflow(3))
    trainer = trainer_of(tmp_path, model, **steps)
    message = "step of 16 clips did not fit: CUDA.* GiB. To need less: a smaller --per_device_train_batch_size"
    with pytest.raises(torch.OutOfMemoryError, match=message) as raised:
        trainer.train()
    assert should_reduce_batch_size(raised.value)
    handle.remove()
    trainer = trainer_of(tmp_path, model, **steps)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


def test_evaluation_without_memory_names_what_needs_less(tmp_path):
    model = small_student()
    model.register_forward_hook(Overflow(0))
    trainer = trainer_of(tmp_path, model, per_device_eval_batch_size=8)
    with pytest.raises(torch.OutOfMemoryError, match="evaluation of 8 clips did not fit.*--per_device_eval"):
        trainer.evaluate(clips())
