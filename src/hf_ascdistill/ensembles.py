"""Ensembles: the accuracy of the mean of many teachers' logits, beside that of each member."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from .data.columns import DEVICE_IDS
from .data.logits import ClipNames, LogitsSet, check_finished, load_logits
from .evaluation import accuracy_table, evaluate_logits, usual_groups
from .files import write_json
from .pictures import draw_device_accuracy
from .teachers import align_logits

RESULTS_NAME = "results.json"
PICTURE_NAME = "devices.png"


def named_by_folder(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Returns the paths by the names of their folders.

    Args:
        paths (`Sequence[str | Path]`): folders of runs or of logit sets; a Hub name counts as a path.

    Raises:
        ValueError: two have the same name; both are named.
    """
    named: dict[str, Path] = {}
    for path in map(Path, paths):
        name = Path(os.path.abspath(path)).name
        if name in named:
            raise ValueError(
                f"{named[name]} and {path} are both named {name}, so that one of them would be lost; name each once, "
                "or rename one of the folders."
            )
        named[name] = path
    return named


def finished_sets(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Returns the folders of logit sets by their names, after a look whether all of them are finished.

    Args:
        paths (`Sequence[str | Path]`): folders written by [`predict_logits`].

    Raises:
        ValueError: two have the same name; both are named.
        FileNotFoundError: a folder holds no finished set.
    """
    named = named_by_folder(paths)
    for path in named.values():
        check_finished(path)
    return named


def ensemble_metrics(
    sets: Mapping[str, LogitsSet | str | Path],
    clips: Dataset,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    allow_extra: bool = False,
) -> dict[str, Any]:
    """Evaluates an ensemble, the mean of its members' raw logits (paper, section 5), and each member; no model runs.

    Args:
        sets (`Mapping[str, LogitsSet | str | Path]`): the members' logits of these clips, in any order, by name; those
            given as folders are loaded one by one.
        clips (`datasets.Dataset`): clips with `labels` and `device_ids`; of a prepared store no audio is read.
        groups (`Mapping[str, Sequence[str]]`, *optional*): devices of each group; unset: TAU22's groups where the
            devices are TAU22's.
        allow_extra (`bool`, *optional*, defaults to `False`): the sets may hold clips that the dataset lacks.

    Returns:
        `dict`: `ensemble`, the metrics of [`evaluate_clips`]; `members`, the same for each name; `scenes`, `devices`
        and `groups`; `teachers`, the identity of each member.

    Raises:
        ValueError: there are no sets, a clip has no logits, or a set is of other clips, classes or audio.
    """
    if not sets:
        raise ValueError("an ensemble needs at least one logits set; none was given.")
    names, devices = ClipNames(clips), tuple(clips.features[DEVICE_IDS].names)
    groups = usual_groups(devices) if groups is None else groups
    total, members, teachers = np.zeros((len(clips), len(names.scenes))), {}, []
    for name, logits in sets.items():
        logits = logits if isinstance(logits, LogitsSet) else load_logits(logits)
        member = align_logits(logits, names, allow_extra=allow_extra)
        members[name] = evaluate_logits(member.logits, clips, groups=groups)
        total += member.logits
        teachers += member.members
    return {
        "ensemble": evaluate_logits((total / len(sets)).astype(np.float32), clips, groups=groups),
        "members": members,
        "scenes": list(names.scenes),
        "devices": list(devices),
        "groups": {group: list(of_group) for group, of_group in groups.items()},
        "teachers": teachers,
    }


def members_on_average(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns each accuracy as the mean over the members, what one teacher of the ensemble would give."""
    members = list(results["members"].values())
    return {
        metric: statistics.fmean(member[metric] for member in members)
        for metric in results["ensemble"]
        if metric not in ("clips", "correct")
    }


def ensemble_table(results: Mapping[str, Any]) -> str:
    """Returns a Markdown table: accuracy over all, real, seen and unseen devices of members and ensemble, in percent.

    Args:
        results (`Mapping`): what [`ensemble_metrics`] returns.
    """
    rows = dict(results["members"])
    rows[f"the {len(rows)} on average"] = members_on_average(results)
    rows["ensemble (mean of raw logits)"] = results["ensemble"]
    return accuracy_table(rows)


def write_ensemble(results: Mapping[str, Any], folder: str | Path, *, picture: bool = True) -> None:
    """Writes `devices.png`, and then `results.json`; only the main process writes.

    Args:
        results (`Mapping`): what [`ensemble_metrics`] returns, and more.
        folder (`str | Path`): where they go.
        picture (`bool`, *optional*, defaults to `True`): draw the members on average and the ensemble per device.

    Raises:
        ImportError: a picture is wanted and matplotlib is absent.
    """
    if not PartialState().is_main_process:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if picture:
        average = {"run": "members on average", "last_epochs": members_on_average(results)}
        bars = [average, {"run": "ensemble", "last_epochs": results["ensemble"]}]
        draw_device_accuracy(bars, folder / PICTURE_NAME, devices=results["devices"], groups=results["groups"])
    write_json(folder / RESULTS_NAME, results)  # last: an ensemble that has it is finished


def finished_ensemble(folder: str | Path, configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the results of an ensemble that is finished, `None` for one that is not.

    Args:
        folder (`str | Path`): where [`write_ensemble`] wrote to.
        configuration (`Mapping[str, Any]`): what is to be evaluated, as JSON holds it.

    Raises:
        ValueError: `results.json` is damaged, or holds the results of another configuration.
    """
    path = Path(folder) / RESULTS_NAME
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and the ensemble is evaluated again.") from error
    present = results.get("configuration", {})
    differing = [
        f"{name} was {present.get(name)!r}, now {value!r}"
        for name, value in configuration.items()
        if present.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{folder} holds the results of another ensemble: {'; '.join(differing)}. Choose another --output, or "
            "remove this one."
        )
    return results


def ensemble_summary(results: Mapping[str, Any], folder: str | Path) -> str:
    """Returns the table of an ensemble and where its results are, to be printed."""
    return f"{ensemble_table(results)}\nresults: {Path(folder) / RESULTS_NAME}"


__all__ = [
    "ensemble_metrics",
    "ensemble_summary",
    "ensemble_table",
    "finished_ensemble",
    "finished_sets",
    "members_on_average",
    "named_by_folder",
    "write_ensemble",
]
