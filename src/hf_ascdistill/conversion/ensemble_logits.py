"""Turns published logits, a row of ten for every row of meta.csv, into a logits set that students learn from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..data.csv_tables import FILENAME, SCENE, CsvTable, clip_names, read_table
from ..data.logits import FORMAT, MANIFEST_NAME, UNKNOWN_AUDIO, LogitsSet, load_logits, write_logits_file
from ..data.tau22 import SCENES
from ..files import check_unused, new_folder, write_json
from .tensors import load_safely

FILE_NAME = "logits-00000.arrow"
# Teachers of the paper are right for some 60 % of the clips that they have never seen; rows in another order for 10 %.
MINIMUM_AGREEMENT = 0.3
NUMBERS = (np.float16, np.float32, np.float64)
REBUILD_ARRAY = np.zeros(0).__reduce__()[0]
# What numpy's arrays consist of in a torch file, under its present name and that of before version 2; none runs code.
ARRAY_PARTS = [
    REBUILD_ARRAY,
    (REBUILD_ARRAY, "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(number)) for number in NUMBERS),
]


def read_logits(path: str | Path) -> np.ndarray:
    """Reads a matrix that was saved with `torch.save`, a tensor or an array; never runs code of the file.

    Args:
        path (`str | Path`): the file.

    Returns:
        `np.ndarray`: float32 `(N, C)`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds objects that would run code, or is no matrix of floating-point numbers.
    """
    with torch.serialization.safe_globals(ARRAY_PARTS):
        content = load_safely(path, as_what="logits", expected="a matrix of logits, saved with torch.save")
    if isinstance(content, torch.Tensor) and content.is_floating_point():
        content = content.detach().float().numpy()
    is_floating = isinstance(content, np.ndarray) and content.dtype.type in NUMBERS
    if not is_floating or content.ndim != 2:
        shape = f" of shape {content.shape}" if isinstance(content, np.ndarray) else ""
        raise ValueError(
            f"{path} holds {type(content).__name__}{shape}; expected one matrix of floating-point logits, a row for "
            "each clip."
        )
    return np.ascontiguousarray(content, dtype=np.float32)


def check_logits(logits: np.ndarray, meta: CsvTable, *, scenes: Sequence[str], minimum_agreement: float) -> None:
    """Checks that logits can be those of the rows of a table, in its order.

    Args:
        logits (`np.ndarray`): raw logits, `(N, C)`.
        meta (`CsvTable`): the rows, with their scenes.
        scenes (`Sequence[str]`): names of the C classes.
        minimum_agreement (`float`): share of the clips that the logits must decide right.

    Raises:
        ValueError: rows or classes are not as many, a number is NaN or infinite, or the decisions agree with the
            scenes too seldom, as those of rows in another order do.
    """
    if len(logits) != len(meta):
        raise ValueError(f"{len(logits):,} rows of logits, but {meta.path} has {len(meta):,} clips; expected as many.")
    if logits.shape[1] != len(scenes):
        raise ValueError(f"{logits.shape[1]} classes; expected the {len(scenes)} scenes {', '.join(scenes)}.")
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        name = meta[FILENAME][int(bad[0])].as_py()
        raise ValueError(f"{len(bad):,} of {len(logits):,} rows hold NaN or infinity, the first is that of {name}.")
    labels = pc.index_in(meta[SCENE], value_set=pa.array(scenes, pa.string()))
    meta.refuse(pc.is_null(labels), "{scene_label} is not one of {expected}.", expected=", ".join(scenes))
    agreement = float(np.mean(logits.argmax(axis=1) == labels.to_numpy()))
    if agreement < minimum_agreement:
        raise ValueError(
            f"the logits decide for the scene of {meta.path} in {100 * agreement:.1f} % of {len(meta):,} rows; "
            f"expected at least {100 * minimum_agreement:.0f} %. They are in another order: take the meta.csv to "
            "which they belong."
        )


def _write_set(
    folder: Path, logits: np.ndarray, example_ids: Sequence[str], *, name: str, scenes: Sequence[str]
) -> None:
    """Writes the files of a logits set that says of its audio, front-end and data that they are not known."""
    write_logits_file(folder / FILE_NAME, example_ids, logits, content=[UNKNOWN_AUDIO] * len(example_ids))
    manifest = {
        "format": FORMAT,
        "name": name,
        "model": {"type": "published logits", "weights": hashlib.blake2b(logits, digest_size=16).hexdigest()},
        "front_end": {},
        "data": None,
        "scenes": list(scenes),
        "clips": len(example_ids),
        "files": [FILE_NAME],
    }
    write_json(folder / MANIFEST_NAME, manifest)


def convert_logits(
    path: str | Path,
    output_dir: str | Path,
    *,
    meta_csv: str | Path,
    scenes: Sequence[str] = SCENES,
    minimum_agreement: float = MINIMUM_AGREEMENT,
) -> LogitsSet:
    """Converts published logits, such as `ensemble_logits.pt`, into a logits set; rows join meta.csv by their order.

    They do not say on which audio they were predicted, so [`attach_logits`] compares no audio for them. Rows that were
    reordered are found by their scenes, which cannot show a change among clips of one scene.

    Args:
        path (`str | Path`): raw logits `(N, C)`, a tensor or array saved by torch.
        output_dir (`str | Path`): folder of the set; it appears only when all of it is written.
        meta_csv (`str | Path`): the corpus's table of N clips; of TAU22 the full one, 230,350 rows.
        scenes (`Sequence[str]`, *optional*, defaults to those of TAU22): names of the C classes in order.
        minimum_agreement (`float`, *optional*, defaults to 0.3): share of the clips that the logits must decide right.

    Returns:
        [`LogitsSet`]: all rows, in the order of the table.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: `output_dir` is not empty, the file is damaged or unsafe, or its rows do not fit the table.
        OSError: `output_dir` cannot be written, as on a full disk; nothing is left of it.

    Example:

    ```python
    >>> from hf_ascdistill import attach_logits, convert_logits, load_corpus

    >>> convert_logits("ensemble_logits.pt", "logits/ensemble", meta_csv="tau22/meta.csv")
    >>> clips = attach_logits(load_corpus("tau22")["train"], "logits/ensemble", allow_extra=True)
    ```"""
    check_unused(Path(output_dir))
    logits, meta = read_logits(path), read_table(meta_csv, (FILENAME, SCENE))
    try:
        check_logits(logits, meta, scenes=scenes, minimum_agreement=minimum_agreement)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with new_folder(Path(output_dir)) as folder:
        _write_set(folder, logits, clip_names(meta).to_pylist(), name=Path(path).stem, scenes=scenes)
    return load_logits(output_dir)


__all__ = ["MINIMUM_AGREEMENT", "check_logits", "convert_logits", "read_logits"]
