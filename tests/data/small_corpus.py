"""A few seconds of noise in TAU22's layout, for the tests of the data layer."""

from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import numpy as np
import soundfile

RATE = 16_000  # of the files, Hz: half of 32 kHz, so that tests are quick
SLICES = tuple(f"bus-lyon-1-10-{number}-a" for number in range(3))  # one recording of three seconds
CLIPS = (*SLICES, "bus-oslo-2-11-4-s1", "park-lyon-3-12-0-a", "park-oslo-4-13-9-s4")
META = "filename\tscene_label\tidentifier\tsource_label"


def noise(name: str, count: int = RATE) -> np.ndarray:
    """Noise that depends on the name alone."""
    return np.random.default_rng(crc32(name.encode())).normal(0, 0.1, count).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def write_table(path: Path, head: str, rows: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows, ""]))
    return path


def meta_row(name: str) -> str:
    scene, *identifier, _, _, device = name.split("-")
    return f"audio/{name}.wav\t{scene}\t{'-'.join(identifier)}\t{device}"


def write_lists(folder: Path, train: Iterable[str], evaluate: Iterable[str]) -> None:
    for split, names in (("train", train), ("evaluate", evaluate)):
        rows = [f"audio/{name}.wav\t{name.split('-')[0]}" for name in names]
        write_table(folder / f"evaluation_setup/fold1_{split}.csv", "filename\tscene_label", rows)


def write_corpus(folder: Path, names: Iterable[str] = CLIPS) -> Path:
    """Writes audio, meta.csv and lists; clips of s4 are the evaluate split."""
    names = list(names)
    for name in names:
        write_wav(folder / f"audio/{name}.wav", noise(name))
    write_table(folder / "meta.csv", META, map(meta_row, names))
    unseen = [name for name in names if name.endswith("s4")]
    write_lists(folder, [name for name in names if name not in unseen], unseen)
    return folder
