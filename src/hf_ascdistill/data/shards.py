"""Writes the shards of a store: gap-free runs of clips, decoded, joined, resampled and kept as 16-bit samples."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from .audio import AudioChecks, CorpusRate, decode_checked, resample_joined
from .columns import RECORDING, SAMPLING_RATE, START
from .index import gap_free_runs
from .sources import ClipSource

FORMAT = 1  # raised whenever the same recordings give other files
RUNS_PER_SHARD = 64  # what a killed process loses at the most; 11 minutes of TAU22
INT16_PEAK = 32767
SAMPLES, SCALE = "samples", "scale"
EXAMPLE_IDS, CONTENTS, LENGTHS = "example_ids", "contents", "lengths"  # of the clips of a run
SCHEMA = pa.schema(
    {
        RECORDING: pa.string(),
        START: pa.int64(),
        SCALE: pa.float32(),
        SAMPLES: pa.large_list(pa.int16()),
        EXAMPLE_IDS: pa.list_(pa.string()),
        CONTENTS: pa.list_(pa.string()),
        LENGTHS: pa.list_(pa.int64()),
    }
)


@dataclass(frozen=True)
class Run:
    """Clips that follow each other without a gap, by their numbers in the source; `start` is the first one's."""

    recording: str
    start: int
    clips: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """The runs of one file."""

    number: int
    runs: tuple[Run, ...]

    @property
    def clips(self) -> list[int]:
        """Numbers of all its clips, in order."""
        return [clip for run in self.runs for clip in run.clips]


def split_into_shards(clips: pa.Table) -> list[Shard]:
    """Groups clips into gap-free runs, and these into shards, in the order of the clips' recordings."""
    rows = gap_free_runs(clips).rows()
    recordings, starts = clips[RECORDING].to_pylist(), clips[START].to_pylist()
    runs = [Run(recordings[run[0]], starts[run[0]], tuple(run.tolist())) for run in rows]
    cuts = range(0, len(runs), RUNS_PER_SHARD)
    return [Shard(number, tuple(runs[cut : cut + RUNS_PER_SHARD])) for number, cut in enumerate(cuts)]


