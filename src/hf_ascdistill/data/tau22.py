"""TAU Urban Acoustic Scenes 2022 Mobile, and any corpus in its layout: meta.csv and split lists become datasets."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, NamedSplit, Value
from transformers.utils import logging

from ..models.configuration_asc import TAU22_SCENES
from .columns import (
    CITY,
    DEVICE_IDS,
    EXAMPLE_ID,
    LABELS,
    LENGTH,
    PATH,
    RECORDING,
    SAMPLING_RATE,
    START,
)
from .csv_tables import DEVICE, FILENAME, IDENTIFIER, SCENE, CsvTable, clip_names, read_table
from .index import index_features, rows_of, with_rows
from .wav_reader import ReadWavFiles

logger = logging.get_logger(__name__)

SCENES = TAU22_SCENES  # in the order of the label ids
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
DEVICE_GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}

META = "meta.csv"
LISTS = {"train": "evaluation_setup/fold1_train.csv", "evaluate": "evaluation_setup/fold1_evaluate.csv"}
ALL = "all"
SLICE_LENGTH = SAMPLING_RATE  # every file is one second; slice k of a segment begins k seconds into the recording
# scene-city-location-segment-slice-device; scenes, cities and locations may hold hyphens themselves
NAME = r"^(?P<place>.+)-(?P<segment>[^-]+)-(?P<slice>0|[1-9]\d{0,5})-(?P<device>[^-]+)$"


def load_tau22(
    path: str | Path,
    *,
    train_list: str | Path | None = None,
    scenes: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    splits: Sequence[str] = ("train", "evaluate"),
) -> DatasetDict:
    """Opens a corpus in the layout of TAU22. Audio is read when rows are.

    Consecutive slices of a segment share a `recording`, so that shifted crops can be cut across their borders. A file
    whose name does not follow `scene-identifier-segment-slice-device`, with the scene and identifier of its row, is a
    recording of its own.

    Args:
        path (`str | Path`): folder with meta.csv, evaluation_setup/ and audio/.
        train_list (`str | Path`, *optional*): csv of the training clips in place of fold1_train.csv (a DCASE24 split).
        scenes (`Sequence[str]`, *optional*): names of the labels in order; unset, those of meta.csv, sorted.
        devices (`Sequence[str]`, *optional*): names of the devices in order; unset, those of meta.csv, TAU22's first.
        splits (`Sequence[str]`, *optional*, defaults to `("train", "evaluate")`): which to open; `"all"` is every row
            of meta.csv.

    Returns:
        `DatasetDict`: per split, rows of `waveform` float32 `(32000,)`, `labels`, `device_ids`, `example_id` and
        `city`. `dataset.with_format(None)` reads columns without audio.

    Raises:
        FileNotFoundError: meta.csv or a split list is missing.
        ValueError: a table is empty or lacks a column, a row contradicts another or its file name, a label or device
            is not in `scenes` or `devices`, or a clip is in both splits. File and line are named.
    """
    _check_splits(splits, train_list)
    folder = Path(os.path.abspath(path))
    meta = read_table(folder / META, (FILENAME, SCENE, IDENTIFIER, DEVICE))
    scenes = sorted(pc.unique(meta[SCENE]).to_pylist()) if scenes is None else scenes
    devices = order_devices(pc.unique(meta[DEVICE]).to_pylist()) if devices is None else devices
    clips = _describe_clips(meta, folder, scenes, devices)
    lists = {split: folder / name for split, name in LISTS.items()}
    if train_list is not None:
        lists["train"] = Path(train_list)
    rows = {split: np.arange(len(meta)) if split == ALL else _listed_rows(meta, lists[split]) for split in splits}
    _check_disjoint(meta, rows)
    tables = {split: clips.take(listed) for split, listed in rows.items()}
    transform = ReadWavFiles(first_path=tables[splits[0]][PATH][0].as_py())
    opened = {split: Dataset(table, split=NamedSplit(split)) for split, table in tables.items()}
    return DatasetDict(opened).with_transform(transform)


def _check_splits(splits: Sequence[str], train_list: str | Path | None) -> None:
    known = (*LISTS, ALL)
    if isinstance(splits, str) or not splits or not set(splits) <= set(known):
        raise ValueError(f"splits={splits!r}; expected a tuple of {', '.join(known)}.")
    if train_list is not None and "train" not in splits:
        raise ValueError(f"train_list={str(train_list)!r} with splits={splits!r}; expected 'train' among the splits.")


def _describe_clips(meta: CsvTable, folder: Path, scenes: Sequence[str], devices: Sequence[str]) -> pa.Table:
    """Turns each row of meta.csv into a row of the index, with the path of its file."""
    names = clip_names(meta)
    recordings, starts = _recordings(meta, names)
    features = Features({**index_features(scenes, devices), PATH: Value("string")})
    columns = {
        EXAMPLE_ID: names,
        RECORDING: recordings,
        START: starts,
        LENGTH: pa.repeat(pa.scalar(SLICE_LENGTH, pa.int64()), len(meta)),
        LABELS: _class_ids(meta, SCENE, scenes),
        DEVICE_IDS: _class_ids(meta, DEVICE, devices),
        CITY: pc.replace_substring_regex(meta[IDENTIFIER], r"-[^-]*$", ""),
        PATH: pc.binary_join_element_wise(str(folder), meta[FILENAME], "/"),
    }
    return pa.table(columns, schema=features.arrow_schema)


def _class_ids(meta: CsvTable, column: str, names: Sequence[str]) -> pa.Array:
    """Returns the place of each row's value in `names`; a value outside them raises."""
    ids = pc.index_in(meta[column], value_set=pa.array(names, pa.string()))
    problem = f"{column} {{{column}}} of {{filename}} is not one of {{expected}}."
    meta.refuse(pc.is_null(ids), problem, expected=", ".join(names))
    return ids.cast(pa.int64())


