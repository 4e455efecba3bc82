"""Decides where the clips of a training lie: on disk, in the host's memory, on the accelerator; brings them there."""

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers.utils import logging

from .columns import DEVICE_IDS, EARLIEST, EXAMPLE_ID, LABELS, LATEST, LENGTH, RECORDING, START, TEACHER_LOGITS
from .host_memory import host_memory
from .index import rows_of
from .random_crops import ReadRandomCrops, random_starts
from .resident import SAMPLES_DTYPE, ResidentClips
from .store_reader import Place, ReadStore, Store

logger = logging.get_logger(__name__)

COLUMN_DTYPES = {LABELS: torch.int64, DEVICE_IDS: torch.int64, TEACHER_LOGITS: torch.float32}
TRAINING_SHARE = 0.25  # of a memory, which data leave to weights, activations and whatever else runs


def place(dataset: Dataset | ResidentClips, placement: str, *, device: torch.device | str) -> Dataset | ResidentClips:
    """Brings a dataset where it is to lie. The batches are the same bits wherever that is.

    The bytes are predicted first: where they do not fit beside what training keeps (a quarter of that memory), the
    next place is taken and a warning says so: from `device` to `ram` to `disk`, and with `auto` at once to `disk`.
    Each process of a training holds all clips.

    Args:
        dataset (`datasets.Dataset | ResidentClips`): clips or crops; resident ones stay where they are.
        placement (`str`): `auto`: on a CUDA device where they fit, else on disk; `disk`: read batch by batch; `ram`:
            the host's memory; `device`: the memory of `device`.
        device (`torch.device | str`): what the training runs on.

    Raises:
        ValueError: `ram` or `device` is asked for, and the dataset is not read straight from a prepared store or its
            clips differ in length.
    """
    if placement == "disk" or isinstance(dataset, ResidentClips):
        return dataset
    obstacle = _obstacle(dataset)
    if obstacle is not None:
        if placement == "auto":
            return dataset
        raise ValueError(f"data_placement is {placement}, but {obstacle}; or pass --data_placement disk.")
    layout, device = Layout.of(dataset), torch.device(device)
    for seat in _seats(placement, device):
        # processes of one machine share its memory, but not their accelerators
        copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if seat.type == "cpu" else 1
        needed, free = copies * layout.nbytes, free_memory(seat)
        obstacle = f"where {free:,} are free beside a share of {TRAINING_SHARE} for training"
        if needed <= free:
            try:
                return layout.load(seat)
            except torch.OutOfMemoryError as error:  # others take of it too, or it is in pieces
                obstacle = "which looked free but was not: " + str(error).partition("\n")[0]
        logger.warning(
            f"{len(dataset)} clips need {needed:,} bytes of the memory of {seat}, {obstacle}: "
            f"data_placement is {placement}, but not there."
        )
    return dataset


def can_be_resident(dataset: Dataset) -> bool:
    """Returns whether [`place`] can hold a dataset in memory, if that is large enough.

    Args:
        dataset (`datasets.Dataset`): any.
    """
    return _obstacle(dataset) is None


def predicted_bytes(dataset: Dataset) -> int:
    """Returns the memory that [`place`] would take for clips of a prepared store, without reading their audio.

    Args:
        dataset (`datasets.Dataset`): clips or crops of one length.

    Raises:
        ValueError: they are not read straight from a prepared store, or differ in length.
    """
    obstacle = _obstacle(dataset)
    if obstacle is not None:
        raise ValueError(f"these clips cannot be held in memory: {obstacle}.")
    return Layout.of(dataset).nbytes


def free_memory(device: torch.device) -> int:
    """Returns the bytes of a device that data may take: what is free, less the share that training keeps.

    Args:
        device (`torch.device`): an accelerator, or the CPU for [`host_memory`].
    """
    if device.type != "cpu":
        free, total = torch.accelerator.get_memory_info(device)
    else:
        free, total = host_memory()
    return max(0, free - int(TRAINING_SHARE * total))


def _seats(placement: str, device: torch.device) -> list[torch.device]:
    """Returns the memories to try, in order."""
    if placement == "auto":
        return [device] if device.type == "cuda" else []
    host = torch.device("cpu")
    return [host] if placement == "ram" or device.type == "cpu" else [device, host]


