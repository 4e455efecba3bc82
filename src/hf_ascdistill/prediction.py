"""Predicts the logits of one or many teachers, once for each clip, into folders that survive interruptions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from .arguments import check_world_size
from .data.columns import EARLIEST, LABELS
from .data.logits import (
    FORMAT,
    LOGITS,
    MANIFEST_NAME,
    ClipNames,
    LogitsSet,
    check_finite,
    load_logits,
    read_json,
    some,
    write_logits_file,
)
from .evaluation import front_end_settings, predict_batches_of_many
from .files import STAGED_SUFFIX, is_staged, write_json
from .inference import inference_copy
from .teachers import check_scenes, model_identity
from .transforms.frontend import AcousticFrontend

PLAN_NAME = "plan.json"  # what is being predicted; written before the first logits
CLIPS_PER_FILE = 4096  # what a killed run loses at the most; 160 kB with 10 scenes


@dataclass(frozen=True)
class PredictionSettings:
    """How [`predict_logits`] works through a dataset.

    Args:
        batch_size (`int`, *optional*, defaults to 256): clips at a time.
        clips_per_file (`int`, *optional*, defaults to 4096): clips in one file, the unit of work of a process.
        fused (`bool`, *optional*, defaults to `True`): predict with folded copies of the models; logits move by
            1e-5. See [`inference_copy`].
        native_kernels (`bool`, *optional*, defaults to `True`): on a CPU, make log-mels ([`AcousticFrontend`]) and
            the logits of folded CP-Mobiles in compiled kernels, and those of PaSST by the processor's fastest
            products.

    Raises:
        ValueError: a number is less than 1.
    """

    batch_size: int = field(default=256, metadata={"help": "clips at a time"})
    clips_per_file: int = field(default=CLIPS_PER_FILE, metadata={"help": "work of a process between two files"})
    fused: bool = field(default=True, metadata={"help": "fold batch normalisations: faster, logits move by 1e-5"})
    native_kernels: bool = field(
        default=True, metadata={"help": "on a CPU, C++ for log-mels, CP-Mobile; fast products for PaSST"}
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "clips_per_file"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")


class _Teacher(NamedTuple):
    name: str  # for people
    model: nn.Module
    frontend: AcousticFrontend


def predict_logits(
    model: nn.Module,
    dataset: Dataset,
    output_dir: str | Path,
    *,
    frontend: AcousticFrontend,
    settings: PredictionSettings | None = None,
) -> LogitsSet:
    """Predicts the logits of every clip of a dataset and keeps them in a folder.

    Under `accelerate launch` each process predicts its share of the files. A run that was interrupted goes on where it
    stopped; a finished one is only read. The clips are not augmented: teacher logits belong to the clean clip (paper,
    section 3).

    Args:
        model (`nn.Module`): a trained audio classifier; it, or its fused copy, works in evaluation mode on the
            process's device.
        dataset (`datasets.Dataset`): clips or crops of one length.
        output_dir (`str | Path`): folder of the set; a new one, or one of the same model, front-end and clips.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        settings ([`PredictionSettings`], *optional*): batches, files, folding.

    Returns:
        [`LogitsSet`]: all rows, in the dataset's order.

    Raises:
        ValueError: the folder holds something else or a set of another model, front-end or dataset; the model has
            other classes than the dataset; a logit is NaN; the launcher's processes do not see each other.
    """
    teacher = _Teacher(Path(model.config._name_or_path or model.config.model_type).name, model, frontend)
    teachers = {Path(output_dir): teacher}
    return _predict_sets(teachers, ClipNames(dataset), settings or PredictionSettings())[Path(output_dir)]


def predict_logits_of_many(
    models: Mapping[str, tuple[nn.Module, AcousticFrontend]],
    dataset: Dataset,
    output_dir: str | Path,
    *,
    settings: PredictionSettings | None = None,
) -> dict[str, LogitsSet]:
    """Predicts what [`predict_logits`] would predict for each of several models, but reads the audio once for all.

    Log-mels are made once per distinct front-end. Models whose sets are finished are left out, so that a new teacher
    can join a folder later; one that was interrupted goes on where it stopped.

    Args:
        models (`Mapping[str, tuple[nn.Module, AcousticFrontend]]`): trained audio classifiers by name, each with its
            front-end; all that have something to predict are on the process's device at once.
        dataset (`datasets.Dataset`): clips or crops of one length.
        output_dir (`str | Path`): folder of the sets; each is in a sub-folder of its model's name.
        settings ([`PredictionSettings`], *optional*): batches, files, folding.

    Returns:
        `dict[str, LogitsSet]`: a set per model, all rows in the dataset's order.

    Raises:
        ValueError: a name is no folder's name, the folder is itself a logits set, or what [`predict_logits`] raises;
            classes and folders of all models are checked before anything is predicted.
    """
    folder = Path(output_dir)
    wrong = [repr(name) for name in models if name in ("", "..") or Path(name).name != name]
    if wrong or not models:
        raise ValueError(f"the models are named {some(wrong) or 'nothing'}; expected names of folders in {folder}.")
    if (folder / PLAN_NAME).exists():
        raise ValueError(
            f"{folder} is itself a logits set, of {read_json(folder / PLAN_NAME).get('name')}; the sets of several "
            "models go into a folder of their own: choose another."
        )
    teachers = {folder / name: _Teacher(name, *pair) for name, pair in models.items()}
    sets = _predict_sets(teachers, ClipNames(dataset), settings or PredictionSettings())
    return {path.name: logits for path, logits in sets.items()}


def _predict_sets(
    teachers: Mapping[Path, _Teacher], clips: ClipNames, settings: PredictionSettings
) -> dict[Path, LogitsSet]:
    """Predicts the set of each teacher into its folder."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_world_size(state.num_processes)
    clips_per_file = settings.clips_per_file
    plans = _plans(teachers, clips, clips_per_file)
    if state.is_main_process:
        for folder, plan in plans.items():
            _check_folder(folder, plan)
        for folder, plan in plans.items():
            _start(folder, plan)
    state.wait_for_everyone()
    count = len(clips.dataset)
    starts = range(0, count, clips_per_file)
    rows = {f"logits-{n:05d}.arrow": slice(at, min(at + clips_per_file, count)) for n, at in enumerate(starts)}
    share = {name: rows[name] for name in list(rows)[state.process_index :: state.num_processes]}
    _predict_missing(teachers, clips, share, settings)
    state.wait_for_everyone()
    if state.is_main_process:
        for folder, plan in plans.items():
            write_json(folder / MANIFEST_NAME, {**plan, "files": list(rows)})
    state.wait_for_everyone()
    return {folder: _load_for(folder, clips) for folder in teachers}


