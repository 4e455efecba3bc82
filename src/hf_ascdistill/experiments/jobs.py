"""From tables to jobs: teachers, their logits, ensembles and students, each once and in an order that works."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.corpus import is_store
from ..data.logits import MANIFEST_NAME as LOGITS_MANIFEST
from ..data.store_reader import MANIFEST_NAME as STORE_MANIFEST
from ..data.synthetic import MARKER as CORPUS_MARKER
from .grid import ALL, Cell, Table, TeacherKind, student_name
from .presets import Preset, as_options

CORPUS, PREPARE, TEACHER, LOGITS, ENSEMBLE, STUDENT = STAGES = (
    "corpus",
    "prepare",
    "teacher",
    "logits",
    "ensemble",
    "student",
)
LAUNCHED = (TEACHER, LOGITS, STUDENT)  # on an accelerator, one process each
TRAIN, EVALUATE = "train", "evaluate"
RESULTS_NAME = "results.json"


@dataclass(frozen=True)
class Job:
    """One command of a plan.

    Args:
        name (`str`): unique; of most jobs the folder below the plan's root that they write.
        stage (`str`): `corpus`, `prepare`, `teacher`, `logits`, `ensemble` or `student`.
        recipe (`str`): file in the folder of recipes.
        options (`tuple[str, ...]`): its command line but for the YAML files.
        config (`tuple[str, ...]`): its YAML files.
        done (`tuple[str, ...]`): files that exist once it is finished.
        needs (`tuple[str, ...]`): names of the jobs whose results it reads.
        kind ([`TeacherKind`], *optional*): the teacher that it trains or predicts with.
        runs (`int`, *optional*, defaults to 1): runs of the teacher that it predicts with.
        split (`str`, *optional*, defaults to `"train"`): clips that it predicts.
    """

    name: str
    stage: str
    recipe: str
    options: tuple[str, ...]
    config: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    kind: TeacherKind | None = None
    runs: int = 1
    split: str = TRAIN

    @property
    def is_done(self) -> bool:
        """`bool`: all that it writes is there."""
        return all(map(os.path.exists, self.done))

    @property
    def argv(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: the command line behind the recipe's name."""
        return (("--config", *self.config) if self.config else ()) + self.options

    @property
    def like(self) -> str:
        """`str`: jobs of the same text take as long as each other."""
        network = f" {self.kind.architecture}-{self.kind.size}" if self.kind else ""
        return f"{self.stage}{network} {self.split}" if self.stage == LOGITS else f"{self.stage}{network}"

    def command(self, recipes: str) -> str:
        """Returns the job as a line for a shell.

        Args:
            recipes (`str`): folder of the recipes.
        """
        launcher = ("accelerate", "launch", "--num_processes", "1") if self.stage in LAUNCHED else ("python",)
        return shlex.join((*launcher, os.path.join(recipes, self.recipe), *self.argv))


