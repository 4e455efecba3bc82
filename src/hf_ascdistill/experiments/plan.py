"""The plan of some tables: its commands, what they cost, and how they are run."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .costs import NETWORKS, CorpusSize, Cost, SpeedModel, corpus_size, estimate_costs, remaining_seconds
from .execution import LOG_FOLDER, VISIBLE_GPUS, Machine, Outcome, as_duration, locked_root, run_plan
from .grid import Table
from .jobs import ENSEMBLE, LOGITS, STAGES, STUDENT, TEACHER, Job, PlanSettings, build_plan
from .planfile import Journal, describe_plan, merge_plan, read_plan, save_plan
from .slurm import write_slurm
from .worker import THREADS_VARIABLE

GIGABYTE = 1e9
SECONDS_PER_HOUR = 3600
STAGE_NAMES = {TEACHER: "teachers", LOGITS: "logits", ENSEMBLE: "ensembles", STUDENT: "students"}


@dataclass(frozen=True)
class Plan:
    """All jobs that make some tables.

    Args:
        tables (`tuple[Table, ...]`): what is made.
        settings ([`PlanSettings`]): data, scale and folders.
        jobs (`tuple[Job, ...]`): each after those that it needs.
        recipes (`str`): folder of the recipes.
    """

    tables: tuple[Table, ...]
    settings: PlanSettings
    jobs: tuple[Job, ...]
    recipes: str

    @classmethod
    def of(cls, tables: Sequence[Table], settings: PlanSettings, *, recipes: str) -> "Plan":
        """Builds the plan of some tables.

        Args:
            tables (`Sequence[Table]`): from [`load_table`].
            settings ([`PlanSettings`]): data, scale and folders.
            recipes (`str`): folder of the recipes.

        Raises:
            FileNotFoundError: a YAML file of the preset is absent.
            ValueError: the preset holds an argument that no training knows.
        """
        return cls(tuple(tables), settings, build_plan(tables, settings), recipes)

    @cached_property
    def size(self) -> CorpusSize:
        """[`CorpusSize`]: clips and crops of the data."""
        return corpus_size(self.settings)

    def commands(self) -> str:
        """Returns the commands in order, a comment before each stage."""
        lines = []
        for stage in STAGES:
            members = [job for job in self.jobs if job.stage == stage]
            if members:
                lines += [f"# {stage}: {len(members)}", *(job.command(self.recipes) for job in members)]
        return "\n".join(lines)

    def summary(self, speed: SpeedModel) -> str:
        """Returns the number of jobs, hours and bytes, by stage and in all, with the assumptions behind them.

        Args:
            speed ([`SpeedModel`]): assumptions.
        """
        costs = estimate_costs(self.jobs, self.settings, self.size, speed)
        rows = [("", "jobs", "done", "GPU hours", "CPU hours", "disk, GB")]
        for stage in STAGES:
            members = [job for job in self.jobs if job.stage == stage]
            if members:
                rows.append(_summary_row(stage, members, costs))
        rows.append(_summary_row("all", self.jobs, costs))
        return "\n".join(
            [
                f"{self._counts()}; {self.size.train:,} training clips, {self.size.crops:,} crops, "
                f"{self.size.evaluate:,} evaluation clips",
                _as_columns(rows),
                _disk_parts(self.jobs, costs),
                f"hours: {speed.text}; disk: what the jobs write, checkpoints that stay included",
                *self._left(costs),
                *self.warnings(),
            ]
        )

    def _counts(self) -> str:
        kinds = {job.kind for job in self.jobs if job.stage == TEACHER}
        count = {stage: sum(job.stage == stage for job in self.jobs) for stage in STAGES}
        others = len(self.jobs) - count[TEACHER] - count[STUDENT]
        return f"{count[TEACHER]} teachers of {len(kinds)} kinds, {count[STUDENT]} students, {others} other jobs"

    def _left(self, costs: Mapping[str, Cost]) -> list[str]:
        """Says what is left, once jobs have run."""
        measured = Journal(self.settings.root).measured()
        left = [job for job in self.jobs if not job.is_done]
        if not measured or not left:
            return []
        expected = {name: cost.seconds + cost.cpu_seconds for name, cost in costs.items()}
        known = sum(job.like in measured for job in left)
        seconds = remaining_seconds(left, expected, measured)
        return [
            f"left: {len(left)} jobs, {as_duration(seconds)} one after another; {known} of them like measured ones"
        ]

    def warnings(self) -> list[str]:
        """Returns what must be given before the plan can run, or should be known."""
        lines = []
        for name in sorted(self._unweighted()):
            lines.append(
                f"needed to run: {name} teachers start from pretrained weights; convert them with "
                f"{os.path.join(self.recipes, 'convert_checkpoint.py')} --num_labels {self.size.scenes} and pass "
                f"--{name}_weights FOLDER"
            )
        if "passt" in self._architectures() - set(self.settings.preset.pretrained) - set(self.settings.weights):
            lines.append(f"preset {self.settings.preset.name} trains passt teachers from random weights")
        return lines

    def _architectures(self) -> set[str]:
        return {job.kind.architecture for job in self.jobs if job.kind}

    def _unweighted(self) -> set[str]:
        return self._architectures().intersection(self.settings.missing_weights)

    def check_ready(self) -> None:
        """Checks that nothing is missing that a job would miss hours later.

        Raises:
            ValueError: pretrained weights are not named, or are those of another network or number of classes.
            FileNotFoundError: a folder of weights or impulse responses is absent.
        """
        if self._unweighted():
            raise ValueError("; ".join(self.warnings()) + ".")
        responses = self.settings.impulse_responses
        if responses is not None and not Path(responses).is_dir():
            raise FileNotFoundError(f"impulse_responses is {responses!r}, which is no folder.")
        for name, folder in self.settings.weights.items():
            check_weights(name, folder, classes=self.size.scenes)

    def run(
        self,
        *,
        jobs: int | None = None,
        gpus: Sequence[str] | None = None,
        speed: SpeedModel,
        report: Callable[[str], None],
    ) -> Outcome:
        """Runs what is not finished.

        Args:
            jobs (`int`, *optional*): at a time; unset: one per GPU, or one.
            gpus (`Sequence[str]`, *optional*): numbers of the GPUs to use; unset: all that are visible.
            speed ([`SpeedModel`]): assumptions about jobs that have not been measured yet.
            report (`Callable[[str], None]`): is given a line for every job that ends.

        Returns:
            [`Outcome`]: how far it got.

        Raises:
            ValueError: something is missing, or the root is in use or holds another plan.
            FileNotFoundError: a folder is absent.
        """
        self.check_ready()
        costs = estimate_costs(self.jobs, self.settings, self.size, speed)
        expected = {name: cost.seconds + cost.cpu_seconds for name, cost in costs.items()}
        gpus = visible_gpus() if gpus is None else tuple(gpus)
        jobs = max(1, len(gpus)) if jobs is None else jobs
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}; expected at least one at a time.")
        with locked_root(self.settings.root, report):
            machine = Machine(self.recipes, jobs, self.save(jobs)["threads"], gpus)
            return run_plan(
                self.jobs,
                self.settings.root,
                machine=machine,
                expected=expected,
                report=report,
            )

    def save(self, jobs: int) -> dict[str, Any]:
        """Writes plan.json, or checks and extends the one that is there; returns it.

        Args:
            jobs (`int`): at a time; a new plan gives each an equal share of the cores, unless OMP_NUM_THREADS is set.

        Raises:
            ValueError: the root holds another plan.
        """
        present = read_plan(self.settings.root)
        default = max(1, (os.cpu_count() or 1) // jobs) if present is None else present.get("threads", 1)
        threads = int(os.environ.get(THREADS_VARIABLE) or default)
        plan = merge_plan(self.settings.root, describe_plan(self.tables, self.settings, self.jobs, threads=threads))
        save_plan(self.settings.root, plan)
        return plan

    def write_slurm(self, folder: str | Path, *, jobs: int = 1, options: str = "") -> Path:
        """Writes the plan as SLURM array jobs; returns the script that submits them.

        Args:
            folder (`str | Path`): where scripts and job lists go.
            jobs (`int`, *optional*, defaults to 1): that share the cores of a node.
            options (`str`, *optional*): options of sbatch, as one text.

        Raises:
            ValueError: something is missing, or the root is in use or holds another plan.
            FileNotFoundError: a folder is absent.
        """
        self.check_ready()
        with locked_root(self.settings.root, lambda line: None):
            threads = self.save(jobs)["threads"]
        return write_slurm(self.jobs, folder, recipes=self.recipes, threads=threads, options=options)

    def describe(self, outcome: Outcome) -> str:
        """Says how a run of the plan ended, and how to go on.

        Args:
            outcome ([`Outcome`]): from [`Plan.run`].
        """
        count = f"{len(outcome.finished)} of {len(self.jobs)} jobs are done"
        if outcome.signal is not None:
            return f"stopped: {count}, {len(outcome.interrupted)} interrupted; run the same command again to go on."
        if not outcome.failed:
            return f"{count}."
        logs = os.path.join(self.settings.root, LOG_FOLDER)
        failed = [f"  {name}: {reason}\n    {os.path.join(logs, name)}.log" for name, reason in outcome.failed.items()]
        waiting = f", {len(outcome.blocked)} wait for them" if outcome.blocked else ""
        return "\n".join([f"{count}, {len(outcome.failed)} failed{waiting}:", *failed])


def _summary_row(name: str, jobs: Sequence[Job], costs: Mapping[str, Cost]) -> tuple[str, ...]:
    members = [costs[job.name] for job in jobs]
    hours = sum(cost.seconds for cost in members) / SECONDS_PER_HOUR
    cpu_hours = sum(cost.cpu_seconds for cost in members) / SECONDS_PER_HOUR
    size = sum(cost.bytes for cost in members) / GIGABYTE
    done = sum(job.is_done for job in jobs)
    return name, str(len(jobs)), str(done), f"{hours:.1f}", f"{cpu_hours:.1f}", f"{size:.2f}"


def _disk_parts(jobs: Sequence[Job], costs: Mapping[str, Cost]) -> str:
    parts = {
        "models": sum(cost.model_bytes for cost in costs.values()),
        "checkpoints": sum(cost.checkpoint_bytes for cost in costs.values()),
        **{
            f"{STAGE_NAMES.get(stage, stage)} besides": sum(
                costs[job.name].other_bytes for job in jobs if job.stage == stage
            )
            for stage in dict.fromkeys(job.stage for job in jobs)
        },
    }
    return "disk: " + ", ".join(f"{name} {size / GIGABYTE:.2f} GB" for name, size in parts.items())


def _as_columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) if place == 0 else text.rjust(width) for place, (text, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    )


def check_weights(architecture: str, folder: str, *, classes: int) -> None:
    """Checks what hours later the first training would stop at: whose weights a folder holds.

    Args:
        architecture (`str`): `cpr`, `cpm` or `passt`.
        folder (`str`): of a saved model.
        classes (`int`): that the data have.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: the model is of another architecture or number of classes.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{architecture}_weights is {folder!r}, which holds no saved model ({path.name}).")
    found, expected = json.loads(path.read_text()), NETWORKS[architecture][1].model_type
    labels = len(found.get("id2label", ()))
    if found.get("model_type") != expected or labels != classes:
        raise ValueError(
            f"{architecture}_weights is {folder!r}, a model of type {found.get('model_type')} with {labels} classes; "
            f"expected {expected} with {classes}: convert the checkpoint with --num_labels {classes}."
        )


def visible_gpus() -> tuple[str, ...]:
    """Returns the numbers of the GPUs that a process sees, as CUDA_VISIBLE_DEVICES spells them; none on a CPU."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get(VISIBLE_GPUS, "").split(",") if name]
    return tuple(named[:count] if named else map(str, range(count)))


__all__ = ["Plan", "check_weights", "visible_gpus"]
