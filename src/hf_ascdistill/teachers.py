"""Teacher logits: predicted once, kept in Arrow files with a manifest, averaged and attached to a dataset by id."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from tqdm.auto import tqdm
from transformers.utils import logging

from .data.columns import EXAMPLE_ID, LABELS, TEACHER_LOGITS
from .evaluation import predict_batches
from .transforms.frontend import AcousticFrontend

logger = logging.get_logger(__name__)

FORMAT = 1
PLAN_NAME = "plan.json"  # what is being predicted; written before the first logits
MANIFEST_NAME = "meta.json"  # the same and the files; written last
CHUNK_CLIPS = 4096  # clips in one file: what a killed run loses at the most
LOGITS, CONTENT = "logits", "content"


@dataclass(frozen=True)
class LogitsSet:
    """Raw logits of one teacher, or the mean of several, for the clips of one dataset.

    Args:
        example_ids (`np.ndarray`): names of the clips, `(N,)`, unique.
        logits (`np.ndarray`): raw logits, no temperature applied, float32 `(N, C)`, finite.
        content (`np.ndarray`): hashes of the audio that the clips were read from, `(N,)`.
        scenes (`tuple[str, ...]`): names of the C classes.
        members (`tuple[dict, ...]`): identity of each teacher: model, weights, front-end.

    Raises:
        ValueError: the arrays differ in length, an id stands twice, or a logit is not finite.
    """

    example_ids: np.ndarray
    logits: np.ndarray
    content: np.ndarray
    scenes: tuple[str, ...]
    members: tuple[dict, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.example_ids), len(self.scenes))
        if self.logits.shape != shape or len(self.content) != shape[0]:
            raise ValueError(
                f"logits are {self.logits.shape} with {len(self.content)} content hashes; expected {shape}: one row "
                "per example_id, one column per scene."
            )
        ids, counts = np.unique(self.example_ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{_some(ids[counts > 1])} stand(s) more than once in a logits set; each id must be unique.")
        bad = ~np.isfinite(self.logits).all(axis=1)
        if bad.any():
            raise ValueError(f"logits of {_some(self.example_ids[bad])} are NaN or infinite; predict this set again.")

    def ordered_as(self, example_ids: Sequence[str]) -> "LogitsSet":
        """Returns the rows of `example_ids`, in their order.

        Raises:
            ValueError: an id has no logits.
        """
        position = {name: row for row, name in enumerate(self.example_ids)}
        missing = [name for name in example_ids if name not in position]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(example_ids)} clips have no logits, among them {_some(missing)}; the set of "
                f"{describe_members(self.members)} has {len(position)}. Predict logits for this very dataset."
            )
        rows = np.array([position[name] for name in example_ids], dtype=np.int64)
        return LogitsSet(self.example_ids[rows], self.logits[rows], self.content[rows], self.scenes, self.members)


def describe_members(members: Sequence[dict]) -> str:
    """Returns a short name for the teachers of a set."""
    return ", ".join(member["model"]["name"] for member in members) or "unnamed teachers"


def model_identity(model: nn.Module) -> dict[str, str]:
    """Returns what tells a model from every other: type, name and a hash of all weights and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    name = Path(model.config._name_or_path or model.config.model_type).name
    return {"type": model.config.model_type, "name": name, "weights": digest.hexdigest()}


