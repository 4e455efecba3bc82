"""Runs the jobs of a plan: several at a time, in an order that works, so that it can be stopped and started again."""

import fcntl
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path

from filelock import FileLock, Timeout

from .costs import remaining_seconds
from .jobs import Job
from .planfile import BEGUN, FAILED, FINISHED, STOPPED, Journal
from .worker import JOBS_LOCK, THREADS_VARIABLE, run_job

PLAN_LOCK = ".plan.lock"
LOG_FOLDER = "log"
GRACE_SECONDS = 10.0  # between asking a job to stop and killing it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
# Imported once, in the server that jobs are forked from: start-up costs seconds otherwise.
PRELOADED = tuple(
    f"hf_ascdistill.{name}" for name in ("experiments.worker", "building", "runs", "prediction", "ensembles")
)
SERVER_ENVIRONMENT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # imports must not initialise CUDA before the fork


@dataclass(frozen=True)
class Machine:
    """What the jobs run on.

    Args:
        recipes (`str`): folder of the recipes.
        jobs (`int`): jobs at a time.
        threads (`int`): CPU threads of each.
        gpus (`tuple[str, ...]`): numbers of the GPUs, shared out in turn; empty: the CPU.
    """

    recipes: str
    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()

    def environment(self, slot: int) -> dict[str, str]:
        """Returns the variables of the job in a slot."""
        gpu = {VISIBLE_GPUS: self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        return {THREADS_VARIABLE: str(self.threads), **gpu}


@dataclass
class Outcome:
    """How far a plan got.

    Args:
        finished (`list[str]`): names of the finished jobs, those of earlier runs too.
        failed (`dict[str, str]`): name of each job that failed to what its log ends in.
        blocked (`list[str]`): jobs that need one of these.
        interrupted (`list[str]`): jobs that were stopped.
        signal (`int`, *optional*): what stopped the plan.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    signal: int | None = None


@dataclass(frozen=True)
class _Running:
    job: Job
    process: BaseProcess
    begun: float


@contextmanager
def locked_root(root: str | Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keeps other plans out of a root, and waits for jobs that outlived a killed plan.

    Args:
        root (`str | Path`): folder of the plan.
        report (`Callable[[str], None]`): is told when there is something to wait for.

    Raises:
        ValueError: another plan runs in it.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / PLAN_LOCK, timeout=0):
            _wait_for_orphans(root, report)
            yield
    except Timeout as error:
        raise ValueError(f"another plan runs in {root}; wait for it, or choose another --output_dir.") from error


def _wait_for_orphans(root: Path, report: Callable[[str], None]) -> None:
    descriptor = os.open(root / JOBS_LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for the jobs of a killed plan in {root} to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def run_plan(
    jobs: Sequence[Job],
    root: str | Path,
    *,
    machine: Machine,
    expected: Mapping[str, float],
    report: Callable[[str], None],
) -> Outcome:
    """Runs all jobs that are not finished; whoever calls it holds [`locked_root`].

    A job that fails takes along those that need it; all others go on. SIGINT and SIGTERM stop the jobs that run, and
    wait for them.

    Args:
        jobs (`Sequence[Job]`): each after those that it needs.
        root (`str | Path`): folder of the plan.
        machine ([`Machine`]): how many at a time, on what.
        expected (`Mapping[str, float]`): seconds that each job is expected to take.
        report (`Callable[[str], None]`): is given a line for every job that ends.

    Returns:
        [`Outcome`]: how far it got.
    """
    with _stop_requests() as requests, _warm_server(machine) as context:
        return _Runner(jobs, Path(root), machine, context, expected=expected, report=report).run(requests)


class _StopRequests:
    """Signals that ask the plan to stop; `ready` can be waited for."""

    def __init__(self) -> None:
        self.ready, self._written = os.pipe()
        self.signal: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.signal = number
        os.write(self._written, b"x")

    def close(self) -> None:
        os.close(self.ready)
        os.close(self._written)


@contextmanager
def _stop_requests() -> Iterator[_StopRequests]:
    requests = _StopRequests()
    before = {number: signal.signal(number, requests) for number in STOP_SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        requests.close()


@contextmanager
def _warm_server(machine: Machine) -> Iterator[BaseContext]:
    """Starts the process that jobs are forked from; it never computes, and sees the threads that jobs have."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    added = {**SERVER_ENVIRONMENT, THREADS_VARIABLE: str(machine.threads)}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    yield context


class _Runner:
    """The jobs that wait and those that run.

    Args:
        jobs (`Sequence[Job]`): all of them.
        root (`Path`): folder of the plan.
        machine ([`Machine`]): how many at a time, on what.
        context (`BaseContext`): makes processes.
        options: `expected` and `report` of [`run_plan`].
    """

    def __init__(self, jobs: Sequence[Job], root: Path, machine: Machine, context: BaseContext, **options) -> None:
        self.root, self.machine, self.context, self.journal = root, machine, context, Journal(root)
        self.expected: Mapping[str, float] = options["expected"]
        self.report: Callable[[str], None] = options["report"]
        self.total = len(jobs)
        self.outcome = Outcome(finished=[job.name for job in jobs if job.is_done])
        done = set(self.outcome.finished)
        self.pending = {job.name: job for job in jobs if job.name not in done}
        self.running: dict[int, _Running] = {}

    def run(self, requests: _StopRequests) -> Outcome:
        while requests.signal is None:
            self._fill_slots()
            if not self.running:
                break
            wait([requests.ready, *(running.process.sentinel for running in self.running.values())])
            self._collect()
        if requests.signal is not None:
            self._stop()
            self.outcome.signal = requests.signal
        return self.outcome

    def _fill_slots(self) -> None:
        self._block()
        for slot in range(self.machine.jobs):
            if slot not in self.running and (job := self._next()):
                self.running[slot] = self._start(slot, job)

    def _block(self) -> None:
        """Gives up on the jobs that need one that failed; each stands after those that it needs."""
        lost = {*self.outcome.failed, *self.outcome.blocked}
        for job in list(self.pending.values()):
            if lost.intersection(job.needs):
                lost.add(job.name)
                self.outcome.blocked.append(job.name)
                del self.pending[job.name]

    def _next(self) -> Job | None:
        unfinished = {*self.pending, *(running.job.name for running in self.running.values())}
        return next((job for job in self.pending.values() if unfinished.isdisjoint(job.needs)), None)

    def _log(self, job: Job) -> Path:
        return self.root / LOG_FOLDER / f"{job.name}.log"

    def _start(self, slot: int, job: Job) -> _Running:
        del self.pending[job.name]
        settings = {
            "root": str(self.root),
            "log": str(self._log(job)),
            "environment": self.machine.environment(slot),
        }
        recipe = os.path.join(self.machine.recipes, job.recipe)
        process = self.context.Process(target=run_job, args=(recipe, job.argv), kwargs=settings, name=job.name)
        self.journal.write(job, BEGUN)
        process.start()
        return _Running(job, process, time.monotonic())

    def _collect(self) -> None:
        for slot, running in list(self.running.items()):
            if not running.process.is_alive():
                del self.running[slot]
                self._end(running)

    def _end(self, running: _Running) -> None:
        job, seconds = running.job, time.monotonic() - running.begun
        running.process.join()
        is_finished = running.process.exitcode == 0 and job.is_done
        self.journal.write(job, FINISHED if is_finished else FAILED, seconds)
        if is_finished:
            self.outcome.finished.append(job.name)
            self.report(f"[{len(self.outcome.finished)}/{self.total}] {job.name}: {seconds:.1f} s; {self._left()}")
        else:
            reason = _last_line(self._log(job), running.process.exitcode)
            self.outcome.failed[job.name] = reason
            self.report(f"failed: {job.name}: {reason}; see {self._log(job)}")

    def _left(self) -> str:
        left = [*self.pending.values(), *(running.job for running in self.running.values())]
        seconds = remaining_seconds(left, self.expected, self.journal.measured())
        return f"{as_duration(seconds / self.machine.jobs)} left" if left else "none left"

    def _stop(self) -> None:
        """Stops the jobs that run, and the processes that they started."""
        for running in self.running.values():
            _signal_group(running.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for running in self.running.values():
            running.process.join(max(0.0, deadline - time.monotonic()))
            if running.process.is_alive():
                _signal_group(running.process, signal.SIGKILL)
                running.process.join()
            if running.process.exitcode == 0:
                self._end(running)
                continue
            self.journal.write(running.job, STOPPED, time.monotonic() - running.begun)
            self.outcome.interrupted.append(running.job.name)


def _signal_group(process: BaseProcess, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it has not made its group yet, or is gone
        process.kill()


def _last_line(log: Path, exitcode: int) -> str:
    """Says why a job failed: the last line of its log, unless the system killed it."""
    if exitcode < 0:
        return f"killed by signal {-exitcode} ({signal.Signals(-exitcode).name})"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    if exitcode == 0:
        return "it ended without its results"
    return lines[-1] if lines else f"it ended with status {exitcode}"


def as_duration(seconds: float) -> str:
    """Returns a time as people say it: `40 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


__all__ = ["Machine", "Outcome", "as_duration", "locked_root", "run_plan"]
