"""A set of teacher logits: what it holds, and its files, Arrow tables beside a manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..files import written_whole
from .columns import CONTENT, EXAMPLE_ID, LABELS
from .hub_folders import local_folder
from .index import rows_of
from .store import clip_contents

FORMAT = 1  # raised whenever the files change their meaning
MANIFEST_NAME = "meta.json"  # identity of the set, and its files; written last
LOGITS = "logits"
UNKNOWN_AUDIO = ""  # in place of a content hash: of published logits the audio is not known


@dataclass(frozen=True, eq=False)
class LogitsSet:
    """Raw logits of one teacher, or the mean of several, for the clips of one dataset.

    Args:
        example_ids (`np.ndarray`): names of the clips, `(N,)`, unique.
        logits (`np.ndarray`): raw logits, no temperature applied, float32 `(N, C)`, finite.
        content (`np.ndarray`): hashes of the audio that the clips were read from, `(N,)`; `UNKNOWN_AUDIO` where the
            logits came without.
        scenes (`tuple[str, ...]`): names of the C classes.
        members (`tuple[dict, ...]`): name and identity of each teacher: model, front-end, data.

    Raises:
        ValueError: the arrays differ in length, an id stands twice, or a logit is NaN or infinite.
    """

    example_ids: np.ndarray
    logits: np.ndarray
    content: np.ndarray
    scenes: tuple[str, ...]
    members: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.example_ids), len(self.scenes))
        if self.logits.shape != shape or len(self.content) != shape[0]:
            raise ValueError(
                f"the logits of {self.teachers} are {self.logits.shape} with {len(self.content)} content hashes; "
                f"expected {shape}: one row per example_id, one column per scene ({', '.join(self.scenes)})."
            )
        if len(set(self.example_ids)) < shape[0]:
            ids, counts = np.unique(self.example_ids, return_counts=True)
            raise ValueError(
                f"{some(ids[counts > 1])} stand(s) more than once among the logits of {self.teachers}; expected each "
                "example_id once."
            )
        check_finite(self.logits, self.example_ids, teachers=self.teachers)

    @property
    def teachers(self) -> str:
        """`str`: names of the teachers, for people."""
        return ", ".join(member["name"] for member in self.members) or "unnamed teachers"

    def is_for(self, example_ids: Sequence[str]) -> bool:
        """Says whether the rows are those of `example_ids`, in their order."""
        return np.array_equal(self.example_ids, np.asarray(example_ids, dtype=object))

    def ordered_as(self, example_ids: Sequence[str]) -> "LogitsSet":
        """Returns the rows of `example_ids`, in their order.

        Args:
            example_ids (`Sequence[str]`): names of clips.

        Raises:
            ValueError: a clip has no logits.
        """
        if self.is_for(example_ids):
            return self
        places = pc.index_in(pa.array(example_ids, pa.string()), pa.array(self.example_ids, pa.string()))
        if places.null_count:
            missing = [example_ids[row] for row in np.flatnonzero(places.is_null())]
            raise ValueError(
                f"{len(missing)} of {len(example_ids)} clips have no logits, among them {some(missing)}; the set of "
                f"{self.teachers} holds {len(self.example_ids)} clips. Predict logits for this very dataset."
            )
        rows = places.to_numpy()
        return LogitsSet(self.example_ids[rows], self.logits[rows], self.content[rows], self.scenes, self.members)


@dataclass(frozen=True, eq=False)
class ClipNames:
    """What logits are joined by: the names of a dataset's clips, and hashes of their audio.

    Args:
        dataset (`datasets.Dataset`): clips or crops.
    """

    dataset: Dataset

    @cached_property
    def example_ids(self) -> np.ndarray:
        """`np.ndarray`: names of the clips, `(N,)`."""
        return rows_of(self.dataset)[EXAMPLE_ID].to_numpy()

    @cached_property
    def content(self) -> np.ndarray:
        """`np.ndarray`: hashes of the audio that the clips are read from, `(N,)`; wav files are read for them once."""
        return clip_contents(self.dataset)

    @cached_property
    def fingerprint(self) -> str:
        """`str`: hash of names and audio, in their order; a logits set keeps it as `data`."""
        names = json.dumps({EXAMPLE_ID: self.example_ids.tolist(), CONTENT: self.content.tolist()})
        return hashlib.blake2b(names.encode(), digest_size=16).hexdigest()

    @property
    def scenes(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: names of the dataset's labels."""
        return tuple(self.dataset.features[LABELS].names)


