"""Per-device students: a general model, copies of it that were fine-tuned for one device each, and the choice."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .building import load_classifier
from .data.columns import DEVICE_IDS, LABELS
from .data.logits import LOGITS
from .evaluation import evaluate_logits, predict_batches_of_many, usual_groups
from .soup import check_alike
from .transforms.frontend import AcousticFrontend

FORMAT = 1  # raised whenever device_models.json changes its meaning
MANIFEST_NAME = "device_models.json"  # devices whose students are finished, each in a folder of its name
GENERAL, ADAPTED = "general", "adapted"


class DeviceStudents:
    """A general student for any device, and students that were adapted to one device each.

    The device of a clip decides who classifies it; a device that is unknown, or that nobody was adapted to, falls back
    on the general student. DCASE 2025, task 1, tells the device at inference.

    Args:
        general (`PreTrainedModel`): the general student.
        adapted (`Mapping[str, PreTrainedModel]`): the student of each device, by the device's name.
        frontend ([`AcousticFrontend`]): all students' front-end; its evaluation twin makes the log-mels.

    Example:

    ```python
    >>> from hf_ascdistill import DeviceStudents

    >>> students = DeviceStudents.from_pretrained("runs/student-devices")
    >>> model = students.model_for("s1")  # the general one for None and for a phone that nobody has seen
    ```
    """

    def __init__(
        self, general: PreTrainedModel, adapted: Mapping[str, PreTrainedModel], *, frontend: AcousticFrontend
    ) -> None:
        self.general, self.adapted, self.frontend = general.eval(), dict(adapted), frontend
        for model in self.adapted.values():
            model.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, scenes: Sequence[str] | None = None) -> "DeviceStudents":
        """Loads the students that `adapt_devices.py` has made.

        Args:
            folder (`str | Path`): holds `device_models.json` and a folder per student.
            scenes (`Sequence[str]`, *optional*): classes that the students must have, in order.

        Raises:
            FileNotFoundError: there is no `device_models.json`: the adaptation was not finished.
            ValueError: it is damaged or of another version, or the students have other classes or differ in more than
                their weights.
        """
        return cls.of_devices(folder, _read_manifest(Path(folder)), scenes=scenes)

    @classmethod
    def of_devices(
        cls, folder: str | Path, devices: Sequence[str], *, scenes: Sequence[str] | None = None
    ) -> "DeviceStudents":
        """Loads the general student and those of some devices, finished or not: `from_pretrained` knows which are.

        Args:
            folder (`str | Path`): holds a folder `general`, and one of each device's name.
            devices (`Sequence[str]`): names of the devices.
            scenes (`Sequence[str]`, *optional*): classes that the students must have, in order.

        Raises:
            ValueError: the students have other classes or differ in more than their weights.
        """
        members = {}
        for name in (GENERAL, *devices):
            model, extractor = load_classifier(Path(folder) / name, scenes)
            members[name] = (model, AcousticFrontend(extractor))
        check_alike(members)
        general, frontend = members.pop(GENERAL)
        return cls(general, {device: model for device, (model, _) in members.items()}, frontend=frontend)

    @property
    def devices(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: devices with a student of their own."""
        return tuple(self.adapted)

    def model_for(self, device: str | None) -> PreTrainedModel:
        """Returns the student that classifies clips of a device.

        Args:
            device (`str`, *optional*): its name; the general student serves `None` and every name without a student.
        """
        return self.general if device is None else self.adapted.get(device, self.general)

    def to(self, device: torch.device | str) -> "DeviceStudents":
        """Moves all students to an accelerator or the CPU."""
        for model in (self.general, *self.adapted.values()):
            model.to(device)
        return self

    def predict(self, clips: Dataset, *, batch_size: int = 64) -> np.ndarray:
        """Predicts the logits of a dataset, each clip with the student of its device.

        Args:
            clips (`datasets.Dataset`): clips of one length with `waveform` and `device_ids`.
            batch_size (`int`, *optional*, defaults to 64): clips of one student at a time.

        Returns:
            `np.ndarray`: raw logits, float32 `(N, C)`, in the dataset's order.
        """
        return self._predict(clips, batch_size, is_compared=False)[ADAPTED]

    def evaluate(
        self, clips: Dataset, *, batch_size: int = 64, groups: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, float]:
        """Evaluates the students together, each clip with the student of its device.

        Args:
            clips (`datasets.Dataset`): clips of one length with `waveform`, `labels` and `device_ids`.
            batch_size (`int`, *optional*, defaults to 64): clips of one student at a time.
            groups (`Mapping[str, Sequence[str]]`, *optional*): devices of each group; unset: TAU22's groups where the
                devices are TAU22's.

        Returns:
            `dict[str, float]`: the metrics of [`evaluate_clips`].
        """
        return evaluate_logits(self.predict(clips, batch_size=batch_size), clips, groups=groups)

    def compare(
        self, clips: Dataset, *, batch_size: int = 64, groups: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, Any]:
        """Evaluates the general student alone beside the students of the devices, on the same clips.

        Args:
            clips, batch_size, groups: see [`DeviceStudents.evaluate`].

        Returns:
            `dict`: `general` and `adapted`, metrics of [`evaluate_clips`]; `by_device`, for each device the number of
            clips, both accuracies, and the clips that are `gained` (right now, wrong with the general student) and
            `lost` (the reverse); `scenes`, `devices` and `groups`.
        """
        names = clips.features[DEVICE_IDS].names
        groups = usual_groups(names) if groups is None else groups
        logits = self._predict(clips, batch_size, is_compared=True)
        columns = clips.with_format(None)
        labels, device_ids = (np.array(columns[name][:]) for name in (LABELS, DEVICE_IDS))
        is_right = {name: values.argmax(1) == labels for name, values in logits.items()}
        present = {names[index]: device_ids == index for index in np.unique(device_ids)}
        return {
            **{name: evaluate_logits(values, clips, groups=groups) for name, values in logits.items()},
            "by_device": {
                device: _changes(is_right[GENERAL][chosen], is_right[ADAPTED][chosen])
                for device, chosen in present.items()
            },
            "scenes": list(clips.features[LABELS].names),
            "devices": list(names),
            "groups": {group: list(of_group) for group, of_group in groups.items()},
        }

    def _predict(self, clips: Dataset, batch_size: int, *, is_compared: bool) -> dict[str, np.ndarray]:
        """Returns the logits of the students of the devices, and where asked for those of the general one."""
        kept = (GENERAL, ADAPTED) if is_compared else (ADAPTED,)
        logits = {name: np.empty((len(clips), self.general.config.num_labels), np.float32) for name in kept}
        with tqdm(total=len(clips), desc="evaluate", unit="clip", disable=None) as progress:
            for model, rows in self._routes(clips):
                models = {ADAPTED: (model, self.frontend)}
                if is_compared and model is not self.general:
                    models[GENERAL] = (self.general, self.frontend)
                done = 0
                for batch in predict_batches_of_many(models, clips.select(rows), batch_size=batch_size):
                    of_batch = rows[done : done + len(batch[LABELS])]
                    for name in kept:
                        logits[name][of_batch] = batch[LOGITS].get(name, batch[LOGITS][ADAPTED]).numpy()
                    done += len(of_batch)
                    progress.update(len(of_batch))
        return logits

    def _routes(self, clips: Dataset) -> Iterator[tuple[PreTrainedModel, np.ndarray]]:
        """Yields each student that has something to do, with the rows of its clips."""
        names = clips.features[DEVICE_IDS].names
        device_ids = np.array(clips.with_format(None)[DEVICE_IDS][:])
        routes: dict[PreTrainedModel, list[int]] = {}
        for index in np.unique(device_ids):
            routes.setdefault(self.model_for(names[index]), []).append(index)
        for model, indices in routes.items():
            yield model, np.flatnonzero(np.isin(device_ids, indices))


