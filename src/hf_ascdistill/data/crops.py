"""Shifted crops: windows over the joined clips of each recording, as new rows over the same audio."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .columns import CONTENT, EXAMPLE_ID, LENGTH, PATH, SAMPLING_RATE, START, TEACHER_LOGITS
from .index import CROP_SUFFIX, Runs, gap_free_runs, rows_of, with_rows

SAMPLES_PER_MS = SAMPLING_RATE // 1000
BEGINS_INSIDE = CROP_SUFFIX.replace(r"\d+", r"0*[1-9]\d*")  # an offset other than 0


def shifted_crops(dataset: Dataset, *, hop_seconds: float = 0.5, length_seconds: float = 1.0) -> Dataset:
    """Cuts crops from the recordings that a dataset's clips form; no audio is read or copied.

    A crop begins at each clip's border and every hop after it, as long as its recording goes on: a missing slice is
    never bridged. With TAU22's ten 1-s slices the defaults give 19 crops a recording (the paper's shifted crops
    augmentation). A crop that is a whole clip keeps its `example_id`; others are named `{example_id}+{offset}ms` after
    the clip that they begin in, so names do not depend on the machine or on which other clips are there.

    Args:
        dataset (`Dataset`): whole clips, from `load_tau22`, `prepare` or `prepare_recordings`.
        hop_seconds (`float`, *optional*, defaults to 0.5): seconds from crop to crop; whole milliseconds.
        length_seconds (`float`, *optional*, defaults to 1.0): seconds of a crop; whole milliseconds.

    Returns:
        `Dataset`: one row per crop, in the order of the clips; the transform stays.

    Raises:
        ValueError: the times are not whole milliseconds, the clips overlap or have teacher logits, or a recording is
            shorter than one crop.
    """
    hop, length = _samples("hop_seconds", hop_seconds), _samples("length_seconds", length_seconds)
    if TEACHER_LOGITS in dataset.column_names:
        raise ValueError(
            "the clips have teacher logits, which do not belong to shifted crops; attach logits to the crops."
        )
    clips = rows_of(dataset)
    runs = gap_free_runs(clips)
    row, offset = _crop_positions(clips, runs, hop, length)
    is_whole = (offset == 0) & (clips[LENGTH].to_numpy()[row] == length)
    columns = {
        EXAMPLE_ID: _crop_names(clips[EXAMPLE_ID].take(row), offset, is_whole),
        START: pa.array(clips[START].to_numpy()[row] + offset),
        LENGTH: pa.repeat(pa.scalar(length, pa.int64()), len(row)),
    }
    if PATH in clips.column_names:  # a crop across files has none
        columns[PATH] = pc.if_else(is_whole, clips[PATH].take(row), None)
    if CONTENT in clips.column_names:
        columns[CONTENT] = crop_contents(clips, runs, row=row, offset=offset, length=np.full(len(row), length))
    return with_rows(dataset, _with_columns(clips.take(row), columns))


def _samples(name: str, seconds: float) -> int:
    milliseconds = round(seconds * 1000)
    if milliseconds < 1 or abs(milliseconds - seconds * 1000) > 1e-6:
        raise ValueError(f"{name}={seconds}; expected a positive whole number of milliseconds.")
    return milliseconds * SAMPLES_PER_MS


def _crop_positions(clips: pa.Table, runs: Runs, hop: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each crop, the row of the clip that it begins in and its offset in it, in samples."""
    start, clip_length = clips[START].to_numpy(), clips[LENGTH].to_numpy()
    last = runs.order[np.append(runs.first[1:], len(clips)) - 1]
    run_end = (start + clip_length)[last]
    too_short = np.flatnonzero(run_end - start[runs.order[runs.first]] < length)
    if len(too_short):
        run = too_short[0]
        name = clips[EXAMPLE_ID][int(runs.order[runs.first[run]])].as_py()
        seconds = (run_end[run] - start[runs.order[runs.first[run]]]) / SAMPLING_RATE
        raise ValueError(
            f"{len(too_short)} recording(s) are shorter than a crop of {length / SAMPLING_RATE:g} s, the first at "
            f"{name} ({seconds:g} s); take them out, or cut shorter crops."
        )
    fits = (run_end[runs.of_rows()] - start - length) // hop + 1
    count = np.clip(fits, 0, -(-clip_length // hop))
    row = np.repeat(np.arange(len(clips)), count)
    return row, (np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)) * hop


def _crop_names(names: pa.ChunkedArray, offset: np.ndarray, is_whole: np.ndarray) -> pa.ChunkedArray:
    milliseconds = pa.array(offset // SAMPLES_PER_MS).cast(pa.string())
    return pc.if_else(is_whole, names, pc.binary_join_element_wise(names, "+", milliseconds, "ms", ""))


def crop_contents(clips: pa.Table, runs: Runs, *, row: np.ndarray, offset: np.ndarray, length: np.ndarray) -> pa.Array:
    """Hashes the contents of the clips that each crop touches with its place in them; a whole clip keeps its own.

    Args:
        clips (`pa.Table`): rows of prepared clips.
        runs ([`Runs`]): theirs.
        row (`np.ndarray`): the clip that each crop begins in, `(N,)`.
        offset (`np.ndarray`): where in it the crop begins, samples, `(N,)`.
        length (`np.ndarray`): of each crop, samples, `(N,)`.
    """
    clip_length = clips[LENGTH].to_numpy()
    end = np.cumsum(clip_length[runs.order])  # of each clip, as if all runs were one
    place = np.empty(len(clips), dtype=np.int64)
    place[runs.order] = np.arange(len(clips))
    crop_end = end[place[row]] - clip_length[row] + offset + length
    last = np.searchsorted(end, crop_end)
    contents = clips[CONTENT].take(runs.order).to_pylist()
    is_whole = (offset == 0) & (clip_length[row] == length)
    result = []
    for begin, stop, shift, samples, whole in zip(
        place[row].tolist(), (last + 1).tolist(), offset.tolist(), length.tolist(), is_whole, strict=True
    ):
        touched = contents[begin:stop]
        text = f"{shift} {samples} {' '.join(touched)}"
        result.append(touched[0] if whole else hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
    return pa.array(result)


def _with_columns(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values)
    return table


def aligned_only(dataset: Dataset) -> Dataset:
    """Keeps the crops that begin at a clip's border; where crops are as long as clips, these are the clips.

    Args:
        dataset (`Dataset`): crops or clips.
    """
    rows = rows_of(dataset)
    return with_rows(dataset, rows.filter(pc.invert(pc.match_substring_regex(rows[EXAMPLE_ID], BEGINS_INSIDE))))


__all__ = ["aligned_only", "crop_contents", "shifted_crops"]
