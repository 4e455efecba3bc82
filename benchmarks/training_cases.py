"""Cases of training: steps on mels, from waveforms and from the store, with fresh weights and published ones."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from frontend_cases import ARCHITECTURES, our_frontend, plain_augmentation, plain_frontend, plain_mel
from networks import count_denormals, fresh_model, open_checkpoint, plain_model
from plain import SavedClips, Trainer, training_mels
from timing import Case
from torch import nn
from torch.utils.data import DataLoader
from workload import Workload, check_close, exact_convolutions

from hf_ascdistill import AcousticFrontend, AscFeatureExtractor, DistillationTrainer, DistillationTrainingArguments
from hf_ascdistill.data.collator import collate_clips

SECTION = "Training"
LOSS_TOLERANCE = 1e-3  # relative
GRADIENT_TOLERANCE = 0.1  # relative L2; batch normalisation in channels_last is some 50 times less accurate on a CPU
WAVEFORM_GOAL, STORE_GOAL, PUBLISHED_GOAL = 2.0, 2.5, 4.0
# The peer's ms per clip.
PEER_ITEM_CACHED = 2.3
PEER_STEP = {"cp-mobile": (9.0,), "cp-resnet": (3.4,)}
PEER_MEL_FMS_STEP = {"cp-mobile": 13.9, "cp-resnet": 6.3}
PEER_STEP_PUBLISHED = (29.1,)  # CP-Mobile's published weights, denormals and all


class OurLoop:
    """The package's own training step, outside of its epochs."""

    def __init__(self, model: nn.Module, frontend: AcousticFrontend, work: Workload):
        arguments = DistillationTrainingArguments(
            str(work.folder / "trainer"), use_cpu=work.device.type == "cpu", disable_tqdm=True, eval_strategy="no"
        )
        self.trainer = DistillationTrainer(model, arguments, frontend=frontend)
        self.trainer.current_gradient_accumulation_steps = 1  # Trainer.train sets it
        self.optimizer = self.trainer.create_optimizer()

    def backward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Fills the gradients of a batch and returns its loss."""
        self.optimizer.zero_grad()
        return self.trainer.training_step(self.trainer.model, batch)

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Trains on a batch and returns its loss."""
        loss = self.backward(batch)
        self.optimizer.step()
        return loss


def training_cases(work: Workload) -> Iterator[Case]:
    """Yields training steps on mels and from waveforms that are in a batch already."""
    for architecture, name in ARCHITECTURES.items():
        extractor, model = AscFeatureExtractor.from_preset(architecture), fresh_model(architecture)
        pair = model, plain_model(model)
        yield _mel_step_case(work, pair, extractor, title=f"{name}-128K", peer=PEER_STEP[architecture])
    if work.checkpoint is not None:
        model, extractor, published = open_checkpoint(work.checkpoint)
        yield _mel_step_case(work, (model, published), extractor, title="CPM, published", peer=PEER_STEP_PUBLISHED)
    for architecture, name in ARCHITECTURES.items():
        yield _waveform_case(work, architecture, name=f"{name}-128K")


def store_step_cases(work: Workload, store: Any, saved: SavedClips) -> Iterator[Case]:
    """Yields the whole way from a store of clips to a trained step.

    Args:
        work (`Workload`): the settings.
        store (`datasets.Dataset`): prepared clips.
        saved (`SavedClips`): the same clips saved the plain way.
    """
    model, extractor = fresh_model("cp-mobile"), AscFeatureExtractor.from_preset("cp-mobile")
    candidates = [("fresh weights", (model, plain_model(model)), extractor, STORE_GOAL)]
    if work.checkpoint is not None:
        model, extractor, published = open_checkpoint(work.checkpoint)
        title = f"trained weights (plain: as published, {count_denormals(published):,} denormals)"
        candidates.append((title, (model, published), extractor, PUBLISHED_GOAL))
    for title, pair, extractor, goal in candidates:
        ours, plain = _loops(work, pair, our_frontend(work, extractor))
        yield Case(
            SECTION,
            f"store to step, CPM-128K, batch {len(work.waveform)}, {title}",
            len(store),
            _our_pass(work, ours, store),
            _plain_pass(work, plain, saved, extractor),
            goal=goal,
        )


