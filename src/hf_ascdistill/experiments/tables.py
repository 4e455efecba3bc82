"""The accuracies of a table of the paper, gathered from the folders of the runs that made them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ..metrics import summarize_runs
from .grid import OWN, Cell, Table, student_name

SEEDS = (0, 1, 2)  # the paper's three independent runs
RESULTS_NAME = "results.json"
TEACHER, STUDENT, ENSEMBLE = "teacher", "student", "ensemble"
MEND = "Remove the file and run the plan again, which repeats only what is not finished"


@dataclass(frozen=True)
class RunResult:
    """What one finished run adds to a table.

    Args:
        folder (`str`): its folder below the plan's root.
        metrics (`Mapping[str, float]`): shares 0..1, the mean of its last epochs.
        devices (`tuple[str, ...]`): devices of the evaluate list.
        groups (`Mapping[str, tuple[str, ...]]`): devices of each group.
        parameters (`int`, *optional*): size of the model; unset for an ensemble and its members.
    """

    folder: str
    metrics: Mapping[str, float]
    devices: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    parameters: int | None = None


@dataclass(frozen=True)
class Runs:
    """The runs behind one accuracy of a table.

    Args:
        finished (`tuple[RunResult, ...]`): those that are there.
        expected (`int`): how many there are when all are finished.
        missing (`tuple[str, ...]`): folders, below the plan's root, that hold no results yet.
    """

    finished: tuple[RunResult, ...]
    expected: int
    missing: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return len(self.finished) == self.expected

    def summary(self, metric: str) -> tuple[float | None, float | None]:
        """Returns mean and sample standard deviation (`None` with one run) of a metric over the finished runs."""
        values = [{metric: run.metrics[metric]} for run in self.finished if metric in run.metrics]
        if not values:
            return None, None
        summary = summarize_runs(values)[metric]
        return summary["mean"], summary["std"]


@dataclass(frozen=True)
class CollectedCell:
    """A cell of a table with the runs of its teachers and students.

    Args:
        cell ([`Cell`]): what the plan says of it.
        runs (`Mapping[str, Runs]`): of `teacher`, `student` and, where one ensemble of all runs teaches, `ensemble`;
            the teachers are then its members, scored with their final weights as the ensemble is.
    """

    cell: Cell
    runs: Mapping[str, Runs]

    @property
    def is_complete(self) -> bool:
        return all(runs.is_complete for runs in self.runs.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """Folders that hold no results yet, each once."""
        return tuple(dict.fromkeys(folder for runs in self.runs.values() for folder in runs.missing))


@dataclass(frozen=True)
class Entry:
    """One accuracy of a table: a line of its CSV file.

    Args:
        row (`str`): row of the table.
        column (`str`): column of the table.
        role (`str`): teacher, student or ensemble.
        metric (`str`): `accuracy` or `accuracy_unseen`.
        runs ([`Runs`]): what it is the mean of.
        paper (`float`, *optional*): the paper's number in percent.
    """

    row: str
    column: str
    role: str
    metric: str
    runs: Runs
    paper: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean over the finished runs, a share 0..1."""
        return self.runs.summary(self.metric)[0]

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the finished runs, as a share."""
        return self.runs.summary(self.metric)[1]

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's in points, as the rounded numbers show it; `None` while a run is missing."""
        if self.paper is None or not self.runs.is_complete:
            return None
        return round(round(100 * self.mean, 2) - self.paper, 2) + 0.0  # no -0.0


@dataclass(frozen=True)
class CollectedTable:
    """A table of the paper with the runs of its cells.

    Args:
        table ([`Table`]): the grid and the paper's numbers.
        cells (`tuple[CollectedCell, ...]`): by row, then column; where the paper's table is blank there is none.
        seeds (`tuple[int, ...]`): seeds of the runs.
    """

    table: Table
    cells: tuple[CollectedCell, ...]
    seeds: tuple[int, ...]

    @property
    def finished(self) -> list[RunResult]:
        """Every finished run of the table, with repetitions where cells share one."""
        return [run for cell in self.cells for runs in cell.runs.values() for run in runs.finished]

    def entries(self) -> Iterator[Entry]:
        """Yields every accuracy of the table: by metric, row, column and role."""
        for metric in self.table.metrics:
            for collected in self.cells:
                cell, numbers = collected.cell, collected.cell.paper.get(metric, {})
                teacher = ENSEMBLE if ENSEMBLE in collected.runs else TEACHER  # what the paper would call the teacher
                paper = {teacher: numbers.get(TEACHER), STUDENT: numbers.get(STUDENT)}
                for role, runs in collected.runs.items():
                    yield Entry(cell.row, cell.column, role, metric, runs, paper=paper.get(role))


def collect_table(table: Table, root: str | Path, *, seeds: Sequence[int] = SEEDS) -> CollectedTable:
    """Gathers the accuracies of a table's runs; a run without `results.json` is missing.

    Args:
        table ([`Table`]): what [`load_table`] returns.
        root (`str | Path`): the plan's root, with `teachers/`, `students/` and `ensembles/`.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): seeds of the runs.

    Returns:
        [`CollectedTable`]: its cells with the runs that are there and the names of those that are not.

    Raises:
        FileNotFoundError: there is no such root.
        ValueError: a `results.json` is damaged or not of such a run, or runs were evaluated on different devices.
    """
    root, seeds = Path(root), tuple(seeds)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; give the folder that the plan runs in.")
    order = {(row, column): None for row in table.rows for column in table.columns}
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    collected = CollectedTable(
        table,
        tuple(
            collect_cell(cells[place], root, seeds=seeds, metrics=table.metrics) for place in order if place in cells
        ),
        seeds,
    )
    check_same_devices(collected.finished, root)
    return collected


