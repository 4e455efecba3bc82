"""Prepares recordings once, into a memory-mapped store of 32-kHz waveforms, and says what audio a dataset holds."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Value
from filelock import FileLock
from tqdm.auto import tqdm

from ..files import is_staged, write_json, written_whole
from .audio import AudioChecks, CorpusRate, Sound
from .columns import CONTENT, DEVICE_IDS, EXAMPLE_ID, LABELS, LENGTH, PATH, RECORDING, START
from .index import rows_of
from .recordings import RecordingColumns, describe_recordings
from .shards import (
    CONTENTS,
    EXAMPLE_IDS,
    LENGTHS,
    SAMPLES,
    ShardWriter,
    settings,
    split_into_shards,
    write_shards,
)
from .sources import Corpus, as_splits, describe_clips
from .store_reader import MANIFEST_NAME, RUN_COLUMNS, load_prepared
from .tau22 import device_groups
from .wav_reader import NOT_ONE_FILE

PLAN_NAME = "plan.json"  # what is being prepared; written before the first shard
LOCK_NAME = ".lock"


def prepare(
    dataset: Dataset | Mapping[str, Dataset],
    output_dir: str | Path,
    *,
    num_proc: int | None = None,
    stereo: str = "error",
    mixed_rates: bool = False,
    allow_silent: bool = False,
) -> DatasetDict:
    """Decodes and resamples every file of a corpus once, into a store that is memory-mapped afterwards.

    Consecutive slices of a recording are joined before they are resampled, so that crops across their borders have no
    seams. A run that was interrupted goes on where it stopped: finished shards are kept, and only those whose files
    changed are written again. The finished store does not depend on interruptions or on `num_proc`.

    Args:
        dataset (`Dataset | Mapping[str, Dataset]`): whole clips from `load_tau22`, one split or several.
        output_dir (`str | Path`): folder of the store; a new one, or one of the same corpus and settings.
        num_proc (`int`, *optional*): processes; unset, one per core.
        stereo (`str`, *optional*, defaults to `"error"`): `"mean"` averages the channels of recordings with several.
        mixed_rates (`bool`, *optional*, defaults to `False`): files may have other rates than the first one.
        allow_silent (`bool`, *optional*, defaults to `False`): files may hold nothing but zeros.

    Returns:
        `DatasetDict`: the store, opened as by [`load_prepared`].

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is empty, truncated, not audio, stereo, silent, of another rate or length, or holds NaN; the
            dataset holds crops; the folder holds something else.
        RuntimeError: a process was killed.
    """
    checks = AudioChecks(stereo, mixed_rates, allow_silent)
    return _build(describe_clips(as_splits(dataset)), Path(output_dir), checks, num_proc)


def prepare_recordings(
    dataset: Dataset | Mapping[str, Dataset],
    output_dir: str | Path,
    *,
    audio_column: str = "audio",
    label_column: str = "label",
    device_column: str | None = "device",
    id_column: str | None = None,
    city_column: str | None = None,
    sampling_rate: int | None = None,
    split: str | None = None,
    num_proc: int | None = None,
    stereo: str = "error",
    mixed_rates: bool = False,
    allow_silent: bool = False,
) -> DatasetDict:
    """Brings any dataset of labelled audio into the store of [`prepare`], with the same checks.

    Recordings may have any length; cut training clips from the result with `shifted_crops`.

    Args:
        dataset (`Dataset | Mapping[str, Dataset]`): one row per recording; several splits as a `DatasetDict`.
        output_dir (`str | Path`): folder of the store; a new one, or one of the same recordings and settings.
        audio_column (`str`, *optional*, defaults to `"audio"`): path of a file; an `Audio` feature (`{"bytes",
            "path"}`, read without torchcodec); `{"array", "sampling_rate"}`; or float samples, with `sampling_rate`.
        label_column (`str`, *optional*, defaults to `"label"`): scene, a `ClassLabel` or text (then sorted).
        device_column (`str`, *optional*, defaults to `"device"`): recording device, a `ClassLabel` or text; `None`
            where it is not known.
        id_column (`str`, *optional*): unique names; unset, the file's name, or `{split}-{row}` where there is none.
        city_column (`str`, *optional*): where it was recorded, text.
        sampling_rate (`int`, *optional*): of bare samples, in Hz.
        split (`str`, *optional*): name of the split of a single `Dataset`; unset, its own, else `"train"`.
        num_proc, stereo, mixed_rates, allow_silent: see [`prepare`].

    Returns:
        `DatasetDict`: the store, opened as by [`load_prepared`].

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a column is missing or of another type, two rows share a name, or a reason of [`prepare`]; row and
            column are named.
        RuntimeError: a process was killed.
    """
    columns = RecordingColumns(audio_column, label_column, device_column, id_column, city_column, sampling_rate)
    corpus = describe_recordings(as_splits(dataset, split), columns)
    return _build(corpus, Path(output_dir), AudioChecks(stereo, mixed_rates, allow_silent), num_proc)


def _build(corpus: Corpus, folder: Path, checks: AudioChecks, num_proc: int | None) -> DatasetDict:
    """Writes the shards that are not there yet, then the index and the manifest."""
    num_proc = os.cpu_count() if num_proc is None else num_proc
    if num_proc < 1:
        raise ValueError(f"num_proc={num_proc}; expected at least 1.")
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan(corpus, checks)
    with FileLock(folder / LOCK_NAME):  # released by the system where a process is killed
        _start(folder, plan)
        shards = split_into_shards(corpus.clips)
        writer = ShardWriter(folder, corpus.source, checks, CorpusRate.of(corpus.source.sound(0)))
        with tqdm(total=len(corpus.clips), desc=f"prepare -> {folder}", unit="clip") as progress:
            names = write_shards(writer, shards, num_proc=min(num_proc, len(shards)), progress=progress.update)
        _finish(folder, plan, corpus, names)
    return load_prepared(folder)


def _plan(corpus: Corpus, checks: AudioChecks) -> dict[str, Any]:
    """Says what a store is made from, but for the audio itself: a folder holds one plan."""
    features = Features.from_arrow_schema(next(iter(corpus.splits.values())).schema)
    columns = (EXAMPLE_ID, RECORDING, START, LABELS, DEVICE_IDS)
    rows = [[split, *(table[name].to_pylist() for name in columns)] for split, table in corpus.splits.items()]
    return {
        "settings": settings(checks),
        "splits": {split: len(table) for split, table in corpus.splits.items()},
        "scenes": features[LABELS].names,
        "devices": features[DEVICE_IDS].names,
        "clips": _digest(json.dumps(rows)),
    }


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _start(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan of a new store, or checks that the folder's plan is the same; removes half-written files."""
    path = folder / PLAN_NAME
    if not path.exists():
        files = [file for file in folder.iterdir() if file.name != LOCK_NAME]
        others = sorted(file.name for file in files if not is_staged(file, PLAN_NAME))
        if others:
            raise ValueError(f"{folder} holds other files ({others[0]}, ...) and no store; choose an empty folder.")
        write_json(path, plan)
    present = json.loads(path.read_text())
    for name, asked in plan.items():
        if present.get(name) != asked:
            raise ValueError(
                f"{folder} holds a store of other {name}: {present.get(name)}, now {asked}. Choose another folder, or "
                "remove this one."
            )
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()


