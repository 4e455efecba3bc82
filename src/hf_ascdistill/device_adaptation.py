"""Adapts a student to single devices: whose clips, from which weights, and what the adapted students are worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from .arguments import DistillationTrainingArguments
from .building import check_last_batch, load_classifier
from .data.columns import DEVICE_IDS
from .device_students import ADAPTED, FORMAT, GENERAL, MANIFEST_NAME, is_folder_name
from .evaluation import accuracy_table
from .files import new_folder, write_json
from .models import AscFeatureExtractor
from .pictures import draw_device_accuracy
from .runs import RESULTS_NAME
from .teachers import model_identity
from .transforms.frontend import AcousticFrontend

PICTURE_NAME = "devices.png"


def devices_to_adapt(data: Mapping[str, Dataset], asked: Sequence[str] | None = None) -> list[str]:
    """Returns the devices that get a student of their own, in the order of their ids.

    Args:
        data (`Mapping[str, Dataset]`): `train` and `evaluate`.
        asked (`Sequence[str]`, *optional*): some of the devices of the training clips; unset: all of them.

    Raises:
        ValueError: a device has no training clips, none to evaluate its student on, or a name that is no folder's.
    """
    names = data["train"].features[DEVICE_IDS].names
    present = {split: {names[index] for index in set(_device_ids(data[split]))} for split in ("train", "evaluate")}
    trained = [name for name in names if name in present["train"]]
    unknown = sorted(set(asked or ()) - set(trained))
    if unknown:
        raise ValueError(
            f"devices names {', '.join(unknown)}; the devices of the training clips are {', '.join(trained)}. Others "
            "cannot be adapted to and keep the general student."
        )
    chosen = [name for name in trained if asked is None or name in asked]
    for name in chosen:
        if name not in present["evaluate"]:
            raise ValueError(
                f"device {name} has training clips but none to evaluate its student on; leave it out by naming the "
                "others with --devices."
            )
        if not is_folder_name(name):
            raise ValueError(f"device {name!r} cannot name a folder here; rename it in the corpus.")
    return chosen


def clips_of_device(data: Mapping[str, Dataset], device: str) -> dict[str, Dataset]:
    """Returns the clips of one device in each split; the transforms stay.

    Args:
        data (`Mapping[str, Dataset]`): `train` and `evaluate`.
        device (`str`): name of the device.
    """
    wanted = data["train"].features[DEVICE_IDS].names.index(device)
    return {split: clips.select(np.flatnonzero(_device_ids(clips) == wanted)) for split, clips in data.items()}


def _device_ids(clips: Dataset) -> np.ndarray:
    return np.array(clips.with_format(None)[DEVICE_IDS][:])


def check_batches(
    clips: Mapping[str, int], training: DistillationTrainingArguments, frontend: AcousticFrontend
) -> None:
    """Raises before anything is trained what a device with few clips would raise later.

    A device with fewer clips than a batch is trained in one smaller batch an epoch.

    Args:
        clips (`Mapping[str, int]`): number of training clips of each device.
        training ([`DistillationTrainingArguments`]): has the size of the batch.
        frontend ([`AcousticFrontend`]): the augmenting front-end.

    Raises:
        ValueError: a device has fewer clips than a batch and such batches are dropped, or an epoch of it would end in
            a batch of one clip, which Freq-MixStyle cannot mix; the device is named.
    """
    batch = training.train_batch_size * training.world_size
    for device, count in clips.items():
        if training.dataloader_drop_last and count < batch:
            raise ValueError(
                f"device {device} has {count} training clips and a batch {batch}, so that dataloader_drop_last leaves "
                "nothing to train on: pass --dataloader_drop_last false, or a smaller batch size."
            )
        try:
            check_last_batch(count, training, frontend)
        except ValueError as error:
            raise ValueError(f"device {device}: {error}") from error


def save_general(model: PreTrainedModel, extractor: AscFeatureExtractor, folder: str | Path) -> Path:
    """Keeps the general student in its own folder, from which all devices start; one that is there must be the same.

    Args:
        model (`PreTrainedModel`): the general student.
        extractor ([`AscFeatureExtractor`]): its front-end.
        folder (`str | Path`): of all students.

    Returns:
        `Path`: folder of the general student.

    Raises:
        ValueError: another general student is there.
    """
    path = Path(folder) / GENERAL
    if path.exists():
        present, wanted = model_identity(load_classifier(path)[0]), model_identity(model)
        if present != wanted:
            raise ValueError(
                f"{path} holds another model ({present}) than the one to start from ({wanted}): it has changed since. "
                "Choose another --output_dir, or remove this one."
            )
        return path
    with new_folder(path) as partial:
        model.save_pretrained(partial)
        extractor.save_pretrained(partial)
    return path


def freeze_batch_norm(model: nn.Module) -> None:
    """Keeps batch normalisation at its statistics while a model trains; scale and shift still learn.

    A device with few recordings gives batches of few places and voices: statistics of those drown what the weights
    learn. Nothing of it is saved with the model.

    Args:
        model (`nn.Module`): changed in place, for as long as it lives.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]

    def hold(module: nn.Module, inputs: tuple) -> None:
        for layer in norms:
            layer.eval()

    model.register_forward_pre_hook(hold)  # Trainer puts the whole model into training mode before each step


