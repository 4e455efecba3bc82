"""Names the scene of recordings: files, and folders with all that is below them.

  ascdistill classify --model models/cpm-student clip.wav
  ascdistill classify --model user/cpm-student recordings/ --output scenes.csv
  ascdistill classify --model models/cpm-student recordings/ --json | jq -r .scene

A recording longer than a window is scored in windows, and its scores are the mean of theirs. The table has the columns
file, scene, score and seconds, and one for each scene of the model with its score; it appears when all is done.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..files import written_whole
from ..fusing import drop_dead_channels, fuse
from ..hub.handler import (
    SHORTEST_WINDOW,
    EndpointHandler,
    Parameters,
    check_samples,
    cut_windows,
    read_audio,
    resample,
    window_logits,
)
from .inputs import load_model

ARGUMENTS = ()
AUDIO_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
SOME_FAILED = 1
DIGITS = 6  # of a score


class Recording(NamedTuple):
    """A file, its length in seconds, and its windows at the model's rate, all of one length."""

    path: Path
    seconds: float
    windows: list[np.ndarray]


class Scored(NamedTuple):
    """A file, its length in seconds, and the probability of each scene, float64 `(C,)`."""

    path: Path
    seconds: float
    scores: np.ndarray


class Failed(NamedTuple):
    """A file that could not be classified, and why."""

    path: Path
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments to its parser."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio file, or folder that is searched for them")
    parser.add_argument("--model", required=True, help="folder of the model, or its name on the Hub")
    parser.add_argument("--output", help="csv file to write, in place of lines of text")
    parser.add_argument("--top_k", type=int, help="scenes told of a file; unset: the best one, with --json all")
    parser.add_argument("--window", type=float, default=1.0, help="seconds scored at once, 0.5 to 10; unset: 1")
    parser.add_argument("--hop", type=float, help="seconds between windows; unset: half a window")
    parser.add_argument("--batch_size", type=int, default=32, help="windows at a time; unset: 32")


def check_output(path: Path) -> None:
    """Checks that a table can be written, before hours of work go into it.

    Raises:
        ValueError: it is a folder, or in none.
    """
    if path.is_dir():
        raise ValueError(f"output is {path}, a folder; expected the name of a csv file.")
    if not path.parent.is_dir():
        raise ValueError(f"output is {path}, but there is no folder {path.parent}; make it first.")


