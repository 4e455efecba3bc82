"""Reads a prepared store: memory-mapped 16-bit samples become float32 waveforms when rows are read."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, NamedSplit

from .columns import LENGTH, RECORDING, START
from .index import with_waveforms
from .shards import FORMAT, SAMPLES, SCALE

MANIFEST_NAME = "store.json"
MOST_OPEN_FILES = 512  # shards of a store in a process, of the 1,024 files that it usually may open
RUN_COLUMNS = (RECORDING, START, LENGTH, "shard", "batch")  # of the table of runs


class Place(NamedTuple):
    """Where a run lies: `length` samples of its recording, from `start` on, in one batch of one shard."""

    start: int
    length: int
    shard: int
    batch: int


@dataclass(frozen=True)
class ReadStore:
    """Dataset transform that reads each row's waveform from a store.

    It holds no data: copies are cheap, and a pickled one opens the store again in its process.

    Args:
        path (`str`): folder of the store.
        key (`str`): hash of the store's manifest.
    """

    path: str
    key: str

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Reads the rows of a batch. Without the columns that locate audio, the batch stays as it is.

        Raises:
            ValueError: the store has changed since it was loaded, or lacks a row's recording.
        """
        if not {RECORDING, START, LENGTH} <= batch.keys():
            return batch
        store = self.store
        places = zip(batch[RECORDING], batch[START], batch[LENGTH], strict=True)
        return with_waveforms(batch, [store.read(*place) for place in places])

    @property
    def store(self) -> "Store":
        """The open store, one in each process.

        Raises:
            ValueError: it has changed since it was loaded.
        """
        return _open_store(self.path, self.key)


class Store:
    """Open files of a store: where each run lies, and the shards that have been read from.

    Args:
        folder (`Path`): the store.
        manifest (`dict`): its manifest.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.shards = [name for name, _ in manifest["shards"]]
        self.readers: dict[int, pa.ipc.RecordBatchFileReader] = {}
        self.places: dict[str, list[Place]] = defaultdict(list)
        runs = read_arrow(folder / manifest["runs"])
        for recording, *place in zip(*(runs[name].to_pylist() for name in RUN_COLUMNS), strict=True):
            self.places[recording].append(Place(*place))

    def read(self, recording: str, start: int, length: int) -> np.ndarray:
        """Returns samples `start` to `start + length` of a recording, float32 `(length,)`.

        Raises:
            ValueError: the store does not hold them in one piece.
        """
        place = self.find(recording, start, length)
        samples, scale = self.samples(place)
        return samples[start - place.start :][:length] * scale

    def find(self, recording: str, start: int, length: int) -> Place:
        """Returns the run that holds samples `start` to `start + length` of a recording.

        Raises:
            ValueError: the store does not hold them in one piece.
        """
        for place in self.places.get(recording, ()):
            if place.start <= start and start + length <= place.start + place.length:
                return place
        raise ValueError(
            f"{self.folder} does not hold samples {start} to {start + length} of {recording} in one piece; load the "
            "dataset from the store that it belongs to."
        )

    def samples(self, place: Place) -> tuple[np.ndarray, np.float32]:
        """Returns the samples of a run, memory-mapped int16 `(length,)`, and their scale."""
        batch = self._reader(place.shard).get_batch(place.batch)
        return batch[SAMPLES].values.to_numpy(), np.float32(batch[SCALE][0].as_py())

    def _reader(self, shard: int) -> pa.ipc.RecordBatchFileReader:
        if shard not in self.readers:
            if len(self.readers) == MOST_OPEN_FILES:
                del self.readers[next(iter(self.readers))]  # the first that was opened
            self.readers[shard] = pa.ipc.open_file(pa.memory_map(str(self.folder / self.shards[shard])))
        return self.readers[shard]


@lru_cache(maxsize=8)
def _open_store(path: str, key: str) -> Store:
    manifest, present = read_manifest(Path(path))
    if present != key:
        raise ValueError(f"{path} has been prepared again since this dataset was loaded; load it again.")
    return Store(Path(path), manifest)


def read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """Reads the manifest of a finished store, and the hash of it.

    Raises:
        FileNotFoundError: there is none: the folder is no store, or not finished.
        ValueError: it is damaged, or of another version of the format.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds no finished store ({MANIFEST_NAME} is missing): run prepare again with this folder."
        ) from error
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder and run prepare again.") from error
    if not isinstance(manifest, dict) or "settings" not in manifest:
        raise ValueError(f"{path} is no manifest of a store; run prepare again, with another folder.")
    if manifest["settings"]["format"] != FORMAT:
        raise ValueError(
            f"{folder} is of format {manifest['settings']['format']}, expected {FORMAT}: it was written by another "
            "version; remove it and run prepare again."
        )
    return manifest, hashlib.blake2b(text, digest_size=16).hexdigest()


def read_arrow(path: Path) -> pa.Table:
    """Reads a small Arrow file into memory.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            return reader.read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); run prepare again with {path.parent}.") from error


def load_prepared(path: str | Path) -> DatasetDict:
    """Opens a store written by `prepare` or `prepare_recordings`. Its audio stays on disk, memory-mapped.

    A store is a folder with `shard-*.arrow` (the audio: gap-free runs of recordings, int16 with one scale each),
    `runs-*.arrow` (where each run lies), `index-*.arrow` (the rows of all splits), and `store.json`, which names them
    and was written last. It may be moved and copied.

    Args:
        path (`str | Path`): folder of the store.

    Returns:
        `DatasetDict`: the splits that were prepared; rows of `waveform` float32 `(T,)`, `labels`, `device_ids`,
        `example_id` and `city`. `dataset.with_format(None)` reads columns without audio.

    Raises:
        FileNotFoundError: the folder holds no finished store.
        ValueError: a file of the store is missing or damaged, or the store is of another version.
    """
    folder = Path(path).absolute()
    manifest, key = read_manifest(folder)
    for name, size in manifest["shards"]:
        file = folder / name
        if not file.exists() or file.stat().st_size != size:
            raise ValueError(
                f"{file} is missing or damaged (expected {size} bytes); run prepare again with this folder."
            )
    index = read_arrow(folder / manifest["index"])
    splits, begin = {}, 0
    for split, count in manifest["splits"].items():
        rows = Dataset(index.slice(begin, count), split=NamedSplit(split))
        splits[split] = rows.with_transform(ReadStore(str(folder), key))
        begin += count
    return DatasetDict(splits)


__all__ = [
    "MANIFEST_NAME",
    "RUN_COLUMNS",
    "ReadStore",
    "Store",
    "load_prepared",
    "read_arrow",
    "read_manifest",
]