def write_device_students(
    folder: str | Path, devices: Sequence[str], *, results: Mapping[str, Any], picture: bool = True
) -> None:
    """Writes the picture, `results.json` and, last, `device_models.json`.

    Args:
        folder (`str | Path`): holds the students' folders.
        devices (`Sequence[str]`): devices with a student of their own.
        results (`Mapping[str, Any]`): what [`DeviceStudents.compare`] returned, and more.
        picture (`bool`, *optional*, defaults to `True`): draw both accuracies per device.

    Raises:
        ImportError: a picture is wanted and matplotlib is absent.
    """
    folder = Path(folder)
    if picture:
        bars = [{"run": name, "last_epochs": results[name]} for name in (GENERAL, ADAPTED)]
        draw_device_accuracy(bars, folder / PICTURE_NAME, devices=results["devices"], groups=results["groups"])
    write_json(folder / RESULTS_NAME, results)
    write_json(folder / MANIFEST_NAME, {"format": FORMAT, "devices": list(devices)})  # last: they are finished


def students_summary(results: Mapping[str, Any], folder: str | Path) -> str:
    """Returns the tables of the general and the adapted students, to be printed.

    Args:
        results (`Mapping[str, Any]`): what `results.json` holds.
        folder (`str | Path`): where the students are.
    """
    lines = ["| device | training clips | clips | general | adapted | gained | lost |", "|---" * 7 + "|"]
    for device, row in results["by_device"].items():
        shares = " | ".join(f"{100 * row[name]:.2f}" for name in (GENERAL, ADAPTED))
        trained = results["training_clips"].get(device, "-")
        lines.append(f"| {device} | {trained} | {row['clips']} | {shares} | {row['gained']} | {row['lost']} |")
    worse = [name for name, row in results["by_device"].items() if row[ADAPTED] < row[GENERAL]]
    same = [name for name in results["by_device"] if name not in results["training_clips"]]
    lines += ["", accuracy_table({name: results[name] for name in (GENERAL, ADAPTED)}), ""]
    if worse:
        lines.append(
            f"Worse than the general student on their own device: {', '.join(worse)}. This list must not choose "
            "between them, or its accuracy is no longer one of unseen clips."
        )
    if same:
        lines.append(f"Without a student of their own, hence unchanged: {', '.join(same)}.")
    return "\n".join([*lines, f"students: {folder}"])


__all__ = [
    "check_batches",
    "clips_of_device",
    "devices_to_adapt",
    "freeze_batch_norm",
    "save_general",
    "students_summary",
    "write_device_students",
]