def find_files(names: Sequence[str]) -> list[Path]:
    """Returns the files to classify, each once: those named, and the audio files below the folders named.

    Args:
        names (`Sequence[str]`): files and folders. Of a folder, hidden files are left out, and those whose suffix is
            none of an audio file's.

    Raises:
        ValueError: a folder holds no audio file.
    """
    found: dict[Path, None] = {}
    for path in map(Path, names):
        files = [path]
        if path.is_dir():
            below = (file for file in path.rglob("*") if not file.name.startswith("."))
            files = sorted(file for file in below if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
            if not files:
                raise ValueError(f"the folder {path} holds no audio file; expected {' '.join(AUDIO_SUFFIXES)}.")
        found.update(dict.fromkeys(files))
    return list(found)


def read_recording(path: Path, model: EndpointHandler, parameters: Parameters) -> Recording:
    """Reads a file of any rate and cuts it into windows, as the request handler does.

    Args:
        path (`Path`): the file.
        model ([`EndpointHandler`]): whose front-end gives the rate.
        parameters ([`Parameters`]): window and hop.

    Raises:
        ValueError: the file is no audio, damaged, shorter than 0.1 s, or holds NaN.
        OSError: it cannot be read.
    """
    samples, own_rate = read_audio(path.read_bytes(), name="the file", limits=model.limits)
    check_samples(samples, name="the file")
    rate = model.extractor.sampling_rate
    lengths = {"window": parameters.window, "hop": parameters.hop, "shortest": SHORTEST_WINDOW}
    in_samples = {name: round(seconds * rate) for name, seconds in lengths.items()}
    _, windows = cut_windows(resample(samples, own_rate, rate), **in_samples)
    return Recording(path, len(samples) / own_rate, windows)


def score_files(
    paths: Iterable[Path], model: EndpointHandler, parameters: Parameters, *, batch_size: int
) -> Iterator[Scored | Failed]:
    """Yields what becomes of each file; windows of one length are scored together, those of other files too.

    Args:
        paths (`Iterable[Path]`): the files.
        model ([`EndpointHandler`]): classifier and front-end.
        parameters ([`Parameters`]): window and hop.
        batch_size (`int`): windows at a time.
    """
    waiting: list[Recording] = []
    for path in paths:
        try:
            waiting.append(read_recording(path, model, parameters))
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield Failed(path, reason)
        if sum(len(recording.windows) for recording in waiting) >= batch_size:
            yield from _score(waiting, model, batch_size)
            waiting = []
    yield from _score(waiting, model, batch_size)


def _score(recordings: list[Recording], model: EndpointHandler, batch_size: int) -> list[Scored]:
    """Returns the scores of recordings, in their order: the mean of their windows' probabilities."""
    scores: dict[Path, np.ndarray] = {}
    for length in {len(recording.windows[0]) for recording in recordings}:
        alike = [recording for recording in recordings if len(recording.windows[0]) == length]
        windows = [window for recording in alike for window in recording.windows]
        logits = window_logits(model.model, model.extractor, windows, batch_size=batch_size)
        parts = logits.double().softmax(-1).split([len(recording.windows) for recording in alike])
        scores |= {recording.path: part.mean(0).numpy() for recording, part in zip(alike, parts, strict=True)}
    return [Scored(recording.path, recording.seconds, scores[recording.path]) for recording in recordings]


def as_row(scored: Scored, scenes: Sequence[str]) -> dict[str, Any]:
    """Returns what is told of a file: file, scene, score, seconds, and scores by scene, best first."""
    best = (-scored.scores).argsort(kind="stable").tolist()
    scores = {scenes[index]: round(float(scored.scores[index]), DIGITS) for index in best}
    scene, score = next(iter(scores.items()))
    return {
        "file": str(scored.path),
        "scene": scene,
        "score": score,
        "seconds": round(scored.seconds, DIGITS),
        "scores": scores,
    }


def as_text(row: dict[str, Any], top_k: int) -> str:
    """Returns a file's line of text: its name and its best scenes."""
    return f"{row['file']}: " + ", ".join(
        f"{scene} {score:.3f}" for scene, score in list(row["scores"].items())[:top_k]
    )


def run(arguments: argparse.Namespace) -> int:
    """Classifies files; see the module.

    Args:
        arguments (`argparse.Namespace`): what `add_arguments` reads.

    Returns:
        `int`: 0, or 1 where some of the files could not be classified.

    Raises:
        ValueError: an argument is out of range, a folder holds no audio file, or the model is none.
        OSError: the model is not there, or the table cannot be written.
    """
    parameters = Parameters(top_k=arguments.top_k, window=arguments.window, hop=arguments.hop)
    if arguments.batch_size < 1:
        raise ValueError(f"batch_size is {arguments.batch_size}; expected at least 1.")
    if arguments.output is not None:
        check_output(Path(arguments.output))
    paths = find_files(arguments.files)
    with ExitStack() as stack:
        table = None
        if arguments.output is not None:
            staged = stack.enter_context(written_whole(Path(arguments.output)))
            # names of files need not be text
            table = stack.enter_context(open(staged, "w", newline="", encoding="utf-8", errors="surrogateescape"))
        model = load_model(arguments.model)
        model.model = drop_dead_channels(fuse(model.model, memory_format=torch.channels_last))
        failures = tell(paths, model, parameters, arguments=arguments, table=table)
    if not arguments.quiet:
        place = "" if arguments.output is None else f": {arguments.output}"
        print(f"{len(paths) - failures} of {len(paths)} files classified{place}", file=sys.stderr)
    return SOME_FAILED if failures else 0


def tell(
    paths: Sequence[Path], model: EndpointHandler, parameters: Parameters, *, arguments: argparse.Namespace, table: Any
) -> int:
    """Writes what becomes of the files where the arguments ask for it, and returns how many failed."""
    scenes = [model.model.config.id2label[index] for index in range(model.model.config.num_labels)]
    writer = None if table is None else csv.writer(table, lineterminator="\n")
    if writer is not None:
        writer.writerow(["file", "scene", "score", "seconds", *scenes])
    failures = 0
    with tqdm(total=len(paths), unit="file", disable=arguments.quiet or None) as progress:
        for outcome in score_files(paths, model, parameters, batch_size=arguments.batch_size):
            progress.update()
            if isinstance(outcome, Failed):
                failures += 1
                tqdm.write(f"{outcome.path}: {outcome.reason}", file=sys.stderr)
                continue
            row = as_row(outcome, scenes)
            if arguments.json:
                told = dict(list(row["scores"].items())[: parameters.top_k])
                tqdm.write(json.dumps({**row, "scores": told}, ensure_ascii=False))
            elif writer is None:
                tqdm.write(as_text(row, parameters.top_k or 1))
            if writer is not None:
                own = [row[name] for name in ("file", "scene", "score", "seconds")]
                writer.writerow([*own, *(row["scores"][scene] for scene in scenes)])
    return failures


__all__ = ["AUDIO_SUFFIXES", "Failed", "Recording", "Scored", "add_arguments", "as_row", "as_text", "check_output"]
__all__ += ["find_files", "read_recording", "run", "score_files", "tell"]
