"""What the Space shows of a recording, without a page: scores, pictures, and what its models cost."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..complexity import check_budget, measure_complexity
from ..ensembles import named_by_folder
from ..pictures import require_matplotlib
from .handler import SHORTEST_WINDOW, EndpointHandler, Limits, TooLarge, read_audio, resample
from .windows import WindowScores, predict_windows

MODELS_VARIABLE = "ASCDISTILL_MODELS"
NAME = "the recording"  # in messages to whoever uploaded it
TICKS = (100, 500, 1_000, 2_000, 5_000, 10_000)  # Hz
DARKEST, BRIGHTEST = 1.0, 99.8  # percentiles of the log-mel between which its colours lie
# Of the picture, in inches: all of it, the log-mel, a scene, what is around each.
WIDTH, MEL_HEIGHT, ROW_HEIGHT, FRAME_HEIGHT = 11, 1.9, 0.17, 0.3
GREEN, RED, GREY = "#2e7d5b", "#b3402e", "#5b6472"
PILL = (
    '<span style="display:inline-block;margin:2px 6px 2px 0;padding:3px 11px;border-radius:99px;'
    'font-size:0.9em;white-space:nowrap;color:#fff;background:{colour}">{text}</span>'
)


@dataclass(frozen=True)
class Hearing:
    """What a model made of a recording.

    Args:
        scores (`Mapping[str, float]`): probability of each scene, their mean over the windows.
        windows ([`WindowScores`]): scores of the windows, `(N, C)`, and where they begin.
        log_mel (`np.ndarray`): what the model saw, normalised, float32 `(M, F)`.
        frequencies (`tuple[float, float]`): edges of the mel bank, Hz.
        seconds (`float`): length of `log_mel`.
    """

    scores: Mapping[str, float]
    windows: WindowScores
    log_mel: np.ndarray
    frequencies: tuple[float, float]
    seconds: float


def load_students(names: Sequence[str], limits: Limits) -> dict[str, EndpointHandler]:
    """Loads the models that a page offers, with this package's code, by the names of their folders or repositories.

    Args:
        names (`Sequence[str]`): folders or Hub names.
        limits ([`Limits`]): size and length that a recording may have.

    Raises:
        ValueError: no model is named, or two have the same name.
        FileNotFoundError: a model is not there; it is named.
    """
    if not names:
        raise ValueError(f"no model is named; set {MODELS_VARIABLE} to folders or Hub names with commas between them.")
    return {name: _load_student(str(path), limits) for name, path in named_by_folder(names).items()}


def _load_student(path: str, limits: Limits) -> EndpointHandler:
    try:
        return EndpointHandler(path, limits, trust_remote_code=False)
    except OSError as error:  # of a Hub name it says no more than that there is no connection
        raise FileNotFoundError(f"the model {path} is neither a folder of a model nor on the Hub: {error}") from error


def named_models(default: Sequence[str]) -> list[str]:
    """Returns the folders or Hub names in the variable ASCDISTILL_MODELS, comma-separated; where unset, `default`."""
    text = os.environ.get(MODELS_VARIABLE)
    return list(default) if text is None else [name.strip() for name in text.split(",") if name.strip()]


def hear(student: EndpointHandler, path: str | Path) -> Hearing:
    """Has a model hear an audio file, in windows of 1 s every 0.5 s.

    Args:
        student ([`EndpointHandler`]): the model with its front-end and limits.
        path (`str | Path`): audio file of any rate and up to six channels, which are averaged.

    Raises:
        BadRequest: the file is no audio, damaged, too large, too long or too short; the message says so.
    """
    path, extractor, limits = Path(path), student.extractor, student.limits
    if path.stat().st_size > limits.max_bytes:
        raise TooLarge(f"{NAME} has {path.stat().st_size:,} bytes; expected at most {limits.max_bytes:,}.")
    samples, own_rate = read_audio(path.read_bytes(), name=NAME, limits=limits)
    rate = extractor.sampling_rate
    samples = resample(samples, own_rate, rate)
    windows = predict_windows(student.model, extractor, samples, sampling_rate=rate)
    names = student.model.config.id2label
    missing = max(0, round(SHORTEST_WINDOW * rate) - len(samples))
    seen = torch.from_numpy(np.pad(samples, (0, missing), mode="reflect"))  # as the shortest window is mirrored
    return Hearing(
        scores={names[index].replace("_", " "): float(score) for index, score in enumerate(windows.mean)},
        windows=windows,
        log_mel=extractor.log_mel(seen[None])[0].numpy(),
        frequencies=(extractor.fmin, extractor.fmax),
        seconds=len(seen) / rate,
    )


def draw_hearing(hearing: Hearing) -> Any:
    """Draws the log-mel and, of a recording of several windows, the scores of each scene over the same time.

    Args:
        hearing ([`Hearing`]): what a model made of a recording.

    Returns:
        `matplotlib.figure.Figure`: the picture.

    Raises:
        ImportError: matplotlib is absent; the extra that brings it is named.
    """
    is_long = len(hearing.windows.times) > 1
    heights = [MEL_HEIGHT, ROW_HEIGHT * len(hearing.scores)] if is_long else [MEL_HEIGHT]
    size = (WIDTH, sum(heights) + FRAME_HEIGHT * (len(heights) + 1))
    figure = require_matplotlib().Figure(figsize=size, dpi=140, layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_log_mel(axes[0], hearing)
    if is_long:
        _draw_scenes(axes[1], hearing)
    axes[-1].set_xlabel("time (s)", fontsize=8)
    for part in axes:
        part.tick_params(labelsize=8, colors=GREY)
        part.spines[:].set_color("#d5d9df")
    return figure


def _draw_log_mel(axes: Any, hearing: Hearing) -> None:
    darkest, brightest = np.percentile(hearing.log_mel, (DARKEST, BRIGHTEST))
    extent = (0, hearing.seconds, 0, 1)  # from the lowest to the highest mel
    colours = {"cmap": "magma", "vmin": darkest, "vmax": brightest}
    axes.imshow(hearing.log_mel, origin="lower", aspect="auto", extent=extent, **colours)
    lowest, highest = (np.log1p(edge / 700) for edge in hearing.frequencies)
    places = {hertz: (np.log1p(hertz / 700) - lowest) / (highest - lowest) for hertz in TICKS}
    places = {hertz: place for hertz, place in places.items() if 0 <= place <= 1}
    axes.set_yticks(list(places.values()), [f"{hertz / 1000:g}" for hertz in places])
    axes.set_ylabel("frequency (kHz)", fontsize=8)
    axes.set_title("What the model sees: log-mel", loc="left", fontsize=9)


def _draw_scenes(axes: Any, hearing: Hearing) -> None:
    windows, names = hearing.windows, list(hearing.scores)
    centres = windows.times + windows.window / 2
    edges = np.concatenate([[0], (centres[1:] + centres[:-1]) / 2, [hearing.seconds]])
    order = windows.mean.argsort(kind="stable")  # the first row is the lowest
    axes.pcolormesh(edges, np.arange(len(names) + 1), windows.scores.T[order], cmap="Blues", vmin=0, vmax=1)
    axes.set_yticks(np.arange(len(names)) + 0.5, [names[index] for index in order])
    axes.tick_params(axis="y", length=0)
    axes.set_title("What it hears: the darker, the surer", loc="left", fontsize=9)


def describe_complexity(student: EndpointHandler) -> str:
    """Says what a model costs and whether it keeps within the DCASE budget, as a row of HTML badges.

    Args:
        student ([`EndpointHandler`]): the model with its front-end.
    """
    extractor = student.extractor
    clip = extractor.log_mel(torch.zeros(1, extractor.sampling_rate))  # (1, M, F)
    complexity = measure_complexity(student.model, clip.shape)
    verdict = check_budget(complexity)
    badges = {
        f"{complexity.parameters:,} parameters": GREY,
        f"{complexity.macs / 1e6:.1f} million MACs per second": GREY,
        f"{complexity.int8_bytes / 1e3:.1f} kB as int8": GREY,
        verdict.text.partition(":")[0]: GREEN if verdict.fits else RED,
    }
    return "".join(PILL.format(text=text, colour=colour) for text, colour in badges.items())


__all__ = ["Hearing", "describe_complexity", "draw_hearing", "hear", "load_students", "named_models"]
