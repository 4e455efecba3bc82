"""The distillation trainer: transformers' Trainer with the acoustic front-end, Eq. 1 and the paper's schedule."""

import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast, set_seed
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput, rotate_checkpoints
from transformers.utils import logging

from .arguments import DistillationTrainingArguments
from .data.collator import collate_clips
from .data.columns import INPUT_VALUES, LABELS, TEACHER_LOGITS, WAVEFORM
from .data.resident import ResidentClips
from .fusing import foldable_norms, fuse
from .losses import distillation_loss_parts
from .memory_format import fastest_memory_format
from .models import CpMobileForAudioClassification
from .native import can_use_kernels, use_native_kernels
from .native.classifier import NativeClassifier, can_classify
from .native.passt import use_fastest_linear
from .out_of_memory import out_of_memory_advice
from .resident_trainer import ResidentTrainer
from .transforms.frontend import AcousticFrontend

if TYPE_CHECKING:
    from .online import OnlineTeachers

logger = logging.get_logger(__name__)

COMPLETE_MARKER = "complete"  # written into a checkpoint when every process has saved its part


class ReseedPerRank(TrainerCallback):
    """Gives each process random numbers of its own, else every device would draw the same augmentation."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        set_seed(args.seed, device_specific=True)


class DrawCropsAnew(TrainerCallback):
    """Moves random crops to other places in each epoch; the seed and the epoch alone decide where."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs) -> None:
        crops = _movable(train_dataloader.dataset)
        if crops is not None:
            crops.draw_anew(seed=args.seed, epoch=int(state.epoch))


def _movable(dataset: Any) -> Any:
    """Returns what draws a dataset's crops anew, `None` where nothing does."""
    if isinstance(dataset, ResidentClips):
        return dataset
    from .data.random_crops import random_crops_of  # not before it is needed: resident clips do without `datasets`

    return random_crops_of(dataset)


