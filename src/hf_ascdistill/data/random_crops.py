"""Random crops: windows that begin at another sample of their recording in each epoch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from .columns import EARLIEST, EXAMPLE_ID, LATEST, LENGTH, START
from .crops import shifted_crops
from .index import gap_free_runs, rows_of, with_rows
from .store_reader import ReadStore


@dataclass(frozen=True, eq=False)
class ReadRandomCrops:
    """Dataset transform that moves each row to a random sample of its recording, and reads it there.

    The place depends on the row's name, a seed and the epoch alone: not on the batch, the process or the worker.

    Args:
        read ([`ReadStore`]): reads the rows.
        draw (`torch.Tensor`): seed and epoch, int64 `(2,)`, which workers share: see `draw_anew`.
    """

    read: ReadStore
    draw: torch.Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64), repr=False)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Reads the rows of a batch. Without the columns that locate audio, the batch stays as it is."""
        if not {EXAMPLE_ID, EARLIEST, LATEST} <= batch.keys():
            return self.read(batch)
        seed, epoch = self.draw.tolist()
        bounds = (batch[name] for name in (EXAMPLE_ID, EARLIEST, LATEST))
        return self.read({**batch, START: random_starts(*bounds, seed=seed, epoch=epoch)})

    def draw_anew(self, *, seed: int, epoch: int) -> None:
        """Moves the crops to their places in an epoch, in worker processes too."""
        self.draw.share_memory_()
        self.draw.copy_(torch.tensor([seed, epoch]))


def random_starts(
    example_ids: Sequence[str], earliest: Sequence[int], latest: Sequence[int], *, seed: int, epoch: int
) -> list[int]:
    """Draws where the crops of an epoch begin.

    Args:
        example_ids (`Sequence[str]`): names of the rows.
        earliest (`Sequence[int]`): first sample at which each may begin.
        latest (`Sequence[int]`): last one.
        seed (`int`): of the run.
        epoch (`int`): number of the epoch.
    """
    bounds = zip(example_ids, earliest, latest, strict=True)
    return [low + _hash(f"{seed} {epoch} {name}") % (high - low + 1) for name, low, high in bounds]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def random_crops(dataset: Dataset, *, hop_seconds: float = 1.0, length_seconds: float = 1.0) -> Dataset:
    """Cuts crops that begin at a random sample of their recording, anywhere in it that has no gap.

    There are as many as `shifted_crops` cuts with this hop, and `example_id` names a row, not its audio: such crops
    have no cached logits. `DistillationTrainer` draws new places in each epoch; without it they are those of epoch 0.

    Args:
        dataset (`Dataset`): whole clips of a prepared store.
        hop_seconds (`float`, *optional*, defaults to 1.0): a crop for so many seconds of a recording.
        length_seconds (`float`, *optional*, defaults to 1.0): seconds of a crop.

    Raises:
        ValueError: the dataset is not of a prepared store, or what `shifted_crops` raises.
    """
    read = dataset.format["format_kwargs"].get("transform")
    if not isinstance(read, ReadStore):
        raise ValueError("random crops are cut from a prepared store, whose recordings are whole: run prepare first.")
    clips = rows_of(dataset)
    runs = gap_free_runs(clips)
    start, end = clips[START].to_numpy(), clips[START].to_numpy() + clips[LENGTH].to_numpy()
    last = runs.order[np.append(runs.first[1:], len(clips)) - 1]
    bounds = {EARLIEST: start[runs.order[runs.first]], LATEST: end[last]}
    for name, values in bounds.items():
        clips = clips.append_column(name, pa.array(values[runs.of_rows()]))
    crops = rows_of(shifted_crops(with_rows(dataset, clips), hop_seconds=hop_seconds, length_seconds=length_seconds))
    place = crops.schema.get_field_index(LATEST)
    latest = pa.array(crops[LATEST].to_numpy() - crops[LENGTH].to_numpy())
    moved = with_rows(dataset, crops.set_column(place, LATEST, latest))
    return moved.with_transform(ReadRandomCrops(read))


def random_crops_of(dataset: Any) -> ReadRandomCrops | None:
    """Returns the transform that moves a dataset's crops, `None` where nothing moves them."""
    transform = dataset.format["format_kwargs"].get("transform") if isinstance(dataset, Dataset) else None
    parts = getattr(transform, "transforms", (transform,))
    return next((part for part in parts if isinstance(part, ReadRandomCrops)), None)


__all__ = ["ReadRandomCrops", "random_crops", "random_crops_of", "random_starts"]
