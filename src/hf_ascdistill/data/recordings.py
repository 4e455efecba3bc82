"""What a store is made from: the files of an index dataset, or the rows of any dataset with audio and labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from .audio import Sound
from .columns import CITY, DEVICE_IDS, EXAMPLE_ID, LABELS, LENGTH, PATH, RECORDING, START
from .index import index_features, rows_of
from .split_csv import CROP_SUFFIX, is_repeated
from .tau22 import order_devices

UNKNOWN = "unknown"  # device or city of recordings that do not say
BYTES, ARRAY, RATE = "bytes", "array", "sampling_rate"  # fields of an audio cell, beside `path`


@dataclass(frozen=True)
class WavFiles:
    """Clips that are files, each of a known length."""

    example_ids: Sequence[str]
    paths: Sequence[str]
    lengths: Sequence[int]

    def sound(self, clip: int) -> Sound:
        """Reads a clip, not decoded yet."""
        return Sound.from_file(self.paths[clip])

    def length(self, clip: int) -> int | None:
        """Returns the samples at 32 kHz that the clip must give."""
        return self.lengths[clip]


@dataclass(frozen=True)
class DatasetRows:
    """Clips that are rows of datasets, one dataset after another, each a recording of any length.

    Args:
        example_ids (`Sequence[str]`): names of all rows.
        splits (`Mapping[str, Dataset]`): the datasets.
        column (`str`): name of the column of audio.
        sampling_rate (`int`, *optional*): of bare samples, in Hz.
    """

    example_ids: Sequence[str]
    splits: Mapping[str, Dataset]
    column: str
    sampling_rate: int | None

    def sound(self, clip: int) -> Sound:
        """Reads a clip, not decoded yet.

        Raises:
            FileNotFoundError: the row names a file that is absent.
            ValueError: the row holds no audio.
        """
        split, row = _row_of(self.splits, clip)
        cell = self.splits[split].with_format("arrow")[row][self.column][0]
        where = _where(split, row, self.column)
        parts = dict(cell.items()) if cell.is_valid and pa.types.is_struct(cell.type) else {PATH: cell}
        if ARRAY in parts:
            return _samples(parts[ARRAY], parts[RATE].as_py(), where)
        if BYTES in parts and parts[BYTES].is_valid:
            return Sound(where, parts[BYTES].as_py())
        if PATH not in parts or not parts[PATH].is_valid:
            raise ValueError(f"{where} holds no audio (None); take the row out.")
        if _is_list(cell.type):
            return _samples(cell, self.sampling_rate, where)
        path = parts[PATH].as_py()
        return Sound.from_file(path, f"{path} ({where})")

    def length(self, clip: int) -> int | None:
        """Returns None: recordings may have any length."""
        return None


def _samples(cell: pa.Scalar, rate: int | None, where: str) -> Sound:
    if not cell.is_valid or not rate:
        raise ValueError(f"{where} lacks samples or their sampling rate; complete it, or take the row out.")
    return Sound(where, cell.values.to_numpy(zero_copy_only=False), rate)


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type)


def _is_list(type: pa.DataType) -> bool:
    return pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)


def _row_of(splits: Mapping[str, Dataset], clip: int) -> tuple[str, int]:
    """Returns split and row of a clip, counted through all splits."""
    for split, dataset in splits.items():
        if clip < len(dataset):
            return split, clip
        clip -= len(dataset)
    raise IndexError(f"clip {clip} lies behind the last row")


def _where(split: str, row: int, column: str) -> str:
    return f"row {row} of split {split!r}, column {column!r}"


@dataclass(frozen=True)
class Corpus:
    """The clips that a store is made from.

    Args:
        splits (`dict[str, pa.Table]`): index rows of each split.
        clips (`pa.Table`): the rows of all splits, each clip once, in the order of the source.
        source (`WavFiles | DatasetRows`): gives the clips by their number.
    """

    splits: dict[str, pa.Table]
    clips: pa.Table
    source: WavFiles | DatasetRows


def as_splits(dataset: Dataset | Mapping[str, Dataset], name: str | None = None) -> dict[str, Dataset]:
    """Returns the splits of a `DatasetDict`, or the one split of a `Dataset`: `name`, else its own, else train.

    Raises:
        ValueError: there are no rows.
    """
    if isinstance(dataset, Dataset):
        dataset = {name or str(dataset.split or "train"): dataset}
    for split, rows in dataset.items():
        if len(rows) == 0:
            raise ValueError(f"split {split!r} holds no rows; expected at least one.")
    if not dataset:
        raise ValueError("the DatasetDict holds no splits; expected at least one.")
    return dict(dataset)


def describe_clips(splits: Mapping[str, Dataset]) -> Corpus:
    """Describes the files of index datasets; a clip may be in several splits.

    Raises:
        ValueError: the datasets are no clips of wav files, differ in their columns or classes, or hold a clip twice.
    """
    tables = {split: rows_of(dataset) for split, dataset in splits.items()}
    first = next(iter(splits))
    for split, table in tables.items():
        if PATH not in table.column_names or table[PATH].null_count:
            raise ValueError(
                f"split {split!r} holds no wav files but prepared clips or crops; prepare takes whole clips."
            )
        if splits[split].features != splits[first].features:
            raise ValueError(
                f"splits {first!r} and {split!r} differ: {splits[first].features} and {splits[split].features}; expected "
                "the same columns, scenes and devices."
            )
        _check_unique(table[EXAMPLE_ID], lambda row, split=split: f"row {row} of split {split!r}")
    rows = pa.concat_tables(tables.values()).combine_chunks()
    again = is_repeated(rows[EXAMPLE_ID].combine_chunks())
    clips = rows.filter(~again)
    same = clips.take(pc.index_in(rows[EXAMPLE_ID], value_set=clips[EXAMPLE_ID].combine_chunks()))
    for name in (PATH, RECORDING, START):
        differs = np.flatnonzero(pc.not_equal(rows[name], same[name]))
        if len(differs):
            row = int(differs[0])
            raise ValueError(
                f"{rows[EXAMPLE_ID][row]} has {name} {same[name][row]} in one split, {rows[name][row]} in another."
            )
    source = WavFiles(*(clips[name].to_pylist() for name in (EXAMPLE_ID, PATH, LENGTH)))
    return Corpus({split: table.drop_columns(PATH) for split, table in tables.items()}, clips, source)


@dataclass(frozen=True)
class RecordingColumns:
    """Names of the columns that describe recordings; None where there is none. See `prepare_recordings`."""

    audio: str
    label: str
    device: str | None
    example_id: str | None
    city: str | None
    sampling_rate: int | None


def describe_recordings(splits: Mapping[str, Dataset], columns: RecordingColumns) -> Corpus:
    """Describes the rows of any datasets; each is a recording of its own, whose length is known once it is decoded.

    Raises:
        ValueError: a column is missing or of another type, a label, device or name is missing, or two rows share a name.
    """
    for split, dataset in splits.items():
        _check_columns(split, dataset, columns)
    scenes, labels = _classes(splits, columns.label, sorted)
    devices, device_ids = _classes(splits, columns.device, order_devices)
    schema = index_features(scenes, devices).arrow_schema
    tables = {}
    for split, dataset in splits.items():
        names = _example_ids(split, dataset, columns)
        zeros = np.zeros(len(dataset), dtype=np.int64)
        values = {EXAMPLE_ID: names, RECORDING: names, START: zeros, LENGTH: zeros}
        cities = _texts(split, dataset, columns.city)
        described = {LABELS: labels[split], DEVICE_IDS: device_ids[split], CITY: cities}
        tables[split] = pa.table({**values, **described}, schema=schema)
    clips = pa.concat_tables(tables.values()).combine_chunks()
    _check_unique(clips[EXAMPLE_ID], lambda row: "row {1} of split {0!r}".format(*_row_of(splits, row)))
    source = DatasetRows(clips[EXAMPLE_ID].to_pylist(), splits, columns.audio, columns.sampling_rate)
    return Corpus(tables, clips, source)


def _check_columns(split: str, dataset: Dataset, columns: RecordingColumns) -> None:
    wanted = (columns.audio, columns.label, columns.device, columns.example_id, columns.city)
    missing = [name for name in wanted if name is not None and name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"split {split!r} lacks the column(s) {', '.join(missing)}: it has {', '.join(dataset.column_names)}. Name "
            "yours with audio_column, label_column, device_column, ...; device_column=None where devices are not known."
        )
    audio = dataset.data.schema.field(columns.audio).type
    fields = {field.name for field in audio} if pa.types.is_struct(audio) else set()
    if _is_list(audio) and columns.sampling_rate is None:
        raise ValueError(f"column {columns.audio!r} holds bare samples; say their rate with sampling_rate=.")
    known = _is_text(audio) or _is_list(audio) or {ARRAY, RATE} <= fields or fields & {BYTES, PATH}
    if not known:
        raise ValueError(
            f"column {columns.audio!r} is of type {audio}; expected paths, an Audio feature, {{'array', 'sampling_rate'}} "
            "or lists of samples."
        )


def _classes(
    splits: Mapping[str, Dataset], column: str | None, order: Callable[[Iterable[str]], list[str]]
) -> tuple[list[str], dict[str, pa.Array]]:
    """Returns the class names of a column over all splits, and the class ids of each split's rows."""
    features = [dataset.features[column] for dataset in splits.values()] if column is not None else []
    if features and isinstance(features[0], ClassLabel):
        names = features[0].names
        if any(feature != features[0] for feature in features):
            raise ValueError(f"column {column!r} has other classes in other splits: {features}; expected the same.")
        return names, {split: _class_ids(split, dataset, column) for split, dataset in splits.items()}
    texts = {split: _texts(split, dataset, column) for split, dataset in splits.items()}
    names = order(pc.unique(pa.concat_arrays(texts.values())).to_pylist())
    ids = {split: pc.index_in(values, value_set=pa.array(names)).cast(pa.int64()) for split, values in texts.items()}
    return names, ids


