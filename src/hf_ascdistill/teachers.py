"""Teachers: their logits are predicted once, averaged over an ensemble, and attached to the student's clips by id."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value
from torch import nn
from tqdm.auto import tqdm

from .arguments import check_world_size
from .data.columns import CONTENT, EXAMPLE_ID, LABELS, TEACHER_LOGITS
from .data.index import rows_of
from .data.logits import (
    FORMAT,
    LOGITS,
    MANIFEST_NAME,
    LogitsSet,
    as_lists,
    check_finite,
    load_logits,
    read_json,
    some,
    write_logits_file,
)
from .data.store import clip_contents
from .evaluation import predict_batches
from .files import write_json
from .transforms.frontend import AcousticFrontend

PLAN_NAME = "plan.json"  # what is being predicted; written before the first logits
CLIPS_PER_FILE = 4096  # what a killed run loses at the most; 160 kB with 10 scenes


def model_identity(model: nn.Module) -> dict[str, str]:
    """Returns what tells a model from every other: its type and a hash of all weights and buffers.

    Args:
        model (`nn.Module`): a model with a `config`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return {"type": model.config.model_type, "weights": digest.hexdigest()}


def check_scenes(model: nn.Module, scenes: Sequence[str]) -> None:
    """Checks that a model decides between the scenes of a dataset, in their order.

    Args:
        model (`nn.Module`): a classifier with `config.id2label`.
        scenes (`Sequence[str]`): names of the dataset's labels.

    Raises:
        ValueError: they differ; both are named.
    """
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if names != list(scenes):
        raise ValueError(
            f"the model's {len(names)} classes are {', '.join(names)}; the data's {len(scenes)} are "
            f"{', '.join(scenes)}. Expected the same in the same order: take a model that was trained on such data."
        )


