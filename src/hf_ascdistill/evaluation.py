"""Evaluation of a model: its logits clip by clip, and the scene metrics of a dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction

from .data.collator import collate_clips
from .data.columns import DEVICE_IDS, INPUT_VALUES, LABELS, WAVEFORM
from .data.tau22 import DEVICES, device_groups
from .metrics import scene_metrics
from .models import AscFeatureExtractor
from .out_of_memory import out_of_memory_advice
from .transforms.frontend import AcousticFrontend

ACCURACIES = {"all": "accuracy", **{name: f"accuracy_{name}" for name in ("real", "seen", "unseen")}}


@dataclass(frozen=True)
class SceneEvaluation:
    """Computes the scene metrics of a dataset; `Trainer` calls it as `compute_metrics`.

    Args:
        scenes (`tuple[str, ...]`): classes in the order of their ids.
        devices (`tuple[str, ...]`): devices in the order of their ids.
        groups (`dict[str, tuple[str, ...]]`): devices of each group.
    """

    scenes: tuple[str, ...]
    devices: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "SceneEvaluation":
        """Reads the names from the splits `train` and `evaluate`; groups follow what was trained on."""
        features = data["evaluate"].features
        devices = tuple(features[DEVICE_IDS].names)
        trained = {devices[index] for index in set(data["train"].with_format(None)[DEVICE_IDS][:])}
        return cls(tuple(features[LABELS].names), devices, device_groups(trained, devices))

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        labels, device_ids = prediction.label_ids
        names = {"scenes": self.scenes, "devices": self.devices, "groups": self.groups}
        return scene_metrics(prediction.predictions, labels, device_ids, **names)


@torch.inference_mode()
def predict_batches_of_many(
    models: Mapping[Any, tuple[nn.Module, AcousticFrontend]], clips, *, batch_size: int = 64
) -> Iterator[dict]:
    """Yields the logits of several models for a dataset: its audio is read once, and each front-end works once.

    Args:
        models (`Mapping[Any, tuple[nn.Module, AcousticFrontend]]`): audio classifiers, which are left in evaluation
            mode, each with the front-end whose evaluation twin makes its log-mels; models whose front-ends have the
            same settings share them.
        clips (`datasets.Dataset`): clips of one length with `waveform`.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.

    Yields:
        `dict`: `logits`, a dict of float32 (B, C) on the CPU with the keys of `models`; the batch's `labels` and
        `device_ids` (B,).

    Raises:
        torch.OutOfMemoryError: a batch does not fit the device.
    """
    seats = {}
    for key, (model, frontend) in models.items():
        device = next(model.eval().parameters()).device
        seats[key] = (device, frontend.native_kernels, *front_end_settings(frontend.extractor).items())
    accelerators = {device for device, *_ in seats.values() if device.type != "cpu"}
    waiting = None  # an accelerator works on a batch while the next one is read
    for batch in DataLoader(clips, batch_size, collate_fn=collate_clips, pin_memory=bool(accelerators)):
        waveform, log_mels, logits = batch.pop(WAVEFORM), {}, {}
        with out_of_memory_advice(f"a batch of {batch_size} clips", "a smaller batch_size", "fewer models at once"):
            for key, (model, frontend) in models.items():
                seat = seats[key]
                if seat not in log_mels:
                    there = {WAVEFORM: waveform.to(seat[0], non_blocking=True)}
                    log_mels[seat] = frontend.evaluation()(there)[INPUT_VALUES]
                logits[key] = model(log_mels[seat]).logits.float().to("cpu", non_blocking=True)
        if waiting is not None:
            yield _when_copied(*waiting)
        waiting = {**batch, "logits": logits}, [_end_of_work(device) for device in accelerators]
    if waiting is not None:
        yield _when_copied(*waiting)


def _end_of_work(device: torch.device) -> torch.Event:
    """Marks the end of what an accelerator has been given to do."""
    event = torch.Event(device=device)
    event.record()
    return event


def _when_copied(batch: dict, events: list[torch.Event]) -> dict:
    """Returns a batch when the copies to the CPU that were begun before the events have ended."""
    for event in events:
        event.synchronize()
    return batch


def front_end_settings(extractor: AscFeatureExtractor) -> dict[str, int | float]:
    """Returns the settings that decide what an extractor computes."""
    return {name: value for name, value in extractor.to_dict().items() if isinstance(value, int | float)}


def predict_batches(model: nn.Module, clips, *, frontend: AcousticFrontend, batch_size: int = 64) -> Iterator[dict]:
    """Yields the logits of a dataset, batch by batch, in its order.

    Args:
        model (`nn.Module`): an audio classifier; it is left in evaluation mode.
        clips (`datasets.Dataset`): clips of one length with `waveform`.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.

    Yields:
        `dict[str, torch.Tensor]`: `logits` float32 (B, C) on the CPU, and the batch's `labels` and `device_ids` (B,).
    """
    for batch in predict_batches_of_many({"model": (model, frontend)}, clips, batch_size=batch_size):
        yield {**batch, "logits": batch["logits"]["model"]}


def evaluate_clips(
    model: nn.Module, clips, *, frontend: AcousticFrontend, batch_size: int = 64, groups: Mapping | None = None
) -> dict[str, float]:
    """Evaluates a model on a dataset.

    Args:
        model (`nn.Module`): an audio classifier.
        clips (`datasets.Dataset`): clips of one length with `waveform`, `labels` and `device_ids`.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.
        groups (`Mapping`, *optional*): devices of each group; unset: TAU22's groups where the devices are TAU22's.

    Returns:
        `dict[str, float]`: `clips`, `correct`, and the metrics of [`scene_metrics`].
    """
    batches = predict_batches(model, clips, frontend=frontend, batch_size=batch_size)
    progress = tqdm(batches, total=-(-len(clips) // batch_size), desc="evaluate", unit="batch", disable=None)
    return evaluate_logits(torch.cat([batch["logits"] for batch in progress]).numpy(), clips, groups=groups)


def evaluate_logits(logits: np.ndarray, clips, *, groups: Mapping | None = None) -> dict[str, float]:
    """Evaluates logits that are there already; no audio is read.

    Args:
        logits (`np.ndarray`): raw logits, `(N, C)`, in the dataset's order.
        clips (`datasets.Dataset`): clips with `labels` and `device_ids`.
        groups (`Mapping`, *optional*): devices of each group; unset: TAU22's groups where the devices are TAU22's.

    Returns:
        `dict[str, float]`: `clips`, `correct`, and the metrics of [`scene_metrics`].
    """
    scenes, devices = clips.features[LABELS].names, clips.features[DEVICE_IDS].names
    columns = clips.with_format(None)
    labels, device_ids = (np.array(columns[name][:]) for name in (LABELS, DEVICE_IDS))
    groups = usual_groups(devices) if groups is None else groups
    metrics = scene_metrics(logits, labels, device_ids, scenes=scenes, devices=devices, groups=groups)
    return {"clips": len(labels), "correct": int((logits.argmax(1) == labels).sum()), **metrics}


def usual_groups(devices: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns TAU22's groups where all devices are TAU22's, else none."""
    return device_groups((), devices) if set(devices) <= set(DEVICES) else {}


def accuracy_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a Markdown table: accuracy over all, real, seen and unseen devices, in percent; `-` where there is none.

    Args:
        rows (`Mapping[str, Mapping[str, float]]`): the metrics of each row by its name.
    """
    lines = [f"| | {' | '.join(ACCURACIES)} |", "|---" * (len(ACCURACIES) + 1) + "|"]
    for name, metrics in rows.items():
        cells = [f"{100 * metrics[metric]:.2f}" if metric in metrics else "-" for metric in ACCURACIES.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Returns metrics as lines of text: percent for accuracies, plain numbers for the rest."""
    width = max(map(len, metrics))
    return "\n".join(f"{name:{width}}  {_as_text(name, value)}" for name, value in metrics.items())


def _as_text(name: str, value: float) -> str:
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


__all__ = [
    "SceneEvaluation",
    "accuracy_table",
    "evaluate_clips",
    "evaluate_logits",
    "front_end_settings",
    "metrics_table",
    "predict_batches",
    "predict_batches_of_many",
    "usual_groups",
]