def settings(checks: AudioChecks) -> dict[str, object]:
    """Returns all that decides how recordings become samples."""
    return {"format": FORMAT, "sampling_rate": SAMPLING_RATE, "resampler": "soxr HQ", **asdict(checks)}


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards into a folder, each under a name that holds the hash of its contents.

    Args:
        folder (`Path`): where the files go.
        source (`ClipSource`): gives the clips.
        checks (`AudioChecks`): what a recording may be.
        corpus_rate (`CorpusRate`): rate that all recordings must have, unless `checks.mixed_rates`.
    """

    folder: Path
    source: ClipSource
    checks: AudioChecks
    corpus_rate: CorpusRate

    def __call__(self, shard: Shard) -> str:
        """Writes a shard unless it is there; returns the name of its file.

        Raises:
            FileNotFoundError: a file is absent.
            ValueError: a recording fails a check.
        """
        present = {path.name for path in self.folder.glob(f"shard-{shard.number:05d}-*.arrow")}
        if present:
            name = self._name(shard, [self.source.sound(clip).content() for clip in shard.clips])
            if name in present and _is_complete(self.folder / name, shard):
                return name
        staged = self.folder / f"shard-{shard.number:05d}.{os.getpid()}.tmp"
        with removed_at_exit(staged):
            name = self._name(shard, self._write(staged, shard))
            os.replace(staged, self.folder / name)
        return name

    def _name(self, shard: Shard, contents: Sequence[str]) -> str:
        runs = [(run.recording, run.start, len(run.clips)) for run in shard.runs]
        example_ids = [self.source.example_ids[clip] for clip in shard.clips]
        text = json.dumps([settings(self.checks), runs, example_ids, list(contents)])
        return f"shard-{shard.number:05d}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.arrow"

    def _write(self, path: Path, shard: Shard) -> list[str]:
        """Writes one record batch per run; returns the contents of all clips."""
        contents = []
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for run in shard.runs:
                batch = self._read(run)
                writer.write_batch(batch)
                contents.extend(batch[CONTENTS][0].as_py())
        return contents

    def _read(self, run: Run) -> pa.RecordBatch:
        """Decodes the clips of a run one by one and resamples them together."""
        waveforms, contents = [], []
        for clip in run.clips:
            sound, length = self.source.sound(clip), self.source.length(clip)
            waveforms.append(decode_checked(sound, self.checks, corpus_rate=self.corpus_rate, length=length))
            contents.append(sound.content())
        samples, scale = quantize(resample_joined(waveforms))
        row = {
            RECORDING: [run.recording],
            START: [run.start],
            SCALE: [scale],
            SAMPLES: pa.LargeListArray.from_arrays([0, len(samples)], pa.array(samples)),
            EXAMPLE_IDS: [[self.source.example_ids[clip] for clip in run.clips]],
            CONTENTS: [contents],
            LENGTHS: [[self.source.length(clip) or len(samples) for clip in run.clips]],
        }
        return pa.RecordBatch.from_pydict(row, schema=SCHEMA)


def _is_complete(path: Path, shard: Shard) -> bool:
    """Says whether a file was not cut short after it was written."""
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            return reader.num_record_batches == len(shard.runs)
    except (OSError, pa.ArrowInvalid):
        return False


def quantize(samples: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Rounds to 16 bits of the loudest sample, which may pass 1.0.

    Args:
        samples (`np.ndarray`): float32 `(T,)`.

    Returns:
        `tuple[np.ndarray, np.float32]`: int16 `(T,)` and the scale; their product is the waveform to half a scale.
    """
    scale = np.float32(np.abs(samples).max() / INT16_PEAK) or np.float32(1)  # 1: all zeros
    return np.rint(samples / scale).astype(np.int16), scale


@contextmanager
def removed_at_exit(path: Path) -> Iterator[Path]:
    """Removes a half-written file, unless it has been renamed."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_shards(
    writer: ShardWriter, shards: Sequence[Shard], *, num_proc: int, progress: Callable[[int], object]
) -> list[str]:
    """Writes shards in several processes; returns the names of their files.

    Args:
        writer (`ShardWriter`): writes one shard.
        shards (`Sequence[Shard]`): what to write.
        num_proc (`int`): processes; 1 writes in this one.
        progress (`Callable[[int], object]`): is told the number of clips after each shard.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a recording fails a check.
        RuntimeError: a process was killed.
    """
    if num_proc == 1:
        names = []
        for shard in shards:
            names.append(writer(shard))
            progress(len(shard.clips))
        return names
    # Forked workers start at once and need no `if __name__ == "__main__"` in the caller's script. They read, resample
    # and write files, and touch neither torch nor any lock of the parent.
    pool = ProcessPoolExecutor(num_proc, get_context("fork"), _start_worker, (writer, os.getpid()))
    try:
        futures = {pool.submit(_write_in_worker, shard): shard for shard in shards}
        for future in as_completed(futures):
            future.result()  # raises what the worker raised
            progress(len(futures[future].clips))
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process of prepare was killed, perhaps for its memory; finished shards stay: run it again, with a "
            "smaller num_proc."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker_writer: ShardWriter | None = None  # of a forked worker; its source may be too large to send with every shard


def _start_worker(writer: ShardWriter, parent: int) -> None:
    global _worker_writer
    _worker_writer = writer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which waits for the shards under way
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process once its parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write_in_worker(shard: Shard) -> str:
    return _worker_writer(shard)


__all__ = [
    "CONTENTS",
    "EXAMPLE_IDS",
    "LENGTHS",
    "SAMPLES",
    "SCALE",
    "Run",
    "Shard",
    "ShardWriter",
    "quantize",
    "removed_at_exit",
    "settings",
    "split_into_shards",
    "write_shards",
]