def check_finite(logits: np.ndarray, example_ids: Sequence[str], *, teachers: str) -> None:
    """Checks that no logit is NaN or infinite.

    Args:
        logits (`np.ndarray`): raw logits, `(N, C)`.
        example_ids (`Sequence[str]`): names of the clips, `(N,)`.
        teachers (`str`): what errors call the models.

    Raises:
        ValueError: one is; clips are named.
    """
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise ValueError(
            f"the logits of {teachers} for {len(bad)} of {len(logits)} clips are NaN or infinite, among them "
            f"{some([example_ids[row] for row in bad[:4]])}; mend the model or these clips and predict the set again."
        )


def some(names: Sequence[str]) -> str:
    """Returns the first three names of many."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def write_logits_file(path: Path, example_ids: Sequence[str], logits: np.ndarray, *, content: Sequence[str]) -> None:
    """Writes some clips of a set beside, then renames: the file is there whole or not at all.

    Args:
        path (`Path`): the file.
        example_ids (`Sequence[str]`): names of the clips, `(N,)`.
        logits (`np.ndarray`): raw logits, `(N, C)`; kept as float32.
        content (`Sequence[str]`): hashes of the clips' audio, `(N,)`.
    """
    table = pa.table({EXAMPLE_ID: list(example_ids), LOGITS: as_lists(logits), CONTENT: list(content)})
    with (
        written_whole(path) as staged,
        pa.OSFile(str(staged), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def as_lists(logits: np.ndarray) -> pa.FixedSizeListArray:
    """Turns `(N, C)` into a column of lists of C float32 numbers."""
    return pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32).ravel()), logits.shape[1])


def read_json(path: Path) -> dict[str, Any]:
    """Reads a manifest or plan.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove its folder and predict the logits again.") from error


def check_finished(folder: Path) -> None:
    """Checks that a folder holds a logits set whose last file has been written.

    Raises:
        FileNotFoundError: it does not.
    """
    if not (folder / MANIFEST_NAME).exists():
        raise FileNotFoundError(
            f"{folder} holds no finished logits set ({MANIFEST_NAME} is missing); predict it, which goes on where it "
            "stopped."
        )


def load_logits(path: str | Path) -> LogitsSet:
    """Reads a finished logits set, from a folder or from the Hub.

    Args:
        path (`str | Path`): folder written by [`predict_logits`], or `hf://datasets/user/name`, as published by
            [`publish_logits`]; a revision may follow as `@revision`, a folder in the repository as `/folder`.

    Returns:
        [`LogitsSet`]: all rows, in the order of the dataset that they were predicted for.

    Raises:
        FileNotFoundError: there is no finished set.
        ValueError: a file is damaged or of another version, or the rows contradict the manifest or each other.
    """
    folder = local_folder(path, (MANIFEST_NAME, "*.arrow"))
    check_finished(folder)
    meta = read_json(folder / MANIFEST_NAME)
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is of format {meta.get('format')}, expected {FORMAT}; remove it and predict it again."
        )
    table = pa.concat_tables([_read_file(folder / name) for name in file_names(folder, meta)]).combine_chunks()
    if len(table) != meta["clips"]:
        raise ValueError(
            f"{folder} holds the logits of {len(table)} clips, its manifest says {meta['clips']}; remove the folder "
            "and predict it again."
        )
    logits = table[LOGITS].combine_chunks()
    return LogitsSet(
        table[EXAMPLE_ID].to_numpy(),
        logits.flatten().to_numpy().reshape(-1, logits.type.list_size),
        table[CONTENT].to_numpy(),
        tuple(meta["scenes"]),
        ({key: meta[key] for key in ("name", "model", "front_end", "data")},),
    )


def file_names(folder: Path, meta: Mapping[str, Any]) -> list[str]:
    """Returns the names of the files that a manifest lists.

    Args:
        folder (`Path`): of the set, for the error.
        meta (`Mapping`): what the manifest holds.

    Raises:
        ValueError: one lies elsewhere.
    """
    outside = [name for name in meta["files"] if Path(name).name != name]
    if outside:
        raise ValueError(f"{folder / MANIFEST_NAME} names {outside[0]!r}; expected names of files beside it.")
    return list(meta["files"])


def _read_file(path: Path) -> pa.Table:
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            return reader.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); remove its folder and predict it again.") from error


__all__ = [
    "FORMAT",
    "LOGITS",
    "MANIFEST_NAME",
    "UNKNOWN_AUDIO",
    "ClipNames",
    "LogitsSet",
    "as_lists",
    "check_finished",
    "check_finite",
    "file_names",
    "load_logits",
    "read_json",
    "some",
    "write_logits_file",
]