def _plans(teachers: Mapping[Path, _Teacher], clips: ClipNames, clips_per_file: int) -> dict[Path, dict[str, Any]]:
    """Says what each set is: a folder holds one plan. The name is for people, all else must stay the same."""
    if EARLIEST in clips.dataset.column_names:
        raise ValueError(
            "the crops are random, so that logits of theirs are of no use later: predict shifted crops, without "
            "--random_crops."
        )
    for name, model, _ in teachers.values():
        check_scenes(model, clips.scenes, name="the model" if len(teachers) == 1 else name)
    of_all = {
        "scenes": list(clips.scenes),
        "clips": len(clips.dataset),
        "data": clips.fingerprint,
        "clips_per_file": clips_per_file,
    }
    return {
        folder: {
            "format": FORMAT,
            "name": name,
            "model": model_identity(model),
            "front_end": front_end_settings(frontend.extractor),
            **of_all,
        }
        for folder, (name, model, frontend) in teachers.items()
    }


def _check_folder(folder: Path, plan: dict[str, Any]) -> None:
    """Raises where a folder is neither new nor of the same plan."""
    path = folder / PLAN_NAME
    if not path.exists():
        present = folder.iterdir() if folder.exists() else ()
        others = sorted(file.name for file in present if not is_staged(file, PLAN_NAME))
        if others:
            raise ValueError(f"{folder} holds other files ({some(others)}) and no logits set; choose an empty folder.")
        return
    present = read_json(path)
    differing = [key for key in plan if key != "name" and present.get(key) != plan[key]]
    if differing:
        there, here = ({key: known.get(key) for key in differing} for known in (present, plan))
        raise ValueError(
            f"{folder} holds logits of {present.get('name')} with {there}; asked for are those of {plan['name']} with "
            f"{here}. Choose another folder, or remove this one."
        )


