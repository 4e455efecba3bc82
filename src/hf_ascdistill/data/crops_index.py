"""The index of crops without their audio: parquet files that any store of the same audio turns into crops."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, NamedSplit

from .columns import CITY, CONTENT, DEVICE_IDS, EARLIEST, EXAMPLE_ID, LABELS, LENGTH, RECORDING, SAMPLING_RATE, START
from .crops import crop_contents
from .hub_folders import local_folder
from .index import gap_free_runs, is_repeated, read_like, rows_of
from .logits import ClipNames, some
from .store import load_prepared

INDEX_COLUMNS = (EXAMPLE_ID, RECORDING, START, LENGTH, LABELS, DEVICE_IDS, CITY, CONTENT)
SUFFIX = ".parquet"  # a file for each split, of its name


def check_indexable(splits: Mapping[str, Dataset]) -> None:
    """Checks that crops can be found again by what an index says of them.

    Raises:
        ValueError: a split is not of a prepared store, or holds random crops.
    """
    for split, crops in splits.items():
        missing = [name for name in INDEX_COLUMNS if name not in crops.column_names]
        if missing:
            raise ValueError(
                f"split {split!r} lacks the column(s) {', '.join(missing)}; expected clips or crops of a prepared "
                "store, whose audio is known by its hashes: run prepare, and open it with load_prepared."
            )
        if EARLIEST in crops.column_names:
            raise ValueError(
                f"split {split!r} holds random crops, which lie elsewhere in each epoch; take shifted ones."
            )


def write_crops_index(splits: Mapping[str, Dataset], folder: Path) -> None:
    """Writes the index of crops, a parquet file for each split; no audio is read.

    Args:
        splits (`Mapping[str, Dataset]`): clips or crops of a prepared store.
        folder (`Path`): where to; it is there.

    Raises:
        ValueError: see [`check_indexable`].
    """
    check_indexable(splits)
    for split, crops in splits.items():
        crops.with_format(None).select_columns(list(INDEX_COLUMNS)).to_parquet(folder / f"{split}{SUFFIX}")


def read_crops_index(path: str | Path) -> dict[str, Dataset]:
    """Reads an index of crops; its rows name audio that they do not hold.

    Args:
        path (`str | Path`): a folder, or `hf://datasets/user/name`; a revision may follow as `@revision`.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: a file of it is damaged.
    """
    files = local_folder(path, (f"*{SUFFIX}",)).glob(f"*{SUFFIX}")
    files = sorted(files, key=lambda file: (file.stem != "train", file.stem))
    if not files:
        raise FileNotFoundError(
            f"{path} holds no index of crops (no {SUFFIX} file); name what publish_crops_index wrote."
        )
    splits = {}
    for file in files:
        try:
            splits[file.stem] = Dataset(pq.read_table(file), split=NamedSplit(file.stem))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}); publish or download the index again.") from error
        check_indexable({file.stem: splits[file.stem]})
    return splits


def crops_summary(splits: Mapping[str, Dataset]) -> dict[str, Any]:
    """Says what an index holds, for its card: `scenes`, `devices`, and of each split the number of `crops` and
    `recordings`, `seconds` of the crops, the `grid` in seconds on which they begin (0: all begin their recording), and
    `data`, which is that of a logits set for these very crops.

    Args:
        splits (`Mapping[str, Dataset]`): crops, of a store or as [`read_crops_index`] gives them.
    """
    first = next(iter(splits.values()))
    names = {plural: first.features[name].names for plural, name in (("scenes", LABELS), ("devices", DEVICE_IDS))}
    return {**names, "splits": {split: _split_summary(crops) for split, crops in splits.items()}}


def _split_summary(crops: Dataset) -> dict[str, Any]:
    rows = rows_of(crops)
    return {
        "crops": len(rows),
        "recordings": len(pc.unique(rows[RECORDING])),
        "seconds": [length / SAMPLING_RATE for length in sorted(pc.unique(rows[LENGTH]).to_pylist())],
        "grid": int(np.gcd.reduce(rows[START].to_numpy())) / SAMPLING_RATE,
        "data": ClipNames(crops).fingerprint,
    }


def load_crops_index(path: str | Path, store: str | Path) -> DatasetDict:
    """Cuts the crops of a published index from a store of one's own: the same crops, in the same order.

    The index says where each crop lies, the store holds the audio, and hashes say that it is the same audio: published
    teacher logits attach to what this returns. Scenes, devices and labels are those of the index.

    Args:
        path (`str | Path`): `hf://datasets/user/name`, as published by [`publish_crops_index`], or a folder; a
            revision may follow as `@revision`, a folder in the repository as `/folder`.
        store (`str | Path`): folder of a store written by [`prepare`] from the same audio files.

    Returns:
        `DatasetDict`: the splits of the index; rows as those of [`load_prepared`].

    Raises:
        FileNotFoundError: there is no index, or no store.
        ValueError: the store lacks audio of a crop or holds other audio in its place, or a file is damaged.

    Example: `load_crops_index("hf://datasets/user/crops", "prepared/tau22")["train"]`.
    """
    index, audio = read_crops_index(path), load_prepared(store)
    clips = pa.concat_tables([rows_of(split) for split in audio.values()]).combine_chunks()
    clips = clips.filter(
        ~is_repeated(clips[EXAMPLE_ID].combine_chunks())
    ).combine_chunks()  # a clip may be in two splits
    for split, crops in index.items():
        _check_audio(rows_of(crops), clips, name=f"split {split!r} of {path}", store=store)
    reader = next(iter(audio.values()))
    return DatasetDict({split: read_like(crops, reader) for split, crops in index.items()})


def _check_audio(crops: pa.Table, clips: pa.Table, *, name: str, store: str | Path) -> None:
    """Raises where a store's clips are not those that crops were cut from."""
    row, offset, is_there = _places(crops, clips)
    names = crops[EXAMPLE_ID].to_numpy()
    if not is_there.all():
        raise ValueError(
            f"{store} lacks the audio of {(~is_there).sum()} of {len(crops)} crops in {name}, among them "
            f"{some(names[~is_there])}; prepare all recordings that the index names."
        )
    found = crop_contents(clips, gap_free_runs(clips), row=row, offset=offset, length=crops[LENGTH].to_numpy())
    differs = np.flatnonzero(pc.not_equal(found, crops[CONTENT].combine_chunks()))
    if len(differs):
        raise ValueError(
            f"{store} holds other audio than {name}: that of {len(differs)} of {len(crops)} crops differs, among them "
            f"{some(names[differs])}; prepare the very files that the index was made from."
        )


def _places(crops: pa.Table, clips: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the row of the clip that each crop begins in, its offset in it in samples, and whether it is there."""
    recordings = clips[RECORDING].combine_chunks().dictionary_encode()
    own = pc.fill_null(pc.index_in(crops[RECORDING], value_set=recordings.dictionary), -1).to_numpy()
    start, begin = clips[START].to_numpy(), crops[START].to_numpy()
    span = max(start.max(), begin.max()) + 1  # makes one sortable number of a recording and a sample in it
    places = recordings.indices.to_numpy().astype(np.int64) * span + start
    order = np.argsort(places)
    row = order[np.maximum(np.searchsorted(places[order], own * span + begin, side="right") - 1, 0)]
    offset = begin - start[row]
    is_there = (recordings.indices.to_numpy()[row] == own) & (offset >= 0) & (offset < clips[LENGTH].to_numpy()[row])
    return row, offset, is_there


__all__ = [
    "INDEX_COLUMNS",
    "SUFFIX",
    "check_indexable",
    "crops_summary",
    "load_crops_index",
    "read_crops_index",
    "write_crops_index",
]