def _class_ids(split: str, dataset: Dataset, column: str) -> pa.Array:
    ids = dataset.with_format("arrow")[:][column].combine_chunks()
    _refuse(
        pc.fill_null(pc.less(ids, 0), True),
        split,
        column,
        "holds no class (None or -1); label the row, or take it out.",
    )
    return ids


def _texts(split: str, dataset: Dataset, column: str | None) -> pa.Array:
    """Returns the texts of a column; `unknown` for all rows where there is no column."""
    if column is None:
        return pa.repeat(UNKNOWN, len(dataset))
    if not _is_text(dataset.data.schema.field(column).type):
        raise ValueError(
            f"column {column!r} of split {split!r} is {dataset.features[column]}; expected text"
            " or a ClassLabel: cast it with cast_column or class_encode_column."
        )
    texts = dataset.with_format("arrow")[:][column].combine_chunks()
    _refuse(pc.fill_null(pc.equal(texts, ""), True), split, column, "is empty; fill it in, or take the row out.")
    return texts


def _refuse(bad: pa.Array, split: str, column: str, problem: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(f"{_where(split, rows[0], column)} {problem}")


def _example_ids(split: str, dataset: Dataset, columns: RecordingColumns) -> pa.Array:
    """Returns names from their column, else from the files' names, else from the rows."""
    if columns.example_id is not None:
        return _texts(split, dataset, columns.example_id)
    names = [
        Path(path).stem if path else f"{split}-{row:06d}" for row, path in enumerate(_paths(dataset, columns.audio))
    ]
    return pa.array(names, pa.string())


def _paths(dataset: Dataset, column: str) -> list[str | None]:
    """Returns the path in each audio cell; None where the cell holds samples alone."""
    audio = dataset.data.schema.field(column).type
    if _is_text(audio):
        return dataset.with_format("arrow")[:][column].to_pylist()
    if not pa.types.is_struct(audio) or audio.get_field_index(PATH) < 0:
        return [None] * len(dataset)
    batches = dataset.with_format("arrow").iter(batch_size=64)  # of a selection, a batch is copied with its audio
    return [path for batch in batches for path in pc.struct_field(batch[column], PATH).to_pylist()]


def _check_unique(names: pa.ChunkedArray, where: Callable[[int], str]) -> None:
    names = names.combine_chunks()
    for bad, problem in (
        (is_repeated(names), "names a clip that stands above; each example_id must be unique: give an id_column"),
        (pc.match_substring_regex(names, CROP_SUFFIX), "ends like the name of a shifted crop (+500ms); rename it"),
    ):
        rows = np.flatnonzero(bad)
        if len(rows):
            raise ValueError(f"{names[int(rows[0])]} ({where(int(rows[0]))}) {problem}.")


__all__ = [
    "Corpus",
    "DatasetRows",
    "RecordingColumns",
    "WavFiles",
    "as_splits",
    "describe_clips",
    "describe_recordings",
]