@dataclass(frozen=True)
class PlanSettings:
    """What a plan is made for, but for its tables.

    Args:
        root (`str`): folder of all that the jobs write.
        preset ([`Preset`]): its scale.
        data (`str`, *optional*): a corpus in TAU22's layout, or a store; unset: the preset's synthetic corpus.
        impulse_responses (`str`, *optional*): folder of impulse responses for DIR; unset: the generated bank.
        resample_impulse_responses (`bool`, *optional*, defaults to `False`): resample them to 32 kHz.
        weights (`dict[str, str]`): folders of the pretrained weights of architectures.

    Raises:
        ValueError: there are neither data nor a synthetic corpus.
    """

    root: str
    preset: Preset
    data: str | None = None
    impulse_responses: str | None = None
    resample_impulse_responses: bool = False
    weights: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data is None and self.preset.corpus is None:
            raise ValueError(f"preset {self.preset.name} makes no corpus of its own: pass --data FOLDER.")

    @property
    def store(self) -> str:
        """`str`: the store that trainings read."""
        return self.data if self.data and is_store(self.data) else self.path("prepared")

    @property
    def crops(self) -> dict[str, Any]:
        """`dict`: arguments that name the clips of a training."""
        return {"data": self.store, "crop_hop": self.preset.crop_hop}

    @property
    def missing_weights(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: architectures that start from pretrained weights which are not there."""
        return tuple(name for name in self.preset.pretrained if name not in self.weights)

    def path(self, *parts: str) -> str:
        """Returns a path below the plan's root."""
        return os.path.join(self.root, *parts)

    def responses(self, device_generalization: str) -> dict[str, Any]:
        """Returns the arguments of DIR, where a training uses it."""
        if self.impulse_responses is None or "dir" not in device_generalization:
            return {}
        resample = self.resample_impulse_responses or None
        return {"impulse_responses": self.impulse_responses, "resample_impulse_responses": resample}


def build_plan(tables: Sequence[Table], settings: PlanSettings) -> tuple[Job, ...]:
    """Builds the jobs that make some tables.

    Args:
        tables (`Sequence[Table]`): the tables; what two of them share is made once.
        settings ([`PlanSettings`]): data, scale and folders.

    Returns:
        `tuple[Job, ...]`: every job after those that it needs: data, teachers, logits, ensembles, students.

    Raises:
        FileNotFoundError: a YAML file of the preset is absent.
        ValueError: the preset holds an argument that no training knows.
    """
    cells = [cell for table in tables for cell in table.cells]
    kinds = dict.fromkeys(kind for cell in cells for kind in cell.teachers)
    ensembled = {kind for cell in cells if cell.runs == ALL for kind in cell.teachers}
    jobs: dict[str, Job] = {job.name: job for job in _data_jobs(settings)}
    data = tuple(jobs)[-1:]
    for kind in kinds:
        jobs.update((job.name, job) for job in _teacher_jobs(settings, kind, data))
    for kind in kinds:
        for split in (TRAIN, EVALUATE) if kind in ensembled else (TRAIN,):
            job = _logits_job(settings, kind, split)
            jobs[job.name] = job
    for cell in cells:
        if cell.runs == ALL:
            job = _ensemble_job(settings, cell)
            jobs[job.name] = job
    for cell in cells:
        jobs.update((job.name, job) for job in _student_jobs(settings, cell))
    return tuple(jobs.values())


def _data_jobs(settings: PlanSettings) -> Iterator[Job]:
    corpus, needs = settings.data, ()
    if corpus is None:
        corpus, needs = settings.path("corpus"), (CORPUS,)
        options = as_options({**settings.preset.corpus, "output": corpus})
        yield Job(CORPUS, CORPUS, "synthetic_corpus.py", options, done=(os.path.join(corpus, CORPUS_MARKER),))
    if settings.store != settings.data:
        options = as_options({"data": corpus, "output": settings.store})
        done = (os.path.join(settings.store, STORE_MANIFEST),)
        yield Job(PREPARE, PREPARE, "prepare_data.py", options, done=done, needs=needs)


def _run_name(kind: TeacherKind, seed: int) -> str:
    return f"{kind.name}-s{seed}"


def _teacher_jobs(settings: PlanSettings, kind: TeacherKind, data: tuple[str, ...]) -> Iterator[Job]:
    preset = settings.preset
    preset.training_values(kind)  # raises what a training would raise
    for seed in preset.seeds:
        folder = settings.path("teachers", _run_name(kind, seed))
        arguments = {
            "output_dir": folder,
            "seed": seed,
            "device_generalization": kind.device_generalization,
            **settings.crops,
            **settings.responses(kind.device_generalization),
            "initial_weights": settings.weights.get(kind.architecture),
            **preset.training_arguments(kind),
        }
        yield Job(
            f"teachers/{_run_name(kind, seed)}",
            TEACHER,
            "train_teacher.py",
            as_options(arguments),
            config=preset.config_files(kind.architecture, kind.size),
            done=(os.path.join(folder, RESULTS_NAME),),
            needs=data,
            kind=kind,
        )


def _logits_sets(settings: PlanSettings, split: str, kind: TeacherKind, seeds: Sequence[int]) -> list[str]:
    return [settings.path("logits", split, _run_name(kind, seed)) for seed in seeds]


def _logits_job(settings: PlanSettings, kind: TeacherKind, split: str) -> Job:
    """One job for all runs of a kind, so that the audio is read once."""
    seeds = settings.preset.seeds
    sets = _logits_sets(settings, split, kind, seeds)
    arguments = {
        "model": [settings.path("teachers", _run_name(kind, seed)) for seed in seeds],
        **settings.crops,
        "split": split,
        **settings.preset.arguments.get(LOGITS, {}),
        "output": os.path.dirname(sets[0]) if len(sets) > 1 else sets[0],  # of one run, the set itself
    }
    return Job(
        f"logits/{split}/{kind.name}",
        LOGITS,
        "cache_logits.py",
        as_options(arguments),
        done=tuple(os.path.join(folder, LOGITS_MANIFEST) for folder in sets),
        needs=tuple(f"teachers/{_run_name(kind, seed)}" for seed in seeds),
        kind=kind,
        runs=len(seeds),
        split=split,
    )


def _needed_logits(cell: Cell, split: str) -> tuple[str, ...]:
    return tuple(f"logits/{split}/{kind.name}" for kind in cell.teachers)


def _ensemble_job(settings: PlanSettings, cell: Cell) -> Job:
    seeds = settings.preset.seeds
    name = f"ensembles/{student_name(cell, len(seeds))}"
    sets = [path for kind in cell.teachers for path in _logits_sets(settings, EVALUATE, kind, seeds)]
    arguments = {
        "teacher_logits": sets,
        **settings.crops,
        "split": EVALUATE,
        **settings.preset.arguments.get(ENSEMBLE, {}),
        "output": settings.path(name),
    }
    return Job(
        name,
        ENSEMBLE,
        "evaluate_ensemble.py",
        as_options(arguments),
        done=(settings.path(name, RESULTS_NAME),),
        needs=_needed_logits(cell, EVALUATE),
    )


def _student_jobs(settings: PlanSettings, cell: Cell) -> Iterator[Job]:
    preset = settings.preset
    values = preset.training_values()
    for seed in preset.seeds:
        name = f"students/{student_name(cell, len(preset.seeds))}-s{seed}"
        seeds = preset.seeds if cell.runs == ALL else (seed,)
        sets = [path for kind in cell.teachers for path in _logits_sets(settings, TRAIN, kind, seeds)]
        arguments = {
            "output_dir": settings.path(name),
            "seed": seed,
            **settings.crops,
            **settings.responses(values.get("device_generalization", "dirfms")),
            **preset.training_arguments(),
            "teacher_logits": sets,
        }
        yield Job(
            name,
            STUDENT,
            "distill.py",
            as_options(arguments),
            config=preset.config_files(STUDENT),
            done=(settings.path(name, RESULTS_NAME),),
            needs=_needed_logits(cell, TRAIN),
        )


__all__ = ["STAGES", "Job", "PlanSettings", "build_plan"]
