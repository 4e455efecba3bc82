"""The index dataset: rows that name clips and say where each lies in a recording, and the runs that they form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

from .columns import (
    CITY,
    CONTENT,
    DEVICE_IDS,
    EARLIEST,
    EXAMPLE_ID,
    LABELS,
    LATEST,
    LENGTH,
    PATH,
    RECORDING,
    START,
    WAVEFORM,
)

LOCATION_COLUMNS = (RECORDING, START, LENGTH, PATH, CONTENT, EARLIEST, LATEST)  # what a row does not yield
CROP_SUFFIX = r"\+(\d+)ms$"  # of the example_id of a shifted crop


def index_features(scenes: Sequence[str], devices: Sequence[str]) -> Features:
    """Returns the columns that every index dataset has."""
    return Features(
        {
            EXAMPLE_ID: Value("string"),
            RECORDING: Value("string"),
            START: Value("int64"),
            LENGTH: Value("int64"),
            LABELS: ClassLabel(names=list(scenes)),
            DEVICE_IDS: ClassLabel(names=list(devices)),
            CITY: Value("string"),
        }
    )


def rows_of(dataset: Dataset) -> pa.Table:
    """Returns all rows of an index dataset without reading audio; its features travel in the schema.

    Raises:
        ValueError: it is no index dataset.
    """
    missing = [name for name in (EXAMPLE_ID, RECORDING, START, LENGTH) if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"the dataset lacks the column(s) {', '.join(missing)}: it has {', '.join(dataset.column_names)}. Open it "
            "with load_tau22 or load_prepared; bring recordings of your own in with prepare_recordings."
        )
    table = dataset.with_format("arrow")[:]
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata).combine_chunks()


def is_repeated(values: pa.Array) -> np.ndarray:
    """Marks the values that stood before."""
    codes = values.dictionary_encode().indices.to_numpy()
    repeated = np.ones(len(codes), dtype=bool)
    repeated[np.unique(codes, return_index=True)[1]] = False
    return repeated


def read_like(rows: Dataset, dataset: Dataset) -> Dataset:
    """Returns rows that are read as those of another dataset are, by its transform.

    `Dataset.add_column` reads the audio of all rows where a dataset is a selection; this goes round it:
    `read_like(dataset.with_format(None).add_column(name, values), dataset)`.
    """
    return rows.with_format(dataset.format["type"], **dataset.format["format_kwargs"])


def with_rows(dataset: Dataset, rows: pa.Table) -> Dataset:
    """Returns a dataset of other rows, read as `dataset` is; unlike a selection it needs no list of indices."""
    return read_like(Dataset(rows, split=dataset.split), dataset)


def with_waveforms(batch: dict[str, list[Any]], waveforms: list[np.ndarray]) -> dict[str, list[Any]]:
    """Replaces the columns that say where audio lies by the audio."""
    kept = {name: values for name, values in batch.items() if name not in LOCATION_COLUMNS}
    return {**kept, WAVEFORM: waveforms}


@dataclass(frozen=True)
class Runs:
    """Clips in the order of their recordings, and where gap-free runs of them begin and end.

    Args:
        order (`np.ndarray`): rows of the clips, `(N,)`; recordings in order of first appearance, then by start.
        first (`np.ndarray`): places in `order` where a run begins, `(R,)`.
    """

    order: np.ndarray
    first: np.ndarray

    def of_rows(self) -> np.ndarray:
        """Returns the run of each row, `(N,)`."""
        run = np.zeros(len(self.order), dtype=np.int64)
        run[self.first[1:]] = 1
        result = np.empty_like(run)
        result[self.order] = np.cumsum(run)
        return result

    def rows(self) -> list[np.ndarray]:
        """Returns the rows of each run, in order."""
        return np.split(self.order, self.first[1:])


def gap_free_runs(table: pa.Table) -> Runs:
    """Groups clips that follow each other without a gap in one recording.

    Raises:
        ValueError: there are no clips, or two of a recording overlap, as crops do.
    """
    if len(table) == 0:
        raise ValueError("the dataset holds no clips; expected at least one.")
    recording = table[RECORDING].combine_chunks().dictionary_encode().indices.to_numpy()
    start, length = table[START].to_numpy(), table[LENGTH].to_numpy()
    order = np.lexsort((start, recording))
    same = np.diff(recording[order]) == 0
    gap = start[order][1:] - (start + length)[order][:-1]
    overlapping = np.flatnonzero(same & ((gap < 0) | (np.diff(start[order]) == 0)))
    if len(overlapping):
        names = [table[EXAMPLE_ID][int(row)].as_py() for row in order[overlapping[0] : overlapping[0] + 2]]
        raise ValueError(f"{names[0]} and {names[1]} overlap in their recording; expected whole clips, not crops.")
    return Runs(order, np.flatnonzero(np.append(True, ~same | (gap > 0))))


__all__ = [
    "CROP_SUFFIX",
    "Runs",
    "gap_free_runs",
    "index_features",
    "is_repeated",
    "read_like",
    "rows_of",
    "with_rows",
    "with_waveforms",
]