def _finish(folder: Path, plan: dict[str, Any], corpus: Corpus, shards: list[str]) -> None:
    """Writes the index, the places of the runs and, last, the manifest; removes the files of earlier audio."""
    runs, clips = _read_shards(folder, shards)
    index = pa.concat_tables([_complete(table, clips) for table in corpus.splits.values()])
    manifest = {
        **plan,
        "groups": _groups(plan, corpus),
        "content": _fingerprint(clips[EXAMPLE_ID].to_pylist(), clips[CONTENT].to_pylist()),
        "index": _write_table(folder, "index", index),
        "runs": _write_table(folder, "runs", runs),
        "shards": [[name, (folder / name).stat().st_size] for name in shards],
    }
    write_json(folder / MANIFEST_NAME, manifest)
    wanted = {manifest["index"], manifest["runs"], *shards}
    for path in folder.glob("*.arrow"):
        if path.name not in wanted:
            path.unlink()


def _read_shards(folder: Path, shards: list[str]) -> tuple[pa.Table, pa.Table]:
    """Returns where each run lies, and `example_id`, `content` and `length` of each clip; reads no samples."""
    runs, clips = [], []
    for shard, name in enumerate(shards):
        with pa.memory_map(str(folder / name)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                recording, start = batch[RECORDING][0].as_py(), batch[START][0].as_py()
                runs.append((recording, start, len(batch[SAMPLES].values), shard, number))
                clips.extend(zip(*(batch[name][0].as_py() for name in (EXAMPLE_IDS, CONTENTS, LENGTHS)), strict=True))
    columns = [pa.array(values) for values in zip(*clips, strict=True)]
    places = [pa.array(values) for values in zip(*runs, strict=True)]
    return pa.table(places, names=RUN_COLUMNS), pa.table(columns, names=(EXAMPLE_ID, CONTENT, LENGTH))


def _complete(table: pa.Table, clips: pa.Table) -> pa.Table:
    """Adds what is known once the audio has been read: `content`, and `length` where it was not known."""
    clips = clips.take(pc.index_in(table[EXAMPLE_ID], value_set=clips[EXAMPLE_ID]))
    features = Features({**Features.from_arrow_schema(table.schema), CONTENT: Value("string")})
    columns = {name: table[name] for name in table.column_names}
    return pa.table({**columns, LENGTH: clips[LENGTH], CONTENT: clips[CONTENT]}, schema=features.arrow_schema)


def _groups(plan: dict[str, Any], corpus: Corpus) -> dict[str, tuple[str, ...]]:
    train = corpus.splits.get("train", next(iter(corpus.splits.values())))
    return device_groups(
        [plan["devices"][device] for device in pc.unique(train[DEVICE_IDS]).to_pylist()], plan["devices"]
    )


def _write_table(folder: Path, name: str, table: pa.Table) -> str:
    """Writes a small table into a file that is named after its content; returns that name."""
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    data = buffer.getvalue().to_pybytes()
    path = folder / f"{name}-{hashlib.blake2b(data, digest_size=16).hexdigest()}.arrow"
    with written_whole(path) as staged:
        staged.write_bytes(data)
    return path.name


def data_fingerprint(dataset: Dataset) -> str:
    """Returns a hash of what a dataset holds: the names of its clips and the audio files that they are read from.

    It is the same for wav files and for the store of them, and in any order of the rows; another clip or another byte
    of audio changes it. Wav files are read for it, with a progress bar.

    Args:
        dataset (`Dataset`): clips or crops.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a crop spans two wav files.
    """
    return _fingerprint(rows_of(dataset)[EXAMPLE_ID].to_pylist(), clip_contents(dataset).tolist())


def _fingerprint(example_ids: Iterable[str], contents: Iterable[str]) -> str:
    return _digest(json.dumps(sorted(zip(example_ids, contents, strict=True))))


def clip_contents(dataset: Dataset) -> np.ndarray:
    """Returns a hash of the audio of each clip or crop, as text `(N,)`: of its file, or of the files that it touches.

    Args:
        dataset (`Dataset`): clips or crops; wav files are read, with a progress bar, and a store is not.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a crop spans two wav files.
    """
    table = rows_of(dataset)
    if CONTENT in table.column_names:
        return np.array(table[CONTENT].to_pylist(), dtype=object)
    paths = table[PATH].combine_chunks().dictionary_encode()
    if paths.null_count:
        name = table[EXAMPLE_ID][paths.is_null().index(True).as_py()].as_py()
        raise ValueError(f"{name} {NOT_ONE_FILE}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashed = pool.map(lambda path: Sound.from_file(path).content(), paths.dictionary.to_pylist())
        contents = list(tqdm(hashed, total=len(paths.dictionary), desc="hash audio", unit="file"))
    return np.array(contents, dtype=object)[paths.indices.to_numpy()]


__all__ = [
    "MANIFEST_NAME",
    "clip_contents",
    "data_fingerprint",
    "load_prepared",
    "prepare",
    "prepare_recordings",
]
