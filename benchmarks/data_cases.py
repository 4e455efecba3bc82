"""Cases of reading: wav files, the prepared store, items with waveform augmentation, front-end in loader workers."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontend_cases import SETTINGS, our_frontend, plain_augmentation, plain_mel
from plain import Collate, SavedClips, read_clip
from timing import Case
from torch.utils.data import DataLoader
from training_cases import store_step_cases
from workload import SAMPLING_RATE, Workload, check_close

from hf_ascdistill import (
    AscFeatureExtractor,
    DeviceImpulseResponse,
    TimeRoll,
    load_prepared,
    prepare,
    with_frontend,
)
from hf_ascdistill.data.collator import collate_clips

SECTION = "Data"
RESAMPLERS_AGREE = 1e-2  # relative L2 below PASSED_HERTZ; scipy's filter ripples by that
PASSED_HERTZ = 13_000
PEER_LOAD, PEER_ITEM_CACHED = 2.3, 2.3  # ms per clip


def data_cases(work: Workload) -> Iterator[Case]:
    """Yields the cases that need a corpus of wav files."""
    paths = work.clips.with_format(None)["path"]
    _check_resampling("wav", work.clips[0]["waveform"], torch.from_numpy(read_clip(paths[0])))
    yield Case(
        SECTION,
        "read a wav, resample to 32 kHz",
        len(paths),
        lambda: [work.clips[index]["waveform"] for index in range(len(paths))],
        lambda: [read_clip(path) for path in paths],
        (PEER_LOAD,),
    )
    saved = work.folder / "saved"
    plain = _writer(saved, lambda: _save_clips(paths, saved))
    for processes, title in ((1, "one process"), (None, "a process per core, their start included")):
        store = work.folder / f"store-{processes}"
        ours = _writer(store, lambda store=store, processes=processes: _prepare(work, store, processes))
        yield Case(SECTION, f"prepare into the store, {title}", len(paths), ours, plain, (PEER_LOAD,))
    (split,) = (prepared := load_prepared(work.folder / "store-1"))
    yield from _store_cases(work, prepared[split], SavedClips(_save_clips(paths, saved)))


def _store_cases(work: Workload, store: Any, saved: SavedClips) -> Iterator[Case]:
    """Yields the cases of reading prepared clips."""
    clips = len(store)
    for index in (0, clips - 1):
        _check_resampling("store", store[index]["waveform"], saved[index])
    yield Case(
        SECTION,
        "read the store row by row (plain: one .npy a clip)",
        clips,
        lambda: [store[index]["waveform"] for index in range(clips)],
        lambda: [saved[index] for index in range(clips)],
    )
    yield Case(
        SECTION,
        f"read in batches of {len(work.waveform)}",
        clips,
        _pass(DataLoader(store, len(work.waveform), collate_fn=collate_clips)),
        _pass(DataLoader(saved, len(work.waveform))),
    )
    transforms = DeviceImpulseResponse(work.responses, SETTINGS.dir_p), TimeRoll(SETTINGS.roll_max_shift)
    augmentation = plain_augmentation(work, "cpu")
    yield Case(
        SECTION,
        "the same with DIR .6 and roll",
        clips,
        _pass(DataLoader(store, len(work.waveform), collate_fn=collate_clips), *transforms),
        _pass(DataLoader(SavedClips(saved.paths, augmentation.clip), len(work.waveform))),
        (PEER_ITEM_CACHED,),
    )
    yield from _worker_cases(work, store, saved)
    yield from store_step_cases(work, store, saved)


def _worker_cases(work: Workload, store: Any, saved: SavedClips) -> Iterator[Case]:
    """Yields the cases of the front-end behind the dataset, in the loader's processes."""
    extractor, batch_size = AscFeatureExtractor.from_preset("cp-mobile"), len(work.waveform)
    behind = with_frontend(store, our_frontend(work, extractor))
    augmentation = plain_augmentation(work, "cpu")
    items, collate = SavedClips(saved.paths, augmentation.clip), Collate(plain_mel(extractor), augmentation)
    for workers in (0, 2):
        settings = {"batch_size": batch_size, "num_workers": workers, "persistent_workers": workers > 0}
        yield Case(
            "Front-end",
            f"store to mel (CPM), workers' seat, {workers} workers",
            len(store),
            _pass(DataLoader(behind, collate_fn=collate_clips, **settings)),
            _pass(DataLoader(items, collate_fn=collate, **settings)),
        )


def _pass(loader: DataLoader, *transforms: Callable) -> Callable[[], None]:
    """Returns the work of one pass over a loader."""

    def work() -> None:
        for batch in loader:
            for transform in transforms:
                batch = transform(batch)

    return work


def _writer(folder: Path, write: Callable[[], Any]) -> Callable[[], Any]:
    """Returns work that writes into a new folder each time; removing the last one is part of it on both sides."""

    def work() -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return write()

    return work


def _prepare(work: Workload, store: Path, processes: int | None) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        prepare(work.clips, store, num_proc=processes)


def _save_clips(paths: list[str], folder: Path) -> list[Path]:
    """Prepares the plain way: one float32 .npy a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = [folder / f"{number}.npy" for number in range(len(paths))]
    for path, target in zip(paths, saved, strict=True):
        np.save(target, read_clip(path))
    return saved


def _check_resampling(what: str, ours: Any, plain: torch.Tensor) -> None:
    error = _passed(torch.as_tensor(ours)) - _passed(plain)
    relative = error.norm() / _passed(plain).norm()
    check_close(f"{what}, relative error", relative, torch.zeros(()), tolerance=RESAMPLERS_AGREE)


def _passed(waveform: torch.Tensor) -> torch.Tensor:
    """Returns the spectrum below the edges of both resamplers' filters."""
    return torch.fft.rfft(waveform)[: int(PASSED_HERTZ / SAMPLING_RATE * len(waveform))]


__all__ = ["data_cases"]