def collect_cell(cell: Cell, root: Path, *, seeds: Sequence[int], metrics: Sequence[str]) -> CollectedCell:
    """Gathers the runs of one cell."""
    name = student_name(cell, len(seeds))
    teachers = [f"{kind.name}-s{seed}" for kind in cell.teachers for seed in seeds]
    students = read_runs(root, [f"students/{name}-s{seed}" for seed in seeds], metrics=metrics)
    if cell.runs == OWN:
        runs = {TEACHER: read_runs(root, [f"teachers/{teacher}" for teacher in teachers], metrics=metrics)}
    else:
        runs = read_ensemble(root, f"ensembles/{name}", members=teachers, metrics=metrics)
    return CollectedCell(cell, {**runs, STUDENT: students})


def read_runs(root: Path, folders: Sequence[str], *, metrics: Sequence[str]) -> Runs:
    """Reads the results of training runs."""
    found = {folder: read_json(root / folder / RESULTS_NAME) for folder in folders}
    finished = []
    for folder, results in found.items():
        if results is None:
            continue
        path = root / folder / RESULTS_NAME
        values = checked_metrics(results, ("last_epochs",), path=path, names=metrics)
        parameters = results.get("complexity", {}).get("parameters")
        finished.append(RunResult(folder, values, **read_devices(results, path), parameters=parameters))
    return Runs(tuple(finished), len(folders), tuple(folder for folder in folders if found[folder] is None))


def read_ensemble(root: Path, folder: str, *, members: Sequence[str], metrics: Sequence[str]) -> dict[str, Runs]:
    """Reads the accuracy of an ensemble and of its members, all of them scored with their final weights."""
    path = root / folder / RESULTS_NAME
    results = read_json(path)
    if results is None:
        return {TEACHER: Runs((), len(members), (folder,)), ENSEMBLE: Runs((), 1, (folder,))}
    values = checked_metrics(results, ("ensemble",), path=path, names=metrics)
    found = results.get("members")
    if not isinstance(found, dict) or set(found) != set(members):
        raise ValueError(f"{path} has the members {sorted(found or ())}, expected {sorted(members)}. {MEND}.")
    devices = read_devices(results, path)
    scored = {name: checked_metrics(results, ("members", name), path=path, names=metrics) for name in members}
    single = tuple(RunResult(folder, scored[name], **devices) for name in members)
    return {TEACHER: Runs(single, len(members)), ENSEMBLE: Runs((RunResult(folder, values, **devices),), 1)}


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; `None` where there is no file."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged: {error}. {MEND}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected an object with results. {MEND}.")
    return value


def checked_metrics(results: Mapping, keys: Sequence[str], *, path: Path, names: Sequence[str]) -> dict[str, float]:
    """Returns the metrics that lie under `keys` in a results file, with those in `names` checked."""
    where, metrics = ".".join(keys), results
    for key in keys:
        metrics = metrics.get(key) if isinstance(metrics, Mapping) else None
    if not isinstance(metrics, Mapping):
        raise ValueError(f"{path} holds no {where}, so it is not the result of such a run. {MEND}.")
    for name, value in metrics.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if name.startswith("accuracy") and not (is_number and 0 <= value <= 1):
            raise ValueError(f"{path} holds {where}.{name} = {value!r}, expected a share from 0 to 1. {MEND}.")
    for name in names:
        if name not in metrics:
            raise ValueError(
                f"{path} holds no {name} in {where}: nothing of that kind is in the corpus that it was evaluated on. "
                "Leave out the tables that need it."
            )
    return dict(metrics)


def read_devices(results: Mapping, path: Path) -> dict[str, Any]:
    """Returns the devices and groups that a run was evaluated on."""
    devices, groups = results.get("devices"), results.get("groups")
    if not isinstance(devices, list) or not isinstance(groups, dict):
        raise ValueError(f"{path} does not say its devices and groups, so it is not the result of a run. {MEND}.")
    return {"devices": tuple(devices), "groups": {name: tuple(members) for name, members in groups.items()}}


def check_same_devices(finished: Sequence[RunResult], root: Path) -> None:
    """Raises if runs of one table were evaluated on different corpora, as far as their devices tell."""
    for run in finished:
        first = finished[0]
        if (run.devices, run.groups) != (first.devices, first.groups):
            paths = [root / folder / RESULTS_NAME for folder in (first.folder, run.folder)]
            raise ValueError(
                f"{paths[0]} was evaluated on the devices {list(first.devices)}, {paths[1]} on {list(run.devices)} or "
                "on other groups of them; one table takes runs of one corpus."
            )


def planned_seeds(root: str | Path) -> tuple[int, ...]:
    """Returns the seeds of the plan whose `plan.json` lies in a folder, the paper's three where there is none.

    Args:
        root (`str | Path`): the plan's root.

    Returns:
        `tuple[int, ...]`: seeds of the runs.

    Raises:
        ValueError: `plan.json` is damaged or holds no seeds.
    """
    path = Path(root) / "plan.json"
    plan = read_json(path)
    if plan is None:
        return SEEDS
    seeds = plan.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"{path} holds the seeds {seeds!r}, expected a list of integers; write the plan again.")
    return tuple(seeds)


__all__ = [
    "ENSEMBLE",
    "SEEDS",
    "STUDENT",
    "TEACHER",
    "CollectedCell",
    "CollectedTable",
    "Entry",
    "RunResult",
    "Runs",
    "collect_table",
    "planned_seeds",
]