def _our_pass(work: Workload, loop: OurLoop, store: Any) -> Callable[[], None]:
    """Returns the work of one epoch over the store."""
    loader = DataLoader(store, len(work.waveform), collate_fn=collate_clips, shuffle=True)

    def epoch() -> None:
        for batch in loader:
            loop.step({**batch, "teacher_logits": work.teacher[: len(batch["labels"])]})

    return epoch


def _plain_pass(
    work: Workload, trainer: Trainer, saved: SavedClips, extractor: AscFeatureExtractor
) -> Callable[[], None]:
    """Returns the same the plain way: clip by clip DIR and roll, then the mels of the batch and the step."""
    mel, augmentation = plain_mel(extractor), plain_augmentation(work, "cpu")
    loader = DataLoader(SavedClips(saved.paths, augmentation.clip), len(work.waveform), shuffle=True)

    def epoch() -> None:
        for waveform in loader:
            count, waveform = len(waveform), waveform.to(work.device)
            trainer.step(training_mels(waveform, mel, augmentation), work.teacher[:count], work.labels[:count])

    return epoch


def _mel_step_case(
    work: Workload,
    pair: tuple[nn.Module, nn.Module],
    extractor: AscFeatureExtractor,
    *,
    title: str,
    peer: tuple[float, ...],
) -> Case:
    mels = extractor.log_mel(work.waveform)
    targets = {"labels": work.labels, "teacher_logits": work.teacher}
    ours, plain = _loops(work, pair, AcousticFrontend(extractor))
    with exact_convolutions():
        _check_step(ours, plain, {"input_values": mels, **targets})
    return Case(
        SECTION,
        f"step on mels, {title}, batch {len(mels)}",
        len(mels),
        lambda: ours.step({"input_values": mels, **targets}),
        lambda: plain.step(mels, work.teacher, work.labels),
        peer,
    )


def _waveform_case(work: Workload, architecture: str, *, name: str) -> Case:
    extractor, model = AscFeatureExtractor.from_preset(architecture), fresh_model(architecture)
    ours, plain = _loops(work, (model, plain_model(model)), our_frontend(work, extractor))
    frontend = plain_frontend(work, extractor)
    batch = {"waveform": work.waveform, "labels": work.labels, "teacher_logits": work.teacher}
    return Case(
        SECTION,
        f"whole step from the waveform, {name}, batch {len(work.waveform)}",
        len(work.waveform),
        lambda: ours.step(batch),
        lambda: plain.step(frontend(work.waveform), work.teacher, work.labels),
        (PEER_MEL_FMS_STEP[architecture], PEER_ITEM_CACHED),
        goal=WAVEFORM_GOAL,
    )


def _loops(work: Workload, pair: tuple[nn.Module, nn.Module], frontend: AcousticFrontend) -> tuple[OurLoop, Trainer]:
    """Returns our loop and the plain one over equal networks of their own."""
    model, plain = pair
    return OurLoop(model, frontend, work), Trainer(plain.to(work.device))


def _check_step(ours: OurLoop, plain: Trainer, batch: dict[str, torch.Tensor]) -> None:
    losses = ours.backward(batch), plain.backward(batch["input_values"], batch["teacher_logits"], batch["labels"])
    check_close("loss of a training step", *losses, tolerance=LOSS_TOLERANCE * float(losses[1]))
    own, expected = (_gradient(model) for model in (ours.trainer.model, plain.model))
    error = (own - expected).norm() / expected.norm()
    check_close("gradient, relative error", error, torch.zeros(()), tolerance=GRADIENT_TOLERANCE)


def _gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


__all__ = ["store_step_cases", "training_cases"]