def predict_logits(
    model: nn.Module,
    dataset: Dataset,
    output_dir: str | Path,
    *,
    frontend: AcousticFrontend,
    batch_size: int = 256,
    clips_per_file: int = CLIPS_PER_FILE,
) -> LogitsSet:
    """Predicts the logits of every clip of a dataset and keeps them in a folder.

    Under `accelerate launch` each process predicts its share of the files. A run that was interrupted goes on where it
    stopped; a finished one is only read. The clips are not augmented: teacher logits belong to the clean clip (paper,
    section 3).

    Args:
        model (`nn.Module`): a trained audio classifier; it is moved to the process's device, in evaluation mode.
        dataset (`datasets.Dataset`): clips or crops of one length.
        output_dir (`str | Path`): folder of the set; a new one, or one of the same model, front-end and clips.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        batch_size (`int`, *optional*, defaults to 256): clips at a time.
        clips_per_file (`int`, *optional*, defaults to 4096): clips in one file, the unit of work of a process.

    Returns:
        [`LogitsSet`]: all rows, in the dataset's order.

    Raises:
        ValueError: the folder holds something else or a set of another model, front-end or dataset; the model has
            other classes than the dataset; a logit is NaN; the launcher's processes do not see each other.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_world_size(state.num_processes)
    folder = Path(output_dir)
    clips = {EXAMPLE_ID: rows_of(dataset)[EXAMPLE_ID].to_pylist(), CONTENT: clip_contents(dataset).tolist()}
    plan = {**_plan(model, frontend, dataset, clips=clips), "clips_per_file": clips_per_file}
    if state.is_main_process:
        _start(folder, plan)
    state.wait_for_everyone()
    starts = range(0, len(dataset), clips_per_file)
    rows = {f"logits-{number:05d}.arrow": slice(start, start + clips_per_file) for number, start in enumerate(starts)}
    share = {folder / name: rows[name] for name in list(rows)[state.process_index :: state.num_processes]}
    predict = partial(predict_batches, model.to(state.device), frontend=frontend, batch_size=batch_size)
    _predict_missing(predict, dataset, share, clips=clips, teachers=plan["name"])
    state.wait_for_everyone()
    if state.is_main_process:
        write_json(folder / MANIFEST_NAME, {**plan, "files": list(rows)})
    state.wait_for_everyone()
    return load_logits(folder)


def _plan(
    model: nn.Module, frontend: AcousticFrontend, dataset: Dataset, *, clips: dict[str, list[str]]
) -> dict[str, Any]:
    """Says what a set is: a folder holds one plan. The name is for people, all else must stay the same."""
    scenes = list(dataset.features[LABELS].names)
    check_scenes(model, scenes)
    settings = frontend.extractor.to_dict().items()
    return {
        "format": FORMAT,
        "name": Path(model.config._name_or_path or model.config.model_type).name,
        "model": model_identity(model),
        "front_end": {name: value for name, value in settings if isinstance(value, int | float)},
        "scenes": scenes,
        "clips": len(dataset),
        "data": hashlib.blake2b(json.dumps(clips).encode(), digest_size=16).hexdigest(),
    }


def _start(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan of a new set, or checks that the folder's plan is the same; removes half-written files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLAN_NAME
    others = sorted(file.name for file in folder.iterdir() if file.name != f"{PLAN_NAME}.tmp")
    if not path.exists():
        if others:
            raise ValueError(f"{folder} holds other files ({some(others)}) and no logits set; choose an empty folder.")
        write_json(path, plan)
    present = read_json(path)
    differing = [key for key in plan if key != "name" and present.get(key) != plan[key]]
    if differing:
        there, here = ({key: known.get(key) for key in differing} for known in (present, plan))
        raise ValueError(
            f"{folder} holds logits of {present.get('name')} with {there}; asked for are those of {plan['name']} with "
            f"{here}. Choose another folder, or remove this one."
        )
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()


def _predict_missing(
    predict: Callable, dataset: Dataset, share: dict[Path, slice], *, clips: dict[str, list[str]], teachers: str
) -> None:
    """Predicts the files that are not there yet, with a progress bar on the main process."""
    todo = {path: clips[EXAMPLE_ID][rows] for path, rows in share.items() if not path.exists()}
    count, disable = sum(map(len, todo.values())), not PartialState().is_main_process
    with tqdm(total=count, desc=f"logits of {teachers}", unit="clip", disable=disable) as progress:
        for path, example_ids in todo.items():
            first, batches = share[path].start, []
            for batch in predict(dataset.select(range(first, first + len(example_ids)))):
                batches.append(batch[LOGITS].numpy())
                progress.update(len(batches[-1]))
            logits = np.concatenate(batches)
            check_finite(logits, example_ids, teachers=teachers)
            write_logits_file(path, example_ids, logits, content=clips[CONTENT][share[path]])


def average_logits(sets: Sequence[LogitsSet]) -> LogitsSet:
    """Averages the raw logits of an ensemble's members (paper, section 5); a temperature comes later, in the loss.

    Args:
        sets (`Sequence[LogitsSet]`): one set per teacher, for the same clips in any order.

    Returns:
        [`LogitsSet`]: the mean, in the order of the first set.

    Raises:
        ValueError: no set is given, or two sets differ in classes, clips or audio; both are named.
    """
    if not sets:
        raise ValueError("an ensemble needs at least one logits set; none was given.")
    first, members = sets[0], []
    for other in sets:
        _check_scenes_of(other, first.scenes, against=f"those of {first.teachers}")
        lonely = sorted(set(first.example_ids).symmetric_difference(other.example_ids))
        if lonely:
            raise ValueError(
                f"the logits of {first.teachers} and {other.teachers} belong to other clips, {len(first.example_ids)} "
                f"and {len(other.example_ids)}: {some(lonely)} in one of them only. Predict both for the same dataset."
            )
        members.append(other.ordered_as(first.example_ids))
        _check_content(members[-1], first.content, against=first.teachers)
    mean = np.mean([member.logits for member in members], axis=0, dtype=np.float64).astype(np.float32)
    identities = tuple(identity for logits in sets for identity in logits.members)
    return LogitsSet(first.example_ids, mean, first.content, first.scenes, identities)


def attach_logits(
    dataset: Dataset, logits: LogitsSet | str | Path | Sequence[str | Path], *, allow_extra: bool = False
) -> Dataset:
    """Adds the column `teacher_logits` to a dataset, joined by `example_id`; of a prepared store no audio is read.

    Args:
        dataset (`datasets.Dataset`): clips or crops.
        logits (`LogitsSet | str | Path | Sequence[str | Path]`): a set, or folders of sets, which are averaged.
        allow_extra (`bool`, *optional*, defaults to `False`): the set may hold clips that the dataset lacks.

    Returns:
        `datasets.Dataset`: the same rows with raw teacher logits, float32 `(C,)`; the transform stays.

    Raises:
        ValueError: a clip has no logits or has some already, the set holds other clips, or classes or audio differ.
    """
    if not isinstance(logits, LogitsSet):
        folders = [logits] if isinstance(logits, str | Path) else logits
        logits = average_logits([load_logits(folder) for folder in folders])
    if TEACHER_LOGITS in dataset.column_names:
        raise ValueError(f"the dataset has {TEACHER_LOGITS} already; average the sets and attach them once.")
    _check_scenes_of(logits, tuple(dataset.features[LABELS].names), against="the dataset's")
    rows = rows_of(dataset)
    example_ids = rows[EXAMPLE_ID].to_pylist()
    aligned = logits.ordered_as(example_ids)
    extra = sorted(set(logits.example_ids).difference(example_ids))
    if extra and not allow_extra:
        raise ValueError(
            f"the logits of {logits.teachers} hold {len(extra)} clips that the dataset of {len(rows)} lacks, among "
            f"them {some(extra)}. Attach them to the dataset that they were predicted for, or let them be more: "
            "allow_extra=True, in the recipes --allow_extra_logits true."
        )
    _check_content(aligned, clip_contents(dataset), against="the dataset")
    features = Features({**dataset.features, TEACHER_LOGITS: List(Value("float32"), length=len(logits.scenes))})
    table = rows.append_column(features.arrow_schema.field(TEACHER_LOGITS), as_lists(aligned.logits))
    attached = Dataset(table.replace_schema_metadata(features.arrow_schema.metadata), split=dataset.split)
    return attached.with_format(dataset.format["type"], **dataset.format["format_kwargs"])


def _check_scenes_of(logits: LogitsSet, scenes: tuple[str, ...], *, against: str) -> None:
    if logits.scenes != scenes:
        raise ValueError(
            f"the logits of {logits.teachers} have {len(logits.scenes)} classes ({', '.join(logits.scenes)}), "
            f"{against} are {len(scenes)} ({', '.join(scenes)}); expected the same in the same order."
        )


def _check_content(logits: LogitsSet, content: np.ndarray, *, against: str) -> None:
    """Raises where logits were predicted on other audio than the clips that they are joined to."""
    differs = np.flatnonzero(logits.content != content)
    if len(differs):
        row = differs[0]
        raise ValueError(
            f"the logits of {logits.teachers} belong to other audio than {against}: the data fingerprints of "
            f"{len(differs)} clips differ, that of {logits.example_ids[row]} is {logits.content[row]} in the logits "
            f"and {content[row]} in {against}. Predict them again on this audio."
        )


__all__ = [
    "LogitsSet",
    "attach_logits",
    "average_logits",
    "check_scenes",
    "load_logits",
    "model_identity",
    "predict_logits",
]
