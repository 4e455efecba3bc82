"""One job in a process of its own: forked from a warm server, with its own log, gone when the plan is gone."""

import fcntl
import gc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType

import torch

THREADS_VARIABLE = "OMP_NUM_THREADS"
JOBS_LOCK = ".jobs.lock"  # shared by the jobs that run; a plan takes it whole before it starts any


def run_job(recipe: str, argv: Sequence[str], *, root: str, log: str, environment: Mapping[str, str]) -> None:
    """Runs a recipe as if it had been started from a shell.

    Args:
        recipe (`str`): file of the recipe.
        argv (`Sequence[str]`): its command line.
        root (`str`): folder of the plan, whose lock is held as long as the job or a process of it lives.
        log (`str`): file that what it prints is added to.
        environment (`Mapping[str, str]`): variables of its own, among them the number of its CPU threads.
    """
    gc.freeze()  # the server's modules live as long as this process: no collection need look at them
    os.setsid()  # a group of its own: the plan alone decides when it is stopped
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    held = share_lock(root)
    threading.Thread(target=_end_with_the_plan, daemon=True).start()
    _write_to(Path(log))
    os.environ.update(environment)
    torch.set_num_threads(int(environment[THREADS_VARIABLE]))  # torch read it when the server started
    sys.argv = [recipe, *argv]
    print_header(sys.argv)
    _load(recipe).main(list(argv))
    sys.stdout.flush()
    os.close(held)


def share_lock(root: str) -> int:
    """Takes the jobs' lock together with the other jobs; processes that a job forks hold it too."""
    descriptor = os.open(os.path.join(root, JOBS_LOCK), os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _end_with_the_plan() -> None:
    """Kills the job and its own processes once the plan was killed, so that no orphan writes beside a new plan."""
    wait([parent_process().sentinel])
    os.killpg(0, signal.SIGKILL)


def _write_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def print_header(command: Sequence[str]) -> None:
    """Separates this attempt from earlier ones in the log."""
    sys.stdout.write(f"\n# {time.strftime('%Y-%m-%d %H:%M:%S')}\n$ {' '.join(command)}\n")
    sys.stdout.flush()


def _load(recipe: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{Path(recipe).stem}", recipe)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["JOBS_LOCK", "THREADS_VARIABLE", "run_job", "share_lock"]
