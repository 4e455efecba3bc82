"""The plan as a recipe: what it prints, what it runs with real recipes, and that killing it changes nothing."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hf_ascdistill import Plan
from hf_ascdistill.experiments.execution import Outcome

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PRESETS = RECIPES / "tables" / "presets"
KILLS = int(os.environ.get("ASCDISTILL_KILLS", "2"))  # each start takes seconds; five of them on demand
PATIENCE = 300  # seconds
# what two runs of the same plan need not share: times, and what the network was resumed from
OF_ONE_RUN = {"journal.jsonl", "trainer_state.json", ".plan.lock", ".jobs.lock", ".lock"}
CELLS = [
    {"row": "r", "column": "own", "teachers": ["cpr-128k-dirfms"], "runs": "own"},
    {"row": "r", "column": "all", "teachers": ["cpr-128k-dirfms", "passt-s-fms"], "runs": "all"},
]
TABLE = {"title": "Small", "rows": ["r"], "columns": ["own", "all"], "metrics": ["accuracy"], "cells": CELLS}
JOBS = 2 + 4 + 4 + 1 + 4  # data, teachers, logits, an ensemble, students


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    """Arguments of a plan of two kinds of teachers and two seeds, without its output folder."""
    folder = tmp_path_factory.mktemp("small")
    content = yaml.safe_load((PRESETS / "toy.yaml").read_text())
    content["configs"] = {role: [str(PRESETS / name) for name in files] for role, files in content["configs"].items()}
    for name, value in (("small", TABLE), ("two_seeds", {**content, "seeds": [0, 1]})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return ["--tables", str(folder / "small.yaml"), "--preset", str(folder / "two_seeds.yaml"), "--jobs", "2"]


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in OF_ONE_RUN)
    names = {str(path.relative_to(root)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("log/")}


def begun(root: Path) -> int:
    """Returns how often a job of the plan has been started."""
    journal = root / "journal.jsonl"
    return journal.read_text().count('"begun"') if journal.exists() else 0


def wait_for_jobs(root: Path, count: int, plan: subprocess.Popen) -> None:
    """Waits until so many jobs have begun, or the plan has ended."""
    deadline = time.monotonic() + PATIENCE
    while plan.poll() is None and begun(root) < count:
        assert time.monotonic() < deadline, "the plan does not get on"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(small, run_recipe, tmp_path_factory) -> Path:
    """Root of the small plan, run without a stop, with its tables."""
    root = tmp_path_factory.mktemp("plan") / "root"
    run_recipe("plan", *small, "--output_dir", root, "--run")
    run_recipe("collect_tables", "--tables", small[1], "--runs", root)
    return root


def test_small_plan_leaves_all_results(finished):
    results = {str(path.parent.relative_to(finished)) for path in finished.glob("*/*/results.json")}
    runs = [f"teachers/{kind}-s{seed}" for kind in ("cpr-128k-dirfms", "passt-s-fms") for seed in (0, 1)]
    names = ("cpr-128k-dirfms-x1", "cpr-128k-dirfms+passt-s-fms-x2")
    runs += [f"students/{name}-s{seed}" for name in names for seed in (0, 1)]
    assert results == {*runs, f"ensembles/{names[1]}"}
    student = json.loads((finished / "students" / f"{names[1]}-s1" / "results.json").read_text())
    assert [teacher["name"] for teacher in student["teachers"]] == [Path(run).name for run in runs[:4]]


def test_small_plan_ends_with_its_tables(finished):
    assert any(path.suffix == ".csv" for path in (finished / "tables").iterdir())


def test_finished_plan_does_nothing_more(finished, small, run_recipe, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if "lock" not in path.name}
    run_recipe("plan", *small, "--output_dir", finished, "--run")
    assert capsys.readouterr().out.startswith(f"{JOBS} of {JOBS} jobs are done.")
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if "lock" not in path.name}
    assert after == before


def test_summary_of_a_started_plan_says_what_is_left(finished, small, run_recipe, capsys, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    run_recipe("plan", *small, "--output_dir", finished)
    assert "left:" not in capsys.readouterr().out
    (finished / "students" / "cpr-128k-dirfms-x1-s0" / "results.json").rename(root / "kept")
    try:
        run_recipe("plan", *small, "--output_dir", finished)
        assert "left: 1 jobs" in capsys.readouterr().out
    finally:
        (root / "kept").rename(finished / "students" / "cpr-128k-dirfms-x1-s0" / "results.json")


def test_killed_plan_ends_with_the_same_bytes(finished, small, run_recipe):
    reference, root = finished.with_name("reference"), finished
    root.rename(reference)
    chance = random.Random(KILLS)
    command = [sys.executable, str(RECIPES / "plan.py"), *small, "--output_dir", str(root), "--run"]
    try:
        for _ in range(KILLS):
            with open(root.with_name("plan.log"), "a") as log:
                target = begun(root) + chance.randint(1, JOBS // (KILLS + 1))
                plan = subprocess.Popen(command, stdout=log, stderr=log)
                wait_for_jobs(root, target, plan)
                time.sleep(chance.uniform(0, 1))
                assert plan.poll() is None, root.with_name("plan.log").read_text()
                plan.kill()
                plan.wait()
        run_recipe("plan", *small, "--output_dir", root, "--run")
        run_recipe("collect_tables", "--tables", small[1], "--runs", root)
        expected, found = contents(reference), contents(root)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
    finally:
        shutil.rmtree(root, ignore_errors=True)
        reference.rename(root)


def test_commands_are_printed_in_order_with_a_summary(small, run_recipe, tmp_path, capsys):
    run_recipe("plan", *small, "--output_dir", tmp_path / "root")
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith(("python ", "accelerate launch --num_processes 1 "))]
    assert len(commands) == JOBS
    assert "synthetic_corpus.py" in commands[0] and "distill.py" in commands[-1]
    assert any(line.startswith("4 teachers of 2 kinds, 4 students, 7 other jobs") for line in lines)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("outcome", "status", "text"),
    [
        (
            Outcome(finished=["a"], failed={"teachers/b": "ValueError: no"}, blocked=["c"]),
            1,
            f"1 of {JOBS} jobs are done, 1 failed, 1 wait for them:\n"
            "  teachers/b: ValueError: no\n    {}/log/teachers/b.log",
        ),
        (Outcome(interrupted=["a"], signal=2), 130, "1 interrupted; run the same command again to go on."),
    ],
)
def test_unfinished_plan_says_so_and_exits_with_an_error(
    small, run_recipe, tmp_path, monkeypatch, capsys, outcome, status, text
):
    monkeypatch.setattr(Plan, "run", lambda *args, **kwargs: outcome)
    with pytest.raises(SystemExit) as stop:
        run_recipe("plan", *small, "--output_dir", tmp_path, "--run")
    assert stop.value.code == status
    assert text.format(tmp_path) in capsys.readouterr().out


def test_another_plan_in_the_same_root_is_refused(finished, small, run_recipe):
    with pytest.raises(ValueError, match="holds another plan: .*seeds was"):
        run_recipe("plan", *small[:2], "--preset", "toy", "--output_dir", finished, "--run")


def test_slurm_scripts_are_written_with_the_plan(small, run_recipe, tmp_path, capsys):
    folder = tmp_path / "slurm"
    run_recipe("plan", *small, "--output_dir", tmp_path / "root", "--slurm", folder, "--slurm_options=--time=1:00")
    assert "submit with: bash " in capsys.readouterr().out
    assert "--time=1:00" in (folder / "submit.sh").read_text()
    assert len((folder / "teacher.txt").read_text().splitlines()) == 4
    assert (tmp_path / "root" / "plan.json").exists()


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--passt_weights", "nowhere"]])
def test_impossible_run_is_refused_before_anything_starts(small, run_recipe, tmp_path, arguments):
    with pytest.raises((ValueError, FileNotFoundError), match="jobs is 0|passt_weights is 'nowhere'"):
        run_recipe("plan", *small[:4], *arguments, "--output_dir", tmp_path / "root", "--run")
    assert not (tmp_path / "root" / "plan.json").exists()