def _changes(general: np.ndarray, adapted: np.ndarray) -> dict[str, int | float]:
    """Compares the decisions of two students on the clips of one device."""
    return {
        "clips": len(general),
        GENERAL: float(general.mean()),
        ADAPTED: float(adapted.mean()),
        "gained": int((adapted & ~general).sum()),
        "lost": int((general & ~adapted).sum()),
    }


def has_device_students(folder: str | Path) -> bool:
    """Says whether a folder holds finished students of devices."""
    return (Path(folder) / MANIFEST_NAME).exists()


def _read_manifest(folder: Path) -> list[str]:
    """Returns the devices that have a student of their own."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no finished students of devices ({MANIFEST_NAME} is missing); run adapt_devices.py, "
            "which goes on where it stopped."
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run adapt_devices.py again.") from error
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {manifest.get('format')}, expected {FORMAT}; adapt the devices again.")
    outside = [name for name in manifest["devices"] if not is_folder_name(name)]
    if outside:
        raise ValueError(f"{path} names {outside[0]!r}; expected names of folders beside it.")
    return manifest["devices"]


def is_folder_name(name: str) -> bool:
    """Says whether a folder of this name lies beside `device_models.json`, and is not the general student's."""
    return name == Path(name).name and name not in ("", "..", GENERAL)


__all__ = ["DeviceStudents", "has_device_students", "is_folder_name"]