def _recordings(meta: CsvTable, names: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Returns the recording that each file is a slice of, and the slice's first sample in it."""
    place, segment, number, device = _split_names(names)
    is_slice = pc.fill_null(pc.equal(place, pc.binary_join_element_wise(meta[SCENE], meta[IDENTIFIER], "-")), False)
    another = pc.and_(is_slice, pc.fill_null(pc.not_equal(device, meta[DEVICE]), False))
    meta.refuse(another, "the name {filename} ends in another device than source_label {source_label}.")
    others = len(names) - pc.sum(is_slice).as_py()
    if others:
        logger.info(f"{meta.path}: {others} of {len(names)} files are recordings of their own, by their names.")
    recordings = pc.if_else(is_slice, pc.binary_join_element_wise(place, segment, device, "-"), names)
    starts = pc.if_else(is_slice, pc.multiply(number.cast(pa.int64()), SLICE_LENGTH), 0)
    return recordings, starts


def _listed_rows(meta: CsvTable, path: Path) -> np.ndarray:
    """Returns the rows of meta.csv that a split list names, in the list's order."""
    listed = read_table(path, (FILENAME,), (SCENE,))
    rows = pc.index_in(listed[FILENAME], value_set=meta[FILENAME])
    listed.refuse(pc.is_null(rows), "{filename} is not in {meta}.", meta=meta.path)
    if SCENE in listed:
        expected = meta[SCENE].take(rows)
        listed.refuse(
            pc.not_equal(listed[SCENE], expected), "{filename} is {scene_label}, but not in {meta}.", meta=meta.path
        )
    return rows.to_numpy()


def _check_disjoint(meta: CsvTable, rows: dict[str, np.ndarray]) -> None:
    if {"train", "evaluate"} <= rows.keys():
        both = np.intersect1d(rows["train"], rows["evaluate"])
        if len(both):
            name = meta[FILENAME][int(both[0])].as_py()
            raise ValueError(
                f"{name} and {len(both) - 1} other clip(s) are both in train and in evaluate; expected none."
            )


def order_devices(names: Iterable[str]) -> list[str]:
    """Orders device names: TAU22's in its own order, then others, sorted."""
    names = set(names)
    return [*(name for name in DEVICES if name in names), *sorted(names.difference(DEVICES))]


def device_groups(train_devices: Iterable[str], devices: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups the devices of a corpus for pooled accuracies.

    Args:
        train_devices (`Iterable[str]`): devices of the training clips.
        devices (`Sequence[str]`): all devices of the corpus.

    Returns:
        `dict[str, tuple[str, ...]]`: `real`, `seen` and `unseen`. TAU22's groups where all names are TAU22's; else no
        device is `real`, those of the training clips are `seen` and the others `unseen`.
    """
    if set(devices) <= set(DEVICES):
        return {group: tuple(name for name in devices if name in members) for group, members in DEVICE_GROUPS.items()}
    seen = set(train_devices)
    return {
        "real": (),
        "seen": tuple(name for name in devices if name in seen),
        "unseen": tuple(name for name in devices if name not in seen),
    }


def select_listed(dataset: Dataset, csv_path: str | Path) -> Dataset:
    """Keeps the rows that a split file names: its clips, and the crops that lie in its clips alone.

    Args:
        dataset (`Dataset`): clips or crops.
        csv_path (`str | Path`): tab-separated file with the column `filename`.

    Returns:
        `Dataset`: the rows, in the dataset's order; the transform stays.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no split list, or names a clip that no row of the dataset touches.
    """
    listed = read_table(csv_path, (FILENAME,))
    names, table = clip_names(listed), rows_of(dataset)
    place, segment, number, device = _split_names(names)
    listed_slices = _slice_names(pc.binary_join_element_wise(place, segment, device, "-"), number)
    recordings = table[RECORDING].combine_chunks()
    touched = _touched_slices(recordings, table[START].to_numpy(), table[LENGTH].to_numpy())
    is_there = pc.or_(
        pc.is_in(names, value_set=recordings), pc.is_in(listed_slices, value_set=pa.concat_arrays(touched))
    )
    listed.refuse(pc.invert(is_there), "{filename} is not in the dataset; select from the split that holds it.")
    is_whole = pc.is_in(recordings, value_set=names)  # files that are recordings of their own
    in_slices = np.all([pc.is_in(slices, value_set=listed_slices) for slices in touched], axis=0)
    return with_rows(dataset, table.filter(np.asarray(is_whole) | in_slices))


def _touched_slices(recordings: pa.Array, start: np.ndarray, length: np.ndarray) -> list[pa.Array]:
    """Returns, per row, the names of the first slice that it touches, the second, and so on; the last one repeats."""
    first, last = start // SLICE_LENGTH, (start + length - 1) // SLICE_LENGTH
    steps = range(int((last - first).max(initial=0)) + 1)
    return [_slice_names(recordings, pa.array(np.minimum(first + step, last))) for step in steps]


def _slice_names(recordings: pa.Array, slices: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(recordings, slices.cast(pa.string()), "/")


def _split_names(names: pa.Array) -> list[pa.Array]:
    """Returns place, segment, slice and device of each name; nulls where the name does not follow the pattern."""
    parts = pc.extract_regex(names, NAME)
    return [pc.struct_field(parts, field) for field in ("place", "segment", "slice", "device")]


__all__ = [
    "ALL",
    "DEVICES",
    "DEVICE_GROUPS",
    "SCENES",
    "device_groups",
    "load_tau22",
    "order_devices",
    "select_listed",
]
