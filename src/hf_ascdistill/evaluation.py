"""Evaluation of a model: its logits clip by clip, and the scene metrics of a dataset."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction

from .data.collator import collate_clips
from .data.columns import DEVICE_IDS, INPUT_VALUES, LABELS, WAVEFORM
from .data.tau22 import DEVICES, device_groups
from .metrics import scene_metrics
from .transforms.frontend import AcousticFrontend


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
    device = next(model.parameters()).device
    model, frontend = model.eval(), frontend.evaluation()
    for batch in DataLoader(clips, batch_size, collate_fn=collate_clips):
        inputs = frontend({WAVEFORM: batch.pop(WAVEFORM).to(device)})
        yield {**batch, "logits": model(inputs[INPUT_VALUES]).logits.float().cpu()}


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
    scenes, devices = clips.features[LABELS].names, clips.features[DEVICE_IDS].names
    batches = predict_batches(model, clips, frontend=frontend, batch_size=batch_size)
    progress = tqdm(batches, total=-(-len(clips) // batch_size), desc="evaluate", unit="batch", disable=None)
    columns: dict[str, list[Any]] = {}
    for batch in progress:
        for name, values in batch.items():
            columns.setdefault(name, []).append(values)
    logits, labels, device_ids = (torch.cat(columns[name]).numpy() for name in ("logits", LABELS, DEVICE_IDS))
    if groups is None:
        groups = device_groups((), devices) if set(devices) <= set(DEVICES) else {}
    metrics = scene_metrics(logits, labels, device_ids, scenes=scenes, devices=devices, groups=groups)
    return {"clips": len(labels), "correct": int((logits.argmax(1) == labels).sum()), **metrics}


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Returns metrics as lines of text: percent for accuracies, plain numbers for the rest."""
    width = max(map(len, metrics))
    return "\n".join(f"{name:{width}}  {_as_text(name, value)}" for name, value in metrics.items())


def _as_text(name: str, value: float) -> str:
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


__all__ = ["SceneEvaluation", "evaluate_clips", "metrics_table", "predict_batches"]
