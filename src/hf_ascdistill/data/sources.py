"""What a store is made from: the clips of a corpus, described by rows and read by number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .audio import Sound
from .columns import EXAMPLE_ID, LENGTH, PATH, RECORDING, START
from .index import CROP_SUFFIX, is_repeated, rows_of


class ClipSource(Protocol):
    """Gives the clips of a corpus by their number."""

    example_ids: Sequence[str]

    def sound(self, clip: int) -> Sound:
        """Reads a clip, not decoded yet."""

    def length(self, clip: int) -> int | None:
        """Returns the samples at 32 kHz that the clip must give; None where any length will do."""


@dataclass(frozen=True)
class WavFiles:
    """Clips that are files, each of a known length: a [`ClipSource`]."""

    example_ids: Sequence[str]
    paths: Sequence[str]
    lengths: Sequence[int]

    def sound(self, clip: int) -> Sound:
        """Reads the file of a clip."""
        return Sound.from_file(self.paths[clip])

    def length(self, clip: int) -> int:
        """Returns the samples at 32 kHz that the clip must give."""
        return self.lengths[clip]


@dataclass(frozen=True)
class Corpus:
    """The clips that a store is made from.

    Args:
        splits (`dict[str, pa.Table]`): index rows of each split.
        clips (`pa.Table`): the rows of all splits, each clip once, in the order of the source.
        source (`ClipSource`): gives the clips by their number.
    """

    splits: dict[str, pa.Table]
    clips: pa.Table
    source: ClipSource


def as_splits(dataset: Dataset | Mapping[str, Dataset], name: str | None = None) -> dict[str, Dataset]:
    """Returns the splits of a `DatasetDict`, or the one split of a `Dataset`: `name`, else its own, else train.

    Raises:
        ValueError: there are no rows.
    """
    if isinstance(dataset, Dataset):
        dataset = {name or str(dataset.split or "train"): dataset}
    empty = [split for split, rows in dataset.items() if len(rows) == 0]
    if empty or not dataset:
        raise ValueError(f"{f'split {empty[0]!r}' if empty else 'the dataset'} holds no rows; expected at least one.")
    return dict(dataset)


def describe_clips(splits: Mapping[str, Dataset]) -> Corpus:
    """Describes the files of index datasets; a clip may be in several splits.

    Raises:
        ValueError: the datasets are no clips of wav files, differ in their columns or classes, hold a clip twice, or
            differ about a clip.
    """
    tables = {split: rows_of(dataset) for split, dataset in splits.items()}
    first = next(iter(splits))
    for split, table in tables.items():
        if PATH not in table.column_names or table[PATH].null_count:
            raise ValueError(f"split {split!r} holds prepared clips, or crops; prepare takes whole wav files.")
        if splits[split].features != splits[first].features:
            raise ValueError(
                f"splits {first!r} and {split!r} differ: {splits[first].features} and {splits[split].features}; "
                "expected the same columns, scenes and devices."
            )
        check_example_ids(table[EXAMPLE_ID].combine_chunks(), lambda row, split=split: f"row {row} of split {split!r}")
    rows = pa.concat_tables(tables.values()).combine_chunks()
    clips = rows.filter(~is_repeated(rows[EXAMPLE_ID].combine_chunks()))
    _check_agreement(rows, clips)
    source = WavFiles(*(clips[name].to_pylist() for name in (EXAMPLE_ID, PATH, LENGTH)))
    return Corpus({split: table.drop_columns(PATH) for split, table in tables.items()}, clips, source)


def _check_agreement(rows: pa.Table, clips: pa.Table) -> None:
    """Raises where two splits say different things of one clip."""
    same = clips.take(pc.index_in(rows[EXAMPLE_ID], value_set=clips[EXAMPLE_ID].combine_chunks()))
    for name in (PATH, RECORDING, START):
        differs = np.flatnonzero(pc.not_equal(rows[name], same[name]))
        if len(differs):
            clip, one, other = (column[int(differs[0])] for column in (rows[EXAMPLE_ID], same[name], rows[name]))
            raise ValueError(f"{clip} has {name} {one} in one split and {other} in another; expected one.")


def check_example_ids(names: pa.Array, where: Callable[[int], str]) -> None:
    """Checks that names are unique and none is like that of a shifted crop.

    Args:
        names (`pa.Array`): one name per row.
        where (`Callable[[int], str]`): says which row that is, for the error.

    Raises:
        ValueError: a name is not; it is named with its row.
    """
    for bad, problem in (
        (is_repeated(names), "stands above already; every example_id must be unique"),
        (pc.match_substring_regex(names, CROP_SUFFIX), "ends like the name of a shifted crop (+500ms); rename it"),
    ):
        rows = np.flatnonzero(bad)
        if len(rows):
            raise ValueError(f"example_id {names[int(rows[0])]} of {where(int(rows[0]))} {problem}.")


__all__ = ["ClipSource", "Corpus", "WavFiles", "as_splits", "check_example_ids", "describe_clips"]
