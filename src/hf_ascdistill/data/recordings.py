"""Recordings of any `datasets.Dataset` with audio and label columns, as the clips of a store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, concatenate_datasets

from .audio import Sound
from .columns import CITY, DEVICE_IDS, EXAMPLE_ID, LABELS, LENGTH, PATH, RECORDING, START
from .index import index_features
from .sources import Corpus, check_example_ids
from .tau22 import order_devices

UNKNOWN = "unknown"  # device or city of recordings that do not say
BYTES, ARRAY, RATE = "bytes", "array", "sampling_rate"  # fields of an audio cell, beside `path`


@dataclass(frozen=True)
class RecordingColumns:
    """Names of the columns that describe recordings, None where there is none, and the rate of bare samples in Hz.

    See `prepare_recordings` for what each may hold.
    """

    audio: str
    label: str
    device: str | None = None
    example_id: str | None = None
    city: str | None = None
    sampling_rate: int | None = None

    @property
    def names(self) -> list[str]:
        """All columns that are there."""
        names = (self.audio, self.label, self.device, self.example_id, self.city)
        return [name for name in names if name is not None]


class Recordings:
    """Rows of one or several splits, each a recording of its own of any length: a `ClipSource`.

    Args:
        splits (`Mapping[str, Dataset]`): the datasets.
        columns (`RecordingColumns`): what their columns are called.

    Raises:
        ValueError: a column is missing or of another type, or the splits differ.
    """

    def __init__(self, splits: Mapping[str, Dataset], columns: RecordingColumns) -> None:
        _check_columns(splits, columns)
        parts = [dataset.with_format(None).select_columns(columns.names) for dataset in splits.values()]
        self.dataset = concatenate_datasets(parts).with_format("arrow")
        self.sizes = {split: len(part) for split, part in zip(splits, parts, strict=True)}
        self.columns = columns
        self.example_ids: Sequence[str] = self._example_ids()

    def sound(self, clip: int) -> Sound:
        """Reads a clip, not decoded yet.

        Raises:
            FileNotFoundError: the row names a file that is absent.
            ValueError: the row holds no audio.
        """
        cell, where = self.dataset[clip][self.columns.audio][0], self.where(clip, self.columns.audio)
        if not cell.is_valid:
            raise ValueError(f"{where} holds no audio (None); take the row out.")
        if _is_list(cell.type):
            return _samples(cell, self.columns.sampling_rate, where)
        parts = dict(cell.items()) if pa.types.is_struct(cell.type) else {PATH: cell}
        if ARRAY in parts:
            return _samples(parts[ARRAY], parts[RATE].as_py(), where)
        if BYTES in parts and parts[BYTES].is_valid:
            return Sound(where, parts[BYTES].as_py())
        if PATH in parts and parts[PATH].is_valid:
            path = parts[PATH].as_py()
            return Sound.from_file(path, f"{path} ({where})")
        raise ValueError(f"{where} holds neither bytes nor a path; take the row out.")

    def length(self, clip: int) -> None:
        """Returns None: recordings may have any length."""

    def where(self, row: int, column: str) -> str:
        """Says which cell that is, for errors."""
        ends = np.cumsum(list(self.sizes.values()))
        place = int(np.searchsorted(ends, row, side="right"))
        split, size = list(self.sizes.items())[place]
        return f"row {row - ends[place] + size} of split {split!r}, column {column!r}"

    def classes(self, column: str | None, order: Callable[[Iterable[str]], list[str]]) -> tuple[list[str], pa.Array]:
        """Returns the classes of a column and the class of each row; without a column, all rows are `unknown`.

        Args:
            column (`str`, *optional*): a `ClassLabel`, or text.
            order (`Callable[[Iterable[str]], list[str]]`): orders the classes of a text column.

        Raises:
            ValueError: a row has no class.
        """
        feature = self.dataset.features[column] if column is not None else None
        if isinstance(feature, ClassLabel):
            ids = self._column(column)
            self._refuse(pc.less(ids, 0), column, "holds no class (None or -1); label the row, or take it out")
            return feature.names, ids
        texts = self.texts(column)
        names = order(pc.unique(texts).to_pylist())
        return names, pc.index_in(texts, value_set=pa.array(names, texts.type)).cast(pa.int64())

    def texts(self, column: str | None) -> pa.Array:
        """Returns the text of each row; without a column, `unknown`.

        Raises:
            ValueError: the column holds something else, or a row is empty.
        """
        if column is None:
            return pa.repeat(UNKNOWN, len(self.dataset))
        texts = self._column(column)
        if not _is_text(texts.type):
            raise ValueError(
                f"column {column!r} is {self.dataset.features[column]}; expected text, or classes by "
                "class_encode_column or cast_column(..., ClassLabel(names=...))."
            )
        self._refuse(pc.equal(texts, ""), column, "is empty; fill it in, or take the row out")
        return texts

    def _example_ids(self) -> list[str]:
        """Returns names from their column, else from the files' names, else from split and row."""
        if self.columns.example_id is not None:
            return self.texts(self.columns.example_id).to_pylist()
        rows = [f"{split}-{row:06d}" for split, size in self.sizes.items() for row in range(size)]
        return [Path(path).stem if path else row for path, row in zip(self._paths(), rows, strict=True)]

    def _paths(self) -> list[str | None]:
        """Returns the path in each audio cell; None where the cell has none."""
        audio = self.dataset.features.arrow_schema.field(self.columns.audio).type
        if _is_text(audio):
            return self._column(self.columns.audio).to_pylist()
        if not pa.types.is_struct(audio) or audio.get_field_index(PATH) < 0:
            return [None] * len(self.dataset)
        batches = self.dataset.iter(batch_size=64)  # few, as a batch of shuffled rows is copied with its audio
        cells = (batch[self.columns.audio] for batch in batches)
        return [path for cell in cells for path in pc.struct_field(cell, PATH).to_pylist()]

    def _column(self, name: str) -> pa.Array:
        return self.dataset.select_columns([name])[:][name].combine_chunks()

    def _refuse(self, bad: pa.Array, column: str, problem: str) -> None:
        """Raises where a row is bad, or null."""
        rows = np.flatnonzero(pc.fill_null(bad, True))
        if len(rows):
            raise ValueError(f"{self.where(int(rows[0]), column)} {problem}.")