def _obstacle(dataset: Dataset) -> str | None:
    """Says why a dataset cannot be resident, `None` where it can."""
    transform = dataset.format["format_kwargs"].get("transform") if isinstance(dataset, Dataset) else None
    if not isinstance(transform, ReadStore | ReadRandomCrops) or START not in dataset.format["columns"]:
        return (
            "the training data are not read straight from a prepared store: run prepare_data.py, pass the store as "
            "--data, and leave the front-end on the accelerator"
        )
    lengths = sorted(set(dataset.with_format("arrow")[LENGTH][:].to_pylist()))
    if len(lengths) != 1:
        return f"the clips have {len(lengths)} lengths, {lengths[:1]} to {lengths[-1:]} samples: cut them into crops"
    return None


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the samples of clips will lie, known before any are read.

    Args:
        dataset (`Dataset`): the clips.
        rows (`pa.Table`): its rows.
        store (`Store`): holds their audio.
        places (`tuple[Place, ...]`): the runs to load, in order, P of them.
        run (`np.ndarray`): number of each row's run, `(R,)`.
    """

    dataset: Dataset
    rows: pa.Table
    store: Store
    places: tuple[Place, ...]
    run: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> "Layout":
        """Finds the runs of the store that clips are cut from.

        Raises:
            ValueError: the store does not hold one of them in one piece.
        """
        transform, rows = dataset.format["format_kwargs"]["transform"], rows_of(dataset)
        is_random = isinstance(transform, ReadRandomCrops)
        store = (transform.read if is_random else transform).store
        low, high = (rows[name].to_numpy() for name in ((EARLIEST, LATEST) if is_random else (START, START)))
        length = high - low + rows[LENGTH].to_numpy()
        numbers: dict[Place, int] = {}
        found = zip(rows[RECORDING].to_pylist(), low.tolist(), length.tolist(), strict=True)
        run = np.array([numbers.setdefault(store.find(*piece), len(numbers)) for piece in found])
        return cls(dataset, rows, store, tuple(numbers), run)

    @property
    def begin(self) -> np.ndarray:
        """`np.ndarray`: where each run will begin, and the number of all samples, `(P + 1,)`."""
        return np.cumsum([0, *(place.length for place in self.places)])

    @property
    def nbytes(self) -> int:
        """`int`: bytes of the clips in memory."""
        per_row = torch.int64.itemsize + torch.float32.itemsize  # offset and scale
        for name in self._columns():
            width = len(self.rows[name][0]) if name == TEACHER_LOGITS else 1
            per_row += width * COLUMN_DTYPES[name].itemsize
        return int(self.begin[-1]) * SAMPLES_DTYPE.itemsize + len(self.rows) * per_row

    def load(self, device: torch.device) -> ResidentClips:
        """Reads the runs, one at a time, into the memory of a device."""
        begin, scales = self.begin, np.empty(len(self.places), dtype=np.float32)
        samples = torch.empty(int(begin[-1]), dtype=SAMPLES_DTYPE, device=device)
        for number, place in enumerate(self.places):
            read, scales[number] = self.store.samples(place)
            samples[begin[number] : begin[number + 1]] = torch.from_numpy(read.copy())
        draws = isinstance(self.dataset.format["format_kwargs"]["transform"], ReadRandomCrops)
        return ResidentClips(
            samples,
            offset=self.offset().to(device),
            scale=torch.from_numpy(scales[self.run]).to(device),
            length=self.rows[LENGTH][0].as_py(),
            columns={name: self._column(name).to(device) for name in self._columns()},
            draw=self._draw if draws else None,
        )

    def offset(self) -> torch.Tensor:
        """Returns where each clip begins, int64 `(R,)`; random crops where they were drawn last."""
        transform = self.dataset.format["format_kwargs"]["transform"]
        if isinstance(transform, ReadRandomCrops):
            return self._draw(*transform.draw.tolist())
        return self._offset_of(self.rows[START].to_numpy())

    def _draw(self, seed: int, epoch: int) -> torch.Tensor:
        names, low, high = (self.rows[name].to_pylist() for name in (EXAMPLE_ID, EARLIEST, LATEST))
        return self._offset_of(np.array(random_starts(names, low, high, seed=seed, epoch=epoch)))

    def _offset_of(self, start: np.ndarray) -> torch.Tensor:
        """Turns places in recordings into places in the loaded samples."""
        shift = self.begin[:-1] - [place.start for place in self.places]
        return torch.from_numpy(shift[self.run] + start)

    def _columns(self) -> list[str]:
        return [name for name in COLUMN_DTYPES if name in self.dataset.format["columns"]]

    def _column(self, name: str) -> torch.Tensor:
        values = self.rows[name].combine_chunks()
        if name == TEACHER_LOGITS:
            return torch.from_numpy(values.flatten().to_numpy().reshape(len(values), -1).copy())
        return torch.from_numpy(values.to_numpy().copy())


__all__ = ["COLUMN_DTYPES", "TRAINING_SHARE", "Layout", "can_be_resident", "free_memory", "place", "predicted_bytes"]
