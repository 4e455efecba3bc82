"""The folder of a plan whose runs are made up: their results.json and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

from hf_ascdistill.experiments.grid import Table, TeacherKind, load_table, student_name
from hf_ascdistill.experiments.tables import TEACHER, CollectedTable

TABLES = Path(__file__).resolve().parents[2] / "recipes" / "tables"
SEEDS = (0, 1, 2)
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}
DEVICE_OFFSETS = dict(zip(DEVICES, (0.09, 0.04, 0.05, 0.01, 0.0, 0.01, -0.03, -0.04, -0.08), strict=True))


def metrics_around(accuracy: float) -> dict[str, float]:
    per_device = {f"accuracy_{device}": accuracy + offset for device, offset in DEVICE_OFFSETS.items()}
    return {"accuracy": accuracy, "accuracy_unseen": accuracy - 0.05, **per_device}


def write_results(folder: Path, results: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"devices": DEVICES, "groups": GROUPS, **results}))


def write_run(folder: Path, accuracy: float, *, parameters: int = 126_952) -> None:
    metrics = {"epochs": 4, **metrics_around(accuracy)}
    write_results(folder, {"run": folder.name, "complexity": {"parameters": parameters}, "last_epochs": metrics})


def write_ensemble(folder: Path, members: dict[str, float], accuracy: float) -> None:
    scored = {name: metrics_around(value) for name, value in members.items()}
    write_results(folder, {"ensemble": metrics_around(accuracy), "members": scored, "scenes": ["bus"]})


def seed_offset(seed: int) -> float:
    """Runs of seeds 0, 1, 2 lie at -0.004, 0 and 0.004: their standard deviation is 0.004."""
    return 0.004 * (seed - 1)


def write_plan(
    root: Path, tables: tuple[Table, ...], *, teacher: Callable[[TeacherKind], float], student: Callable[..., float]
) -> None:
    """Writes results for all runs of some tables; `student(cell)` and `teacher(kind)` are means over the seeds."""
    for cell in (cell for table in tables for cell in table.cells):
        members = {
            f"{kind.name}-s{seed}": teacher(kind) + seed_offset(seed) for kind in cell.teachers for seed in SEEDS
        }
        for name, accuracy in members.items():
            if not (root / "teachers" / name).exists():
                write_run(root / "teachers" / name, accuracy)
        name = student_name(cell, len(SEEDS))
        if cell.runs == "all" and not (root / "ensembles" / name).exists():
            write_ensemble(root / "ensembles" / name, members, max(members.values()) + 0.02)
        for seed in SEEDS:
            if not (root / "students" / f"{name}-s{seed}").exists():
                write_run(root / "students" / f"{name}-s{seed}", student(cell) + seed_offset(seed))


def paper_table(number: int) -> Table:
    return load_table(TABLES / f"table{number}.yaml")


def entry_of(collected: CollectedTable, row: str, column: str, *, role: str = TEACHER, metric: str = "accuracy"):
    [entry] = [
        entry
        for entry in collected.entries()
        if (entry.row, entry.column, entry.role, entry.metric) == (row, column, role, metric)
    ]
    return entry
