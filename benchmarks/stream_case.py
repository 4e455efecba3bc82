"""Follows a recording of ten minutes, whose scene changes every minute, as it would arrive live."""

import csv
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from hf_ascdistill import AscFeatureExtractor, StreamDecision, StreamingClassifier

CHUNK_SECONDS = 0.02
CHUNKS_PER_MINUTE = round(60 / CHUNK_SECONDS)
MEGABYTE = 2**20


@dataclass(frozen=True)
class StreamResult:
    """What came out.

    Args:
        seconds (`float`): length of the recording.
        right (`float`): share of decisions with the scene of the moment.
        unsure (`float`): share without a scene.
        window_right (`float`): share of windows, each alone, that are right: what the stream is made of.
        delays (`list[float]`): seconds from each change to the first decision with the new scene; infinite: never.
        changes (`int`): changes of the scene that came out.
        memory (`list[float]`): resident memory after each minute, MB.
        speed (`float`): seconds of audio in a second.
    """

    seconds: float
    right: float
    unsure: float
    window_right: float
    delays: list[float]
    changes: int
    memory: list[float]
    speed: float


class Note(NamedTuple):
    """What is kept of a decision."""

    time: float
    scene: str | None
    is_change: bool
    window_scene: str


def note(decision: StreamDecision, labels: dict[int, str]) -> Note:
    """Keeps the words of a decision, and lets its scores go."""
    best = labels[int(decision.window_scores.argmax())]
    return Note(decision.time, decision.scene, decision.is_change, best)


def resident_memory(process: int | str = "self") -> float:
    """Returns the resident memory of a process, MB (Linux)."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * 4096 / MEGABYTE


def read_rows(folder: Path) -> list[tuple[str, Path]]:
    """Returns scene and file of each clip of the evaluate list of a folder in TAU22's layout."""
    with (folder / "evaluation_setup" / "fold1_evaluate.csv").open(newline="") as file:
        return [(row["scene_label"], folder / row["filename"]) for row in csv.DictReader(file, delimiter="\t")]


def join_scenes(folder: Path, *, seconds: int = 60, seed: int = 0) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields, scene by scene, its clips in random order, again and again, joined to one piece.

    Args:
        folder (`Path`): clips of 1 s in TAU22's layout.
        seconds (`int`, *optional*, defaults to 60): length of a scene.
        seed (`int`, *optional*, defaults to 0): of the order of scenes and clips.

    Yields:
        `tuple[str, np.ndarray, int]`: scene, samples (T,) and their rate, Hz.
    """
    generator, rows = np.random.default_rng(seed), read_rows(folder)
    for scene in generator.permutation(sorted({scene for scene, _ in rows})):
        paths = [path for name, path in rows if name == scene]
        order = np.concatenate([generator.permutation(len(paths)) for _ in range(-(-seconds // len(paths)))])[:seconds]
        clips = [soundfile.read(paths[index], dtype="float32") for index in order]
        yield str(scene), np.concatenate([samples for samples, _ in clips]), clips[0][1]


def write_recording(folder: Path, path: Path) -> list[tuple[float, str]]:
    """Writes the joined scenes of a folder as one wav; returns where each begins, seconds, and its name."""
    borders, heard, file = [], 0.0, None
    for scene, samples, rate in join_scenes(folder):
        file = file or soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_24")
        borders.append((heard, scene))
        file.write(samples)
        heard += len(samples) / rate
    file.close()
    return borders


def follow(model, extractor: AscFeatureExtractor, folder: Path, **settings) -> StreamResult:
    """Plays the joined scenes of a folder to a stream, in chunks of 20 ms."""
    labels = model.config.id2label
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "recording.wav"
        borders = write_recording(folder, path)
        info = soundfile.info(path)
        stream = StreamingClassifier(model, extractor, sampling_rate=info.samplerate, **settings)
        decisions, memory, start = [], [], time.perf_counter()
        blocks = soundfile.blocks(path, blocksize=round(info.samplerate * CHUNK_SECONDS), dtype="float32")
        for number, chunk in enumerate(blocks, start=1):
            decisions += [note(decision, labels) for decision in stream.push(chunk)]
            if number % CHUNKS_PER_MINUTE == 0:
                memory.append(resident_memory())
        seconds = time.perf_counter() - start
    truths = [scene_at(borders, decision.time) for decision in decisions]
    pairs = list(zip(decisions, truths, strict=True))
    return StreamResult(
        seconds=info.duration,
        right=float(np.mean([decision.scene == truth for decision, truth in pairs])),
        unsure=float(np.mean([decision.scene is None for decision in decisions])),
        window_right=float(np.mean([decision.window_scene == truth for decision, truth in pairs])),
        delays=[
            delay(decisions, border, until)
            for border, until in zip(borders, [begin for begin, _ in borders[1:]] + [info.duration], strict=True)
        ],
        changes=sum(decision.is_change for decision in decisions),
        memory=memory,
        speed=info.duration / seconds,
    )


def scene_at(borders: list[tuple[float, str]], moment: float) -> str:
    """Returns the scene in which a window ends."""
    return [scene for begin, scene in borders if begin < moment][-1]


def delay(decisions: list[Note], border: tuple[float, str], until: float) -> float:
    """Returns the seconds from the begin of a scene to the first decision for it, within that scene."""
    begin, scene = border
    times = [item.time - begin for item in decisions if item.scene == scene and begin < item.time <= until]
    return min(times, default=float("inf"))


__all__ = ["StreamResult", "follow", "read_rows", "resident_memory"]