class DistillationTrainer(ResidentTrainer):
    """Trains a student on teacher logits (paper, Eq. 1), or a teacher where the dataset has none.

    The training dataset yields `waveform` (T,), `labels`, `device_ids` and, for a student, `teacher_logits` (C,). The
    front-end runs on the accelerator; a dataset that already yields `input_values` has it in its workers. Everything
    else is [`~transformers.Trainer`]'s: resuming, mixed precision, several devices, accumulation, callbacks.

    Args:
        model (`PreTrainedModel`): an audio classifier.
        args ([`DistillationTrainingArguments`]): training arguments.
        frontend ([`AcousticFrontend`], *optional*): turns waveforms into log-mels; its evaluation twin serves
            evaluation.
        teachers ([`OnlineTeachers`], *optional*): frozen teachers that see each training batch as the student does, in
            place of a dataset's `teacher_logits`; each process has its own copy. Evaluation goes without them.
        kwargs: passed on to [`~transformers.Trainer`].
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean per batch

    def __init__(
        self,
        model: nn.Module,
        args: DistillationTrainingArguments,
        *,
        frontend: AcousticFrontend | None = None,
        teachers: "OnlineTeachers | None" = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("data_collator", collate_clips)
        if args.channels_last:
            model = model.to(memory_format=fastest_memory_format(model, args.device))
        wants_native = args.native_kernels and args.device.type == "cpu"
        self._is_native = wants_native and can_use_kernels()
        self._evaluated: nn.Module | None = None  # what stands in for the model while it is evaluated
        if wants_native:
            prepare = use_native_kernels if self._is_native else use_fastest_linear  # oneDNN needs no compiler
            prepare(model)
        super().__init__(model, args, **kwargs)
        if frontend is not None and not args.native_kernels:
            frontend = frontend.with_native_kernels(False)
        self.frontend, self.teachers = frontend, teachers
        if teachers is not None:
            teachers.to(args.device, channels_last=args.channels_last)
        self.add_callback(ReseedPerRank())
        self.add_callback(DrawCropsAnew())
        self._loss_parts: dict[str, torch.Tensor] = {}
        self._steps_of_parts = 0

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        is_taught_online = self.teachers is not None and self.model.training
        if WAVEFORM not in inputs and not is_taught_online:
            return inputs
        if self.frontend is None:
            raise ValueError("the dataset yields waveforms, but the trainer has no front-end: pass frontend=...")
        if is_taught_online:
            return self._with_online_logits(inputs)
        return self.frontend(inputs) if self.model.training else self.frontend.evaluation()(inputs)

    def _with_online_logits(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Makes the student's log-mels, and adds what the teachers say to theirs of the same augmented clips."""
        batch, views = self.teachers.views(inputs, self.frontend)
        with self.accelerator.autocast():
            return {**batch, TEACHER_LOGITS: self.teachers.logits(views)}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Does one forward and backward pass; a lack of memory names the settings that need less."""
        ways = (
            "a smaller --per_device_train_batch_size, with --gradient_accumulation_steps for the same step",
            "--bf16 true",
            "--data_placement disk, where the clips lie in this memory too",
        )
        with out_of_memory_advice(f"a training step of {self._train_batch_size} clips", *ways):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple:
        """Evaluates one batch; a lack of memory names the setting that needs less."""
        work = f"the evaluation of {self.args.eval_batch_size} clips"
        evaluated = model if self._evaluated is None else self._evaluated
        with out_of_memory_advice(work, "a smaller --per_device_eval_batch_size"):
            return super().prediction_step(evaluated, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Returns Eq. 1 where the batch has teacher logits, the label loss where it has none.

        Args:
            model (`nn.Module`): the network, wrapped or not.
            inputs (`dict`): `input_values` (B, M, F), `labels` (B,), optionally `teacher_logits` (B, C).
            return_outputs (`bool`, *optional*, defaults to `False`): also return the model's output.
            num_items_in_batch (`int`, *optional*): unused; the loss is a mean over the batch.
        """
        outputs = model(input_values=inputs[INPUT_VALUES])
        logits, teacher = outputs.logits.float(), inputs.get(TEACHER_LOGITS)
        if teacher is None:
            loss = functional.cross_entropy(logits, inputs[LABELS])
        else:
            parts = distillation_loss_parts(
                logits,
                teacher,
                inputs[LABELS],
                kd_lambda=self.args.kd_lambda,
                temperature=self.args.kd_temperature,
                reduction=self.args.kd_reduction,
            )
            loss = parts.loss
            if model.training:
                self._collect(label_loss=parts.label_loss, teacher_loss=parts.teacher_loss)
        return (loss, outputs) if return_outputs else loss

    def _collect(self, **parts: torch.Tensor) -> None:
        """Sums the parts of the loss on the device until they are logged."""
        for name, value in parts.items():
            self._loss_parts[name] = self._loss_parts.get(name, 0) + value.detach()
        self._steps_of_parts += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs; training logs also get the mean label and teacher loss since the last ones, over all processes."""
        if "loss" in logs and self._steps_of_parts:
            for name, value in self._loss_parts.items():
                mean = self.accelerator.reduce(value / self._steps_of_parts, reduction="mean")
                logs[name] = mean.item()
            self._loss_parts, self._steps_of_parts = {}, 0
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Creates Adam with the L2 penalty in the gradient, on every parameter, as in the paper's runs."""
        if self.optimizer is None:
            parameters = [p for p in (model or self.model).parameters() if p.requires_grad]
            self.optimizer = torch.optim.Adam(
                parameters,
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                weight_decay=self.args.weight_decay,
                fused=self.args.fused_adam and self.args.device.type in ("cpu", "cuda"),
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Creates the schedule that changes once per epoch: warm-up, plateau, linear fall (paper, section 3.1)."""
        if self.lr_scheduler is None:
            schedule = self.args.schedule
            steps_per_epoch = math.ceil(num_training_steps / math.ceil(self.args.num_train_epochs))
            if self.args.max_steps > 0 or self.args.num_train_epochs % 1:  # the last epoch is no whole one
                batches = len(self.get_train_dataloader())
                steps_per_epoch = max(1, math.ceil(batches / self.args.gradient_accumulation_steps))
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: schedule.factor(step // steps_per_epoch)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Returns the norm that clipping found; for the log alone the base class would find one at each step."""
        return None if grad_norm is None else super()._get_grad_norm(model, grad_norm=grad_norm)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Returns 0: transformers' estimate is one for language models; see `measure_complexity`."""
        return 0

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """Trains; `resume_from_checkpoint=True` goes on from the newest checkpoint that was written whole, if any.

        The data are brought to where `args.data_placement` says before the first step, those of the evaluation too
        where they can be held there. A run whose newest checkpoint is its end trains no further.

        Raises:
            ValueError: they cannot be held in memory, as `args.data_placement` wants, see [`~data.placement.place`].
        """
        self.place_data()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint and self.args.should_save:
                self._remove_older_than(resume_from_checkpoint)
            if resume_from_checkpoint and self._is_trained_to_the_end(resume_from_checkpoint):
                self._end_from(resume_from_checkpoint)
                return TrainOutput(self.state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _is_trained_to_the_end(self, checkpoint: str) -> bool:
        """Takes over the state of a checkpoint that is the end of a run: the base class would do a step more."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        by_steps, by_epochs = state.max_steps == self.args.max_steps, state.epoch >= self.args.num_train_epochs
        if state.global_step < state.max_steps or not (by_steps if self.args.max_steps > 0 else by_epochs):
            return False
        self.state = state
        return True

    def _end_from(self, checkpoint: str) -> None:
        """Does what a training does behind its last checkpoint: an evaluation that may lack, the choice of a model."""
        self._load_from_checkpoint(checkpoint)
        evaluated = {row["step"] for row in self.state.log_history if "eval_loss" in row}
        is_due = self.args.eval_strategy == "epoch" and self.state.epoch >= self.args.eval_delay
        if is_due and self.state.global_step not in evaluated:  # a checkpoint of steps comes before it
            self.evaluate()
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def _remove_older_than(self, checkpoint: str) -> None:
        """Removes what a run that was killed between saving and removing has left beyond `save_total_limit`."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        rotate_checkpoints(
            output_dir=self.args.output_dir,
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=state.best_model_checkpoint,
        )

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluates the network that is saved: all processes take the batch statistics of the main one."""
        for buffer in self.model.buffers():
            broadcast(buffer, from_process=0)
        self._evaluated = self._native_copy() if self._is_native else None
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self._evaluated = None

    def _native_copy(self) -> nn.Module | None:
        """Returns the network as it is now in one native kernel, if there is one for it."""
        if not isinstance(self.model, CpMobileForAudioClassification):
            return None  # others need no copy to find that out
        if any(getattr(parent, name).running_var is None for parent, name, _ in foldable_norms(self.model)):
            return None  # they depend on the batch
        folded = fuse(self.model)
        return NativeClassifier(folded) if can_classify(folded) else None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves, marks the checkpoint as whole, and only then removes older ones."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run_dir = self._get_output_dir(trial=trial)
            (Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / COMPLETE_MARKER).touch()
            best = self.state.best_model_checkpoint
            rotate_checkpoints(output_dir=run_dir, save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | None:
        """Publishes the finished run as `recipes/publish.py` does, see [`publish`]; it waits for the end of it.

        Args:
            commit_message (`str`, *optional*): title of the commit.
            blocking (`bool`, *optional*, defaults to `True`): must stay True.
            token (`str`, *optional*): unset: `args.hub_token`, else the one of `hf auth login`.
            revision (`str`, *optional*): branch; unset: `args.hub_revision`, else the main one.
            private (`bool`, *optional*): unset: `args.hub_private_repo`.

        Returns:
            `str | None`: address of the commit; `None` on the other processes.

        Raises:
            ValueError: `blocking` is False, or a reason of [`publish`].
            FileNotFoundError: the run is not finished: it has no `results.json` yet.
        """
        if not blocking:
            raise ValueError("blocking is False; a run is checked and pushed as a whole, which one has to wait for.")
        token, private = token or self.args.hub_token, self.args.hub_private_repo if private is None else private
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        from .hub.publish import publish

        return publish(
            self.args.output_dir,
            self.hub_model_id,
            private=bool(private),
            revision=revision or self.args.hub_revision,
            token=token,
            message=commit_message,
        )


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Returns the newest checkpoint of a run that was written whole; those that were not are removed.

    Args:
        output_dir (`str | Path`): folder of the run.

    Returns:
        `str | None`: folder of the checkpoint, `None` where there is none.
    """
    complete = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)
        if step and (folder / COMPLETE_MARKER).exists():
            complete[int(step[1])] = folder
        elif step:
            logger.warning(f"{folder} was not written whole; it is removed.")
            shutil.rmtree(folder, ignore_errors=True)
    return str(complete[max(complete)]) if complete else None


__all__ = ["DistillationTrainer", "DrawCropsAnew", "ReseedPerRank", "last_complete_checkpoint"]