def _check_columns(splits: Mapping[str, Dataset], columns: RecordingColumns) -> None:
    features = {
        split: {name: dataset.features.get(name) for name in columns.names} for split, dataset in splits.items()
    }
    first = next(iter(splits))
    for split, present in features.items():
        missing = [name for name, feature in present.items() if feature is None]
        if missing:
            raise ValueError(
                f"split {split!r} lacks the column(s) {', '.join(missing)}: it has "
                f"{', '.join(splits[split].column_names)}. Say yours: audio_column=, label_column=, device_column= "
                "(None where devices are not known), ..."
            )
        if present != features[first]:
            raise ValueError(
                f"splits {first!r} and {split!r} differ: {features[first]} and {present}; expected the same."
            )
    audio = splits[first].features.arrow_schema.field(columns.audio).type
    fields = {field.name for field in audio} if pa.types.is_struct(audio) else set()
    if not (_is_text(audio) or _is_list(audio) or {ARRAY, RATE} <= fields or fields & {BYTES, PATH}):
        raise ValueError(
            f"column {columns.audio!r} is {features[first][columns.audio]}; expected paths, an Audio feature, "
            "{'array', 'sampling_rate'} or samples."
        )
    if _is_list(audio) and columns.sampling_rate is None:
        raise ValueError(f"column {columns.audio!r} holds bare samples; say their rate in Hz with sampling_rate=.")


def _samples(cell: pa.Scalar, rate: int | None, where: str) -> Sound:
    if not cell.is_valid or not rate:
        raise ValueError(f"{where} lacks samples or their sampling rate; complete it, or take the row out.")
    return Sound(where, cell.values.to_numpy(zero_copy_only=False), rate)


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type)


def _is_list(type: pa.DataType) -> bool:
    return pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)


def describe_recordings(splits: Mapping[str, Dataset], columns: RecordingColumns) -> Corpus:
    """Describes the rows of any datasets; a recording's length is known once it is decoded.

    Raises:
        ValueError: a column is missing or of another type, a label, device or name is missing, or a name is not
            unique.
    """
    source = Recordings(splits, columns)
    scenes, labels = source.classes(columns.label, sorted)
    devices, device_ids = source.classes(columns.device, order_devices)
    names = pa.array(source.example_ids, pa.string())
    check_example_ids(names, lambda row: source.where(row, columns.example_id or columns.audio))
    zeros = np.zeros(len(names), dtype=np.int64)
    values = {
        EXAMPLE_ID: names,
        RECORDING: names,
        START: zeros,
        LENGTH: zeros,
        LABELS: labels,
        DEVICE_IDS: device_ids,
        CITY: source.texts(columns.city),
    }
    clips = pa.table(values, schema=index_features(scenes, devices).arrow_schema)
    begins = np.cumsum([0, *source.sizes.values()][:-1]).tolist()
    places = zip(source.sizes.items(), begins, strict=True)
    return Corpus({split: clips.slice(begin, size) for (split, size), begin in places}, clips, source)


__all__ = ["RecordingColumns", "Recordings", "describe_recordings"]
