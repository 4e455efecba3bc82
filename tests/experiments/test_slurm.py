"""A plan as SLURM array jobs, with a stand-in for sbatch that runs the lines at once."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ascdistill.experiments.grid import load_table, table_path
from hf_ascdistill.experiments.jobs import PlanSettings, build_plan
from hf_ascdistill.experiments.presets import load_preset
from hf_ascdistill.experiments.slurm import write_slurm

TABLES = Path(__file__).resolve().parents[2] / "recipes" / "tables"
# Runs every line of an array, as SLURM would, and notes how it was called. The programs of the commands are stand-ins:
# they write the files that they are asked for.
SBATCH = """#!/bin/bash
echo "$@" >> {calls}
for argument; do
    case "$argument" in --array=1-*) last=${{argument#--array=1-}};; esac
done
script=${{@: -2:1}} list=${{@: -1}}
for index in $(seq "$last"); do SLURM_ARRAY_TASK_ID=$index bash "$script" "$list" >> {log} || exit 1; done
wc -l < {calls}
"""
PROGRAM = """#!{python}
import pathlib, sys
words = sys.argv
def after(name):
    return words[words.index(name) + 1]
recipe = next(pathlib.Path(word).name for word in words if word.endswith(".py"))
with open({ran!r}, "a") as file:
    file.write(recipe + chr(10))
folder = pathlib.Path(after("--output_dir" if "--output_dir" in words else "--output"))
models = [word for word in words if "/teachers/" in word and word != str(folder)]
name = {{"synthetic_corpus.py": "synthetic.json", "prepare_data.py": "store.json"}}.get(recipe, "results.json")
targets = [folder / name]
if recipe == "cache_logits.py":
    targets = [folder / pathlib.Path(model).name / "meta.json" for model in models]
if recipe == "distill.py":
    first = words.index("--teacher_logits") + 1
    assert all((pathlib.Path(word) / "meta.json").exists() for word in words[first:]), words
for target in targets:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
"""


@pytest.fixture
def plan(tmp_path):
    """The jobs of table 3 at toy scale, below a folder with a space in its name."""
    settings = PlanSettings(str(tmp_path / "my runs"), load_preset(TABLES / "presets" / "toy.yaml"))
    return build_plan([load_table(table_path("3", TABLES))], settings)


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Runs submit.sh; returns the calls of sbatch and the recipes that ran."""
    programs = tmp_path / "programs"
    programs.mkdir()
    names = {name: tmp_path / name for name in ("calls", "log", "ran")}
    program = PROGRAM.format(python=sys.executable, ran=str(names["ran"]))
    texts = {"accelerate": program, "python": program, "sbatch": SBATCH.format(**names)}
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))  # whose folder the array script looks in

    def run(script):
        for path in names.values():
            path.write_text("")
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return names["calls"].read_text().splitlines(), names["ran"].read_text().splitlines()

    return run


def test_array_jobs_run_every_command_of_the_plan_once(plan, submit, tmp_path):
    script = write_slurm(
        plan, tmp_path / "my slurm", recipes="recipes", threads=3, options="--partition=gpu --time='8:00:00'"
    )
    calls, ran = submit(script)
    assert len(ran) == len(plan)
    assert all(job.is_done for job in plan)
    stages = ["corpus", "prepare", "teacher", "logits", "ensemble", "student"]
    for call, stage in zip(calls, stages, strict=True):
        members = [job for job in plan if job.stage == stage]
        assert f"--job-name={stage} --array=1-{len(members)} " in call
        assert "--partition=gpu --time=8:00:00" in call


def test_each_stage_waits_for_those_that_it_needs(plan, submit, tmp_path):
    calls, _ = submit(write_slurm(plan, tmp_path / "slurm", recipes="recipes", threads=1))
    waits = [next((word for word in shlex.split(call) if "afterok" in word), None) for call in calls]
    # job numbers are those of the calls: corpus 1, prepare 2, teacher 3, logits 4, ensemble 5, student 6
    expected = [None, 1, 2, 3, 4, 4]
    assert waits == [number and f"--dependency=afterok:{number}" for number in expected]


def test_finished_jobs_are_skipped(plan, submit, tmp_path):
    script = write_slurm(plan, tmp_path / "slurm", recipes="recipes", threads=1)
    submit(script)
    assert submit(script)[1] == []
    student = next(job for job in plan if job.stage == "student")
    os.unlink(student.done[0])
    assert submit(script)[1] == ["distill.py"]


def test_failing_command_fails_its_task(plan, tmp_path):
    write_slurm(plan, tmp_path / "slurm", recipes="recipes", threads=1)
    (tmp_path / "slurm" / "teacher.txt").write_text("true\ntest -e /nowhere || exit 3\n")
    for index, status in (("1", 0), ("2", 3)):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": index}
        command = ["bash", tmp_path / "slurm" / "array.sh", tmp_path / "slurm" / "teacher.txt"]
        assert subprocess.run(command, env=environment).returncode == status


def test_broken_options_are_refused(plan, tmp_path):
    with pytest.raises(ValueError, match="slurm_options is"):
        write_slurm(plan, tmp_path / "slurm", recipes="recipes", threads=1, options="--time='8")


@pytest.mark.parametrize(
    ("given", "threads"),
    [({}, "3"), ({"SLURM_CPUS_PER_TASK": "8"}, "8"), ({"SLURM_CPUS_PER_TASK": "8", "OMP_NUM_THREADS": "2"}, "2")],
)
def test_a_job_has_the_threads_that_it_is_given(plan, tmp_path, given, threads):
    write_slurm(plan, tmp_path / "slurm", recipes="recipes", threads=3)
    [line] = [line for line in (tmp_path / "slurm" / "array.sh").read_text().splitlines() if line.startswith("export")]
    environment = {"PATH": os.environ["PATH"], **given}
    done = subprocess.run(["bash", "-c", f"{line}; echo $OMP_NUM_THREADS"], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == threads
