"""Teachers: who they are, the mean of their logits, and how logits are attached to the student's clips by id."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from torch import nn

from .data.columns import EARLIEST, TEACHER_LOGITS
from .data.index import rows_of
from .data.logits import UNKNOWN_AUDIO, ClipNames, LogitsSet, as_lists, load_logits, some


def model_identity(model: nn.Module) -> dict[str, str]:
    """Returns what tells a model from every other: its type and a hash of all weights and buffers.

    Args:
        model (`nn.Module`): a model with a `config`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        kind, values = str(tensor.dtype).removeprefix("torch."), tensor.detach().cpu().flatten()
        digest.update(f"{name} {kind} {tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy())  # as bytes: numpy has no bfloat16
    return {"type": model.config.model_type, "weights": digest.hexdigest()}


def check_scenes(model: nn.Module, scenes: Sequence[str], *, name: str | Path = "the model") -> None:
    """Checks that a model decides between the scenes of a dataset, in their order.

    Args:
        model (`nn.Module`): a classifier with `config.id2label`.
        scenes (`Sequence[str]`): names of the dataset's labels.
        name (`str | Path`, *optional*, defaults to `"the model"`): what an error calls it.

    Raises:
        ValueError: they differ; both are named.
    """
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if names != list(scenes):
        raise ValueError(
            f"{name}'s {len(names)} classes are {', '.join(names)}; the data's {len(scenes)} are "
            f"{', '.join(scenes)}. Expected the same in the same order: take a model that was trained on such data."
        )


def average_logits(sets: Iterable[LogitsSet]) -> LogitsSet:
    """Averages the raw logits of an ensemble's members (paper, section 5); a temperature comes later, in the loss.

    The sum is kept in float64, so that the mean does not depend on the order of the members, and they are taken one by
    one: an iterator that loads each set when it is its turn holds one at a time.

    Args:
        sets (`Iterable[LogitsSet]`): one set per teacher, for the same clips in any order.

    Returns:
        [`LogitsSet`]: the mean, in the order of the first set.

    Raises:
        ValueError: no set is given, or two sets differ in classes, clips or audio; both are named.
    """
    sets = iter(sets)
    first = next(sets, None)
    if first is None:
        raise ValueError("an ensemble needs at least one logits set; none was given.")
    total, count, identities = first.logits.astype(np.float64), 1, list(first.members)
    for other in sets:
        member = _joined(other, first)
        first = _with_known_audio(first, member)
        total += member.logits
        count += 1
        identities += other.members
    return LogitsSet(
        first.example_ids, (total / count).astype(np.float32), first.content, first.scenes, tuple(identities)
    )


def _joined(other: LogitsSet, first: LogitsSet) -> LogitsSet:
    """Returns a set in the order of another one for the same clips."""
    _check_scenes_of(other, first.scenes, against=f"those of {first.teachers}")
    if not other.is_for(first.example_ids):
        lonely = sorted(set(first.example_ids).symmetric_difference(other.example_ids))
        if lonely:
            raise ValueError(
                f"the logits of {first.teachers} and {other.teachers} belong to other clips, {len(first.example_ids)} "
                f"and {len(other.example_ids)}: {some(lonely)} in one of them only. Predict both for the same dataset."
            )
    member = other.ordered_as(first.example_ids)
    _check_content(member, first.content, against=first.teachers)
    return member


def _with_known_audio(logits: LogitsSet, other: LogitsSet) -> LogitsSet:
    """Returns a set with the other's content hashes where it has none; both are in the same order."""
    is_unknown = logits.content == UNKNOWN_AUDIO
    if not is_unknown.any():
        return logits
    return replace(logits, content=np.where(is_unknown, other.content, logits.content))


def align_logits(logits: LogitsSet, clips: ClipNames, *, allow_extra: bool = False) -> LogitsSet:
    """Returns the rows of a logits set that belong to a dataset's clips, in their order.

    Args:
        logits ([`LogitsSet`]): a set.
        clips ([`ClipNames`]): names of the dataset's clips, and hashes of their audio.
        allow_extra (`bool`, *optional*, defaults to `False`): the set may hold clips that the dataset lacks.

    Raises:
        ValueError: a clip has no logits, the set holds other clips, or classes or audio differ.
    """
    _check_scenes_of(logits, clips.scenes, against="the dataset's")
    aligned = logits.ordered_as(clips.example_ids)
    if len(logits.example_ids) > len(clips.example_ids) and not allow_extra:
        extra = sorted(set(logits.example_ids).difference(clips.example_ids))
        raise ValueError(
            f"the logits of {logits.teachers} hold {len(extra)} clips that the dataset of {len(clips.example_ids)} "
            f"lacks, among them {some(extra)}. Attach them to the dataset that they were predicted for, or let them "
            "be more: allow_extra=True, in the recipes --allow_extra_logits true."
        )
    _check_content(aligned, clips.content, against="the dataset")
    return aligned


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
        ValueError: a clip has no logits or has some already, the set holds other clips, classes or audio differ, or
            the dataset yields random crops.
    """
    if not isinstance(logits, LogitsSet):
        folders = [logits] if isinstance(logits, str | Path) else logits
        logits = average_logits(load_logits(folder) for folder in folders)
    if EARLIEST in dataset.column_names:
        raise ValueError(
            "the crops are random, so that no cached logits belong to them: train with --teacher_mode online, or on "
            "shifted crops."
        )
    if TEACHER_LOGITS in dataset.column_names:
        raise ValueError(f"the dataset has {TEACHER_LOGITS} already; average the sets and attach them once.")
    aligned, rows = align_logits(logits, ClipNames(dataset), allow_extra=allow_extra), rows_of(dataset)
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
    """Raises where logits were predicted on other audio than the clips that they are joined to, as far as known."""
    is_known = (logits.content != UNKNOWN_AUDIO) & (content != UNKNOWN_AUDIO)
    differs = np.flatnonzero(is_known & (logits.content != content))
    if len(differs):
        row = differs[0]
        raise ValueError(
            f"the logits of {logits.teachers} belong to other audio than {against}: the data fingerprints of "
            f"{len(differs)} clips differ, that of {logits.example_ids[row]} is {logits.content[row]} in the logits "
            f"and {content[row]} in {against}. Predict them again on this audio."
        )


__all__ = [
    "LogitsSet",
    "align_logits",
    "attach_logits",
    "average_logits",
    "check_scenes",
    "load_logits",
    "model_identity",
]