def _start(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan of a new set; removes half-written files."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN_NAME).exists():
        write_json(folder / PLAN_NAME, plan)
    for leftover in folder.glob(f"*{STAGED_SUFFIX}"):
        leftover.unlink()


def _predict_missing(
    teachers: Mapping[Path, _Teacher], clips: ClipNames, share: Mapping[str, slice], settings: PredictionSettings
) -> None:
    """Predicts the files that are not there yet, those of all teachers at once, with a progress bar."""
    lacking = {file: [folder for folder in teachers if not (folder / file).exists()] for file in share}
    todo = {file: folders for file, folders in lacking.items() if folders}
    state = PartialState()
    busy = {
        folder: _ready(teacher, settings, state.device)
        for folder, teacher in teachers.items()
        if any(folder in folders for folders in todo.values())
    }
    names = some([teacher.name for teacher in busy.values()])
    count, disable = sum(share[file].stop - share[file].start for file in todo), not state.is_main_process
    with tqdm(total=count, desc=f"logits of {names}", unit="clip", disable=disable) as progress:
        for file, folders in todo.items():
            rows = share[file]
            part = clips.dataset.select(range(rows.start, rows.stop))
            models = {folder: busy[folder][1:] for folder in folders}
            for folder, logits in _predict_file(models, part, progress, batch_size=settings.batch_size).items():
                check_finite(logits, clips.example_ids[rows], teachers=teachers[folder].name)
                write_logits_file(folder / file, clips.example_ids[rows], logits, content=clips.content[rows])


def _ready(teacher: _Teacher, settings: PredictionSettings, device: torch.device) -> _Teacher:
    """Returns the teacher that predicts: with a copy of its model for inference, if that is wanted."""
    name, model, frontend = teacher
    if settings.fused:
        model = inference_copy(model, device, native_kernels=settings.native_kernels)
    if not settings.native_kernels:
        frontend = frontend.with_native_kernels(False)
    return _Teacher(name, model.to(device), frontend)


def _predict_file(
    models: dict[Path, tuple[nn.Module, AcousticFrontend]], part: Dataset, progress: tqdm, *, batch_size: int
) -> dict[Path, np.ndarray]:
    """Returns each model's logits of the clips of one file."""
    batches: dict[Path, list[np.ndarray]] = {folder: [] for folder in models}
    for batch in predict_batches_of_many(models, part, batch_size=batch_size):
        for folder, logits in batch[LOGITS].items():
            batches[folder].append(logits.numpy())
        progress.update(len(batch[LABELS]))
    return {folder: np.concatenate(logits) for folder, logits in batches.items()}


def _load_for(folder: Path, clips: ClipNames) -> LogitsSet:
    """Reads a set; the sets of many teachers share the names and hashes of their clips, most of their memory."""
    logits = load_logits(folder)
    if not (logits.is_for(clips.example_ids) and np.array_equal(logits.content, clips.content)):
        raise ValueError(f"the files in {folder} hold other clips than its {PLAN_NAME}; remove the folder.")
    return replace(logits, example_ids=clips.example_ids, content=clips.content)


__all__ = ["CLIPS_PER_FILE", "PLAN_NAME", "PredictionSettings", "predict_logits", "predict_logits_of_many"]