def predict_logits(
    model: nn.Module,
    dataset,
    output_dir: str | Path,
    *,
    frontend: AcousticFrontend,
    batch_size: int = 256,
) -> LogitsSet:
    """Predicts the logits of every clip of a dataset and keeps them in a folder.

    Under `accelerate launch` each process predicts its share of the files. A run that was interrupted goes on where it
    stopped; a finished one is only read. The clips are not augmented: teacher logits belong to the clean clip (paper,
    section 3).

    Args:
        model (`nn.Module`): a trained audio classifier.
        dataset (`datasets.Dataset`): clips with `waveform`, `example_id` and `labels`.
        output_dir (`str | Path`): folder of the set.
        frontend (`AcousticFrontend`): its evaluation twin makes the log-mels.
        batch_size (`int`, *optional*, defaults to 256): clips at a time.

    Returns:
        [`LogitsSet`]: all rows, in the dataset's order.

    Raises:
        ValueError: the folder holds a set of another model, front-end or dataset, or the model has other classes than
            the dataset.
    """
    from .data.store import clip_contents

    state = PartialState()
    content = clip_contents(dataset)
    plan = _plan(model, frontend, dataset, content)
    folder = Path(output_dir)
    if state.is_main_process:
        _start(folder, plan)
    state.wait_for_everyone()
    chunks = range(0, len(dataset), CHUNK_CLIPS)
    mine = [chunk for chunk in chunks if (chunk // CHUNK_CLIPS) % state.num_processes == state.process_index]
    predict = partial(predict_batches, model.to(state.device), frontend=frontend, batch_size=batch_size)
    _predict_missing(predict, dataset, folder, {chunk: content[chunk : chunk + CHUNK_CLIPS] for chunk in mine})
    state.wait_for_everyone()
    if state.is_main_process and not (folder / MANIFEST_NAME).exists():
        files = [_chunk_path(folder, chunk).name for chunk in chunks]
        _write_json(folder / MANIFEST_NAME, {**plan, "files": files})
    state.wait_for_everyone()
    return load_logits(folder)


def _predict_missing(predict, dataset, folder: Path, chunks: dict[int, np.ndarray]) -> None:
    """Predicts the chunks whose file is not there yet, with one progress bar on the main process."""
    todo = {chunk: content for chunk, content in chunks.items() if not _chunk_path(folder, chunk).exists()}
    clips = sum(map(len, todo.values()))
    disable = not PartialState().is_main_process
    with tqdm(total=clips, desc=f"logits -> {folder}", unit="clip", disable=disable) as progress:
        for chunk, content in todo.items():
            rows = dataset.select(range(chunk, chunk + len(content)))
            logits = []
            for batch in predict(rows):
                logits.append(batch["logits"].numpy())
                progress.update(len(logits[-1]))
            _write_chunk(_chunk_path(folder, chunk), _example_ids(rows), np.concatenate(logits), content)


def _example_ids(dataset) -> list[str]:
    """Returns the ids of all rows without reading audio."""
    return list(dataset.with_format(None)[EXAMPLE_ID])


def _plan(model: nn.Module, frontend: AcousticFrontend, dataset, content: np.ndarray) -> dict:
    """Says what a set is: model, front-end, data and classes."""
    scenes = list(dataset.features[LABELS].names)
    check_scenes(model, scenes)
    data = hashlib.blake2b("\n".join(map(str.__add__, _example_ids(dataset), content)).encode(), digest_size=16)
    return {
        "format": FORMAT,
        "model": model_identity(model),
        "front_end": frontend.extractor.to_dict(),
        "data": data.hexdigest(),
        "clips": len(dataset),
        "scenes": scenes,
    }


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
        raise ValueError(f"the model's classes are {names}, the data's are {list(scenes)}; they must be the same.")


def _start(folder: Path, plan: dict) -> None:
    """Writes the plan of a new set, or checks that the folder's plan is the same; removes half-written files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLAN_NAME
    if not path.exists():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no logits set; choose another output folder.")
        _write_json(path, plan)
    present = json.loads(path.read_text())
    for key, value in json.loads(json.dumps(plan)).items():
        if present.get(key) != value:
            raise ValueError(
                f"{folder} holds logits of another {key.replace('_', '-')}: {present.get(key)}, now {value}. "
                "Choose another output folder, or remove this one."
            )
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()


def _chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"logits-{chunk // CHUNK_CLIPS:05d}.arrow"


def _write_json(path: Path, value: dict) -> None:
    """Writes beside, then renames."""
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(json.dumps(value, indent=1))
    os.replace(staged, path)


def _write_chunk(path: Path, example_ids: list[str], logits: np.ndarray, content: np.ndarray) -> None:
    """Writes one Arrow file beside, then renames it."""
    import pyarrow as pa

    values = pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32).ravel()), logits.shape[1])
    table = pa.table({EXAMPLE_ID: example_ids, LOGITS: values, CONTENT: list(content)})
    staged = path.with_name(path.name + ".tmp")
    with pa.OSFile(str(staged), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    os.replace(staged, path)


def load_logits(path: str | Path) -> LogitsSet:
    """Reads a finished logits set.

    Args:
        path (`str | Path`): folder written by [`predict_logits`].

    Raises:
        FileNotFoundError: there is no finished set.
        ValueError: a file is damaged, or the rows contradict the manifest.
    """
    import pyarrow as pa

    folder = Path(path)
    manifest = folder / MANIFEST_NAME
    if not manifest.exists():
        raise FileNotFoundError(f"{folder} holds no finished logits set ({MANIFEST_NAME} is missing); predict it again.")
    meta = json.loads(manifest.read_text())
    try:
        tables = [pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all() for name in meta["files"]]
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise ValueError(f"{folder}: a file of the logits set is missing or damaged ({error}); remove the folder and predict it again.") from error
    table = pa.concat_tables(tables).combine_chunks()
    if len(table) != meta["clips"]:
        raise ValueError(f"{folder} holds {len(table)} clips, its manifest says {meta['clips']}; predict it again.")
    logits = np.array(table[LOGITS].combine_chunks().flatten()).reshape(len(table), -1)
    member = {key: meta[key] for key in ("model", "front_end", "data")}
    ids, content = (np.array(table[name].to_pylist(), dtype=object) for name in (EXAMPLE_ID, CONTENT))
    return LogitsSet(ids, logits, content, tuple(meta["scenes"]), (member,))


def average_logits(sets: Sequence[LogitsSet]) -> LogitsSet:
    """Averages the raw logits of an ensemble's members (paper, section 5); a temperature comes later, in the loss.

    Args:
        sets (`Sequence[LogitsSet]`): one set per teacher, for the same clips.

    Raises:
        ValueError: no set is given, or two sets differ in classes, clips or audio.
    """
    if not sets:
        raise ValueError("an ensemble needs at least one logits set; none was given.")
    first = sets[0]
    for other in sets[1:]:
        names = f"{describe_members(first.members)} and {describe_members(other.members)}"
        if other.scenes != first.scenes:
            raise ValueError(f"{names} have other classes: {first.scenes} and {other.scenes}.")
        if len(other.example_ids) != len(first.example_ids):
            raise ValueError(f"{names} hold {len(first.example_ids)} and {len(other.example_ids)} clips.")
    aligned = [logits.ordered_as(first.example_ids) for logits in sets]
    for other in aligned[1:]:
        _check_content(other, first.content, against=describe_members(first.members))
    mean = np.mean([logits.logits for logits in aligned], axis=0, dtype=np.float64).astype(np.float32)
    members = tuple(member for logits in sets for member in logits.members)
    return LogitsSet(first.example_ids, mean, first.content, first.scenes, members)


def _check_content(logits: LogitsSet, content: np.ndarray, *, against: str) -> None:
    """Raises when logits were predicted on other audio than the clips that they are joined to."""
    differs = logits.content != content
    if differs.any():
        raise ValueError(
            f"logits of {describe_members(logits.members)} belong to other audio than {against}: the data fingerprint of "
            f"{_some(logits.example_ids[differs])} is {logits.content[differs][0]}, expected {content[differs][0]}."
        )


def attach_logits(dataset, logits: LogitsSet | str | Path | Sequence[str | Path], *, allow_extra: bool = False):
    """Adds the column `teacher_logits` to a dataset, joined by `example_id`.

    Args:
        dataset (`datasets.Dataset`): clips or crops.
        logits (`LogitsSet | str | Path | Sequence[str | Path]`): a set, or folders of sets, which are averaged.
        allow_extra (`bool`, *optional*, defaults to `False`): the set may hold clips that the dataset lacks.

    Returns:
        `datasets.Dataset`: the same rows with raw teacher logits, float32 `(C,)`.

    Raises:
        ValueError: a clip has no logits, a set holds other clips, the classes or the audio differ.
    """
    from datasets import Features, Sequence as ListFeature, Value

    from .data.store import clip_contents

    if not isinstance(logits, LogitsSet):
        folders = [logits] if isinstance(logits, str | Path) else logits
        logits = average_logits([load_logits(folder) for folder in folders])
    scenes = tuple(dataset.features[LABELS].names)
    if logits.scenes != scenes:
        raise ValueError(
            f"the logits of {describe_members(logits.members)} have {len(logits.scenes)} classes {logits.scenes}, the "
            f"dataset has {len(scenes)}: {scenes}."
        )
    example_ids = _example_ids(dataset)
    aligned = logits.ordered_as(example_ids)
    extra = len(logits.example_ids) - len(example_ids)
    if extra and not allow_extra:
        names = _some(sorted(set(logits.example_ids) - set(example_ids)))
        raise ValueError(
            f"the logits of {describe_members(logits.members)} hold {extra} clips that the dataset lacks, among them "
            f"{names}. Attach the set to the dataset it was predicted on, or pass allow_extra=True."
        )
    _check_content(aligned, clip_contents(dataset), against="the dataset")
    feature = ListFeature(Value("float32"), length=len(scenes))
    return dataset.add_column(TEACHER_LOGITS, list(aligned.logits), feature=feature)


def _some(names: Sequence[str]) -> str:
    """Returns the first three names of many."""
    return ", ".join(map(str, list(names)[:3])) + (", ..." if len(names) > 3 else "")


__all__ = ["LogitsSet", "attach_logits", "average_logits", "check_scenes", "load_logits", "model_identity", "predict_logits"]
