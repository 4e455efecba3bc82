"""How a plan is run: order, what is skipped, failures, signals, and plans that are killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_ascdistill.experiments.execution import Machine, as_duration, locked_root, run_plan
from hf_ascdistill.experiments.jobs import Job
from hf_ascdistill.experiments.planfile import Journal

HERE = str(Path(__file__).parent)
PATIENCE = 120  # seconds until a test gives up


@pytest.fixture
def job(tmp_path):
    """Makes a job of the stub recipe: `job("a", "sleep=1", needs=["b"])`."""

    def make(name, *orders, needs=(), stage="teacher"):
        done = str(tmp_path / "out" / name)
        return Job(name, stage, "stub.py", (done, *orders), done=(done,), needs=tuple(needs))

    return make


@pytest.fixture
def run(tmp_path):
    """Runs jobs; the lines of the report are in `run.lines`."""

    def execute(*jobs, at_a_time=1, gpus=()):
        execute.lines = []
        machine = Machine(HERE, at_a_time, threads=1, gpus=gpus)
        with locked_root(tmp_path, execute.lines.append):
            return run_plan(jobs, tmp_path, machine=machine, expected={}, report=execute.lines.append)

    return execute


def begun(tmp_path) -> list[str]:
    entries = [json.loads(line) for line in Journal(tmp_path).path.read_text().splitlines()]
    return [entry["job"] for entry in entries if entry["event"] == "begun"]


def log_of(tmp_path, name) -> str:
    return (tmp_path / "log" / f"{name}.log").read_text()


def wait_until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_jobs_run_after_those_that_they_need(job, run, tmp_path):
    jobs = [job("a"), job("b", needs=["a"]), job("c"), job("d", needs=["b", "c"])]
    outcome = run(*jobs, at_a_time=2)
    assert sorted(outcome.finished) == list("abcd")
    order = begun(tmp_path)
    assert order.index("b") > order.index("a") and order[-1] == "d"
    assert run.lines[-1].startswith("[4/4]") and run.lines[-1].endswith("none left")


def test_finished_jobs_are_skipped(job, run, tmp_path):
    run(job("a"), job("b", needs=["a"]))
    outcome = run(job("a"), job("b", needs=["a"]), job("c", needs=["b"]))
    assert begun(tmp_path) == ["a", "b", "c"]
    assert outcome.finished == ["a", "b", "c"]


def test_failure_stops_only_what_depends_on_it(job, run, tmp_path):
    jobs = [job("a", "fail=never"), job("b", needs=["a"]), job("c", needs=["b"]), job("x/d"), job("e", needs=["x/d"])]
    outcome = run(*jobs)
    assert outcome.failed == {"a": "ValueError: this job fails"}
    assert (outcome.blocked, sorted(outcome.finished)) == (["b", "c"], ["e", "x/d"])
    assert f"failed: a: ValueError: this job fails; see {tmp_path}/log/a.log" in run.lines
    assert "Traceback" in log_of(tmp_path, "a")


def test_failed_job_is_tried_again_by_the_next_run(job, run, tmp_path):
    marker = tmp_path / "mended"
    assert run(job("a", f"fail={marker}"), job("b", needs=["a"])).failed
    marker.touch()
    outcome = run(job("a", f"fail={marker}"), job("b", needs=["a"]))
    assert (outcome.failed, outcome.finished) == ({}, ["a", "b"])
    assert log_of(tmp_path, "a").count("$ ") == 2  # both attempts


@pytest.mark.parametrize(
    ("order", "reason"),
    [("kill=9", r"killed by signal 9 (SIGKILL)"), ("exit=0", "it ended without its results")],
)
def test_job_that_ends_without_a_message_is_explained(job, run, order, reason):
    assert run(job("a", order)).failed == {"a": reason}


def test_each_job_gets_its_gpu_and_threads(job, run, tmp_path):
    jobs = [job(name, "print=CUDA_VISIBLE_DEVICES", "print=OMP_NUM_THREADS", "sleep=0.5") for name in "ab"]
    run(*jobs, at_a_time=2, gpus=("4", "7"))
    logs = [log_of(tmp_path, name).splitlines()[-2:] for name in "ab"]
    assert sorted(logs) == [["4", "1"], ["7", "1"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_jobs_and_waits_for_them(job, run, tmp_path, number):
    beats = tmp_path / "beats"

    def stop():
        wait_until(lambda: beats.exists() and len(set(beats.read_text().split())) == 2)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    outcome = run(job("done"), job("a", f"beat={beats}", needs=["done"]), job("b", needs=["a"]))
    assert (outcome.signal, outcome.interrupted, outcome.finished) == (number, ["a"], ["done"])
    ended = beats.read_text()
    time.sleep(0.2)
    assert beats.read_text() == ended  # neither the job nor its own child
    assert signal.getsignal(number) is not None and outcome.failed == {}


def test_stopped_job_does_not_count_as_measured(job, run, tmp_path):
    run(job("a"))
    assert list(Journal(tmp_path).measured()) == ["teacher"]
    Journal(tmp_path).write(job("b", stage="student"), "begun")
    Journal(tmp_path).write(job("b", stage="student"), "stopped", 3)
    Journal(tmp_path).write(job("b", stage="student"), "begun")
    Journal(tmp_path).write(job("b", stage="student"), "finished", 3)
    assert list(Journal(tmp_path).measured()) == ["teacher"]


def test_remaining_time_is_that_of_measured_jobs_alike(job, run, tmp_path):
    Journal(tmp_path).write(job("z"), "begun")
    Journal(tmp_path).write(job("z"), "finished", 3600)
    run(*[job(name) for name in "ab"])
    assert run.lines[0].endswith("30 min left")  # the mean of 3600 s and of next to nothing


def test_damaged_last_line_of_the_journal_is_passed_over(job, tmp_path):
    journal = Journal(tmp_path)
    journal.write(job("a"), "begun")
    journal.write(job("a"), "finished", 4)
    with open(journal.path, "a") as file:
        file.write('{"job": "b", "ev')
    assert journal.measured() == {"teacher": 4}


def test_second_plan_in_a_root_is_refused(job, run, tmp_path):
    with locked_root(tmp_path, print), pytest.raises(ValueError, match="another plan runs in"):
        run(job("a"))


def test_jobs_of_a_killed_plan_die_before_the_next_one_starts(job, run, tmp_path):
    beats = tmp_path / "beats"
    plan = subprocess.Popen([sys.executable, f"{HERE}/killed_plan.py", tmp_path, beats])
    wait_until(lambda: beats.exists() and len(set(beats.read_text().split())) == 2)
    plan.kill()
    plan.wait()
    outcome = run(job("b"))  # waits for the orphans
    ended = beats.read_text()
    time.sleep(0.2)
    assert beats.read_text() == ended
    assert outcome.finished == ["b"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (99, "99 s"), (120, "2 min"), (5990, "100 min"), (7200, "2.0 h")]
)
def test_durations_read_well(seconds, text):
    assert as_duration(seconds) == text
