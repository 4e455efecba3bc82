"""A plan as SLURM array jobs: a list of commands per stage, a script that takes a line of it, and one that submits."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..files import written_whole
from .jobs import STAGES, Job

ARRAY_NAME, SUBMIT_NAME, LOG_FOLDER = "array.sh", "submit.sh", "log"
ARRAY_SCRIPT = """#!/bin/bash
# Runs one line of a job list: sbatch --array=1-N array.sh LIST. A line whose results are there does nothing.
#SBATCH --ntasks=1
set -euo pipefail
cd {folder}
export PATH={programs}:"$PATH" OMP_NUM_THREADS="${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-{threads}}}}}"
command=$(sed -n "${{SLURM_ARRAY_TASK_ID:?started without sbatch --array}}p" "$1")
echo "$command"
eval "$command"
"""
SUBMIT_HEAD = """#!/bin/bash
# Submits all stages; each waits until those that it needs have ended well. Options of sbatch: {options_text}
set -euo pipefail
cd {folder}
"""


def write_slurm(jobs: Sequence[Job], folder: str | Path, *, recipes: str, threads: int, options: str = "") -> Path:
    """Writes job lists, the array script and `submit.sh` into a folder.

    Args:
        jobs (`Sequence[Job]`): from [`build_plan`]; their paths hold in the current folder, where the jobs will run.
        folder (`str | Path`): where the files go.
        recipes (`str`): folder of the recipes.
        threads (`int`): CPU threads of a job for which sbatch gets no `--cpus-per-task`.
        options (`str`, *optional*): options of sbatch, as one text: `"--partition=gpu --time=08:00:00"`.

    Returns:
        `Path`: the script that submits everything.

    Raises:
        ValueError: the options cannot be split as a shell would.
    """
    folder = Path(folder).absolute()
    (folder / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    stages = {stage: [job for job in jobs if job.stage == stage] for stage in STAGES}
    stages = {stage: members for stage, members in stages.items() if members}
    for stage, members in stages.items():
        lines = [f"{_unless_done(job)}{job.command(recipes)}" for job in members]
        _write(folder / f"{stage}.txt", "\n".join(lines) + "\n")
    here, programs = shlex.quote(os.getcwd()), shlex.quote(os.path.dirname(sys.executable))
    array = ARRAY_SCRIPT.format(folder=here, programs=programs, threads=threads)
    _write(folder / ARRAY_NAME, array, executable=True)
    _write(folder / SUBMIT_NAME, _submit_script(stages, folder, _split(options)), executable=True)
    return folder / SUBMIT_NAME


def _split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise ValueError(f"slurm_options is {options!r} ({error}); expected options of sbatch as one text.") from error


def _unless_done(job: Job) -> str:
    """Returns the test that skips a finished job; the recipes find that out themselves, but only once they started."""
    tests = " && ".join(f"test -e {shlex.quote(path)}" for path in job.done)
    return f"{{ {tests}; }} || "


def _submit_script(stages: dict[str, list[Job]], folder: Path, options: Sequence[str]) -> str:
    lines = [SUBMIT_HEAD.format(options_text=shlex.join(options) or "none", folder=shlex.quote(str(folder)))]
    stage_of = {job.name: stage for stage, members in stages.items() for job in members}
    for stage, members in stages.items():
        needed = dict.fromkeys(stage_of[name] for job in members for name in job.needs)
        waits = f" --dependency=afterok:{':'.join(f'${name}' for name in needed)}" if needed else ""
        fixed = ["sbatch", "--parsable", f"--job-name={stage}", f"--array=1-{len(members)}"]
        fixed += [f"--output={LOG_FOLDER}/{stage}-%A_%a.log", *options]
        lines.append(f"{stage}=$({shlex.join(fixed)}{waits} {ARRAY_NAME} {shlex.quote(str(folder / f'{stage}.txt'))})")
        lines.append(f'echo "{stage}: {len(members)} jobs, ${stage}"')
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str, *, executable: bool = False) -> None:
    with written_whole(path) as staged:
        staged.write_text(text)
        if executable:
            staged.chmod(0o755)


__all__ = ["write_slurm"]
