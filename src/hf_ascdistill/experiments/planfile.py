"""What a plan leaves in its root beside its results: plan.json, which must not change, and the journal of its jobs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from ..arguments import read_yaml_defaults
from ..files import write_json
from .grid import Table
from .jobs import Job, PlanSettings

PLAN_NAME = "plan.json"
JOURNAL_NAME = "journal.jsonl"
FORMAT = 1
SHOWN_DIFFERENCES = 6
BEGUN, FINISHED, FAILED, STOPPED = "begun", "finished", "failed", "stopped"


def describe_plan(
    tables: Sequence[Table], settings: PlanSettings, jobs: Sequence[Job], *, threads: int
) -> dict[str, Any]:
    """Returns all that decides a plan's numbers, as plan.json holds it.

    Args:
        tables (`Sequence[Table]`): what the plan makes.
        settings ([`PlanSettings`]): data, scale and folders.
        jobs (`Sequence[Job]`): from [`build_plan`].
        threads (`int`): CPU threads of a job.
    """
    preset = {name: value for name, value in asdict(settings.preset).items() if name != "configs"}
    inputs = ("data", "impulse_responses", "resample_impulse_responses", "weights")
    files = {path for job in jobs for path in job.config}
    described = {
        "format": FORMAT,
        "seeds": list(settings.preset.seeds),
        "threads": threads,
        "preset": preset,
        **{name: getattr(settings, name) for name in inputs},
        "tables": [table.name for table in tables],
        "config_files": {_file_name(path): read_yaml_defaults([path]) for path in sorted(files)},
        "jobs": {
            job.name: {
                "recipe": job.recipe,
                "config": [_file_name(path) for path in job.config],
                "options": list(job.options),
            }
            for job in jobs
        },
    }
    return json.loads(json.dumps(described))  # tuples become lists, as they are read


def _file_name(path: str) -> str:
    """Names a YAML file whatever folder the plan is started in."""
    return "/".join(Path(path).parts[-2:])


def read_plan(root: str | Path) -> dict[str, Any] | None:
    """Reads the plan of a root, `None` where there is none.

    Args:
        root (`str | Path`): folder of a plan.

    Raises:
        ValueError: plan.json is damaged or of another version.
    """
    path = Path(root) / PLAN_NAME
    if not path.exists():
        return None
    try:
        plan = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it: finished jobs stay finished.") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise ValueError(f"{path} is no plan of format {FORMAT}; choose another --output_dir.")
    return plan


def merge_plan(root: str | Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Checks that a root holds the same plan, perhaps for other tables; returns the plan of all of them.

    Args:
        root (`str | Path`): folder of the plan.
        wanted (`Mapping[str, Any]`): from [`describe_plan`].

    Raises:
        ValueError: the root's plan is another one; what differs is named.
    """
    present = read_plan(root)
    if present is None:
        return dict(wanted)
    settings = ({key: plan[key] for key in plan if key not in ("jobs", "tables")} for plan in (present, wanted))
    differences = sorted(_differences(*settings)) or sorted(_differences(present["jobs"], wanted["jobs"], "jobs"))
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        text = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(
            f"{root} holds another plan: {text}. Choose another --output_dir, or start it as before, from the same "
            "folder."
        )
    joined = {name: {**present[name], **wanted[name]} for name in ("config_files", "jobs")}
    tables = list(dict.fromkeys([*present["tables"], *wanted["tables"]]))
    return {**wanted, **joined, "tables": tables}


def save_plan(root: str | Path, plan: Mapping[str, Any]) -> None:
    """Writes plan.json, whole or not at all, unless it holds this very plan.

    Args:
        root (`str | Path`): folder of the plan.
        plan (`Mapping[str, Any]`): from [`merge_plan`].
    """
    if read_plan(root) != plan:
        write_json(Path(root) / PLAN_NAME, plan)


def _differences(present: Any, wanted: Any, name: str = "") -> list[str]:
    """Lists the values that differ; of jobs and YAML files only those that are in both."""
    if isinstance(present, dict) and isinstance(wanted, dict):
        both = present.keys() & wanted.keys()
        keys = both if name in ("jobs", "config_files") else present.keys() | wanted.keys()
        return [
            text
            for key in keys
            for text in _differences(present.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    if present == wanted:
        return []
    if isinstance(present, list) and isinstance(wanted, list):
        return [f"{name} was '{_unlike(present, wanted)}', now '{_unlike(wanted, present)}'"]
    return [f"{name} was {present!r}, now {wanted!r}"]


def _unlike(items: Sequence[Any], others: Sequence[Any]) -> str:
    """Returns the part of a command line in which it differs from another, with the option's name."""
    unlike = [index for index, item in enumerate(items) if index >= len(others) or others[index] != item]
    if not unlike:
        return "..."
    first = max(unlike[0] - 1, 0)
    return " ".join(map(str, items[first : unlike[-1] + 1]))


class Journal:
    """How long the jobs of a plan took, one line for each beginning and end; results never depend on it.

    Args:
        root (`str | Path`): folder of the plan.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root) / JOURNAL_NAME

    def write(self, job: Job, event: str, seconds: float | None = None) -> None:
        """Appends a line.

        Args:
            job ([`Job`]): whose.
            event (`str`): `begun`, `finished`, `failed` or `stopped`.
            seconds (`float`, *optional*): how long it ran.
        """
        entry = {"job": job.name, "like": job.like, "event": event, "time": round(time.time())}
        if seconds is not None:
            entry["seconds"] = round(seconds, 2)
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def measured(self) -> dict[str, float]:
        """Returns the mean seconds of jobs alike that ran from beginning to end at one go."""
        begun: dict[str, int] = {}
        seconds: dict[str, list[float]] = {}
        for entry in self._entries():
            if entry["event"] == BEGUN:
                begun[entry["job"]] = begun.get(entry["job"], 0) + 1
            elif entry["event"] == FINISHED and begun.get(entry["job"]) == 1:
                seconds.setdefault(entry["like"], []).append(entry["seconds"])
        return {like: mean(values) for like, values in seconds.items()}

    def _entries(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_text().splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:  # the last line of a plan that was killed while it wrote
                continue
        return [entry for entry in entries if isinstance(entry, dict) and {"job", "like", "event"} <= entry.keys()]


__all__ = [
    "BEGUN",
    "FAILED",
    "FINISHED",
    "STOPPED",
    "Journal",
    "describe_plan",
    "merge_plan",
    "read_plan",
    "save_plan",
]
