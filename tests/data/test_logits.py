"""A logits set refuses what no student may learn from, and damaged files are named."""

import json
import os

import numpy as np
import pytest

from hf_ascdistill import LogitsSet, load_logits
from hf_ascdistill.data.logits import FORMAT, MANIFEST_NAME, write_logits_file
from hf_ascdistill.files import write_json

SCENES = ("bus", "park")
NAMES = ["bus-lyon-1-10-0-a", "park-oslo-2-11-0-b", "park-oslo-2-11-1-b"]
MEMBER = {"name": "cpr-128k", "model": {"type": "asc-cp-resnet"}, "front_end": {}, "data": "0"}


def logits_set(**changes) -> LogitsSet:
    fields = {
        "example_ids": np.array(NAMES, dtype=object),
        "logits": np.arange(6, dtype=np.float32).reshape(3, 2),
        "content": np.array(["x", "y", "z"], dtype=object),
        "scenes": SCENES,
        "members": (MEMBER,),
    }
    return LogitsSet(**{**fields, **changes})


@pytest.fixture
def folder(tmp_path):
    """A finished set of two files."""
    logits = logits_set()
    for number, rows in enumerate((slice(0, 2), slice(2, 3))):
        path = tmp_path / f"logits-{number:05d}.arrow"
        write_logits_file(path, NAMES[rows], logits.logits[rows], content=logits.content[rows])
    files = sorted(path.name for path in tmp_path.iterdir())
    write_json(tmp_path / MANIFEST_NAME, {"format": FORMAT, **MEMBER, "scenes": SCENES, "clips": 3, "files": files})
    return tmp_path


def test_rows_come_in_the_order_that_is_asked_for():
    ordered = logits_set().ordered_as([NAMES[2], NAMES[0]])
    assert ordered.logits.tolist() == [[4, 5], [0, 1]]
    assert ordered.content.tolist() == ["z", "x"]


def test_clip_without_logits_raises_and_both_sides_are_named():
    with pytest.raises(ValueError, match=r"1 of 2 clips have no logits.* bus-oslo-9-9-9-a.* cpr-128k holds 3 clips"):
        logits_set().ordered_as([NAMES[0], "bus-oslo-9-9-9-a"])


def test_id_that_stands_twice_raises():
    with pytest.raises(ValueError, match=rf"{NAMES[0]} stand\(s\) more than once among the logits of cpr-128k"):
        logits_set(example_ids=np.array([NAMES[0], NAMES[0], NAMES[1]], dtype=object))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logit_that_is_not_finite_raises_with_its_clip(value):
    logits = np.zeros((3, 2), np.float32)
    logits[1, 0] = value
    with pytest.raises(ValueError, match=f"cpr-128k for 1 of 3 clips are NaN or infinite, among them {NAMES[1]};"):
        logits_set(logits=logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": np.zeros((3, 3), np.float32)},
        {"logits": np.zeros((2, 2), np.float32)},
        {"content": np.array(["x"], dtype=object)},
    ],
)
def test_arrays_that_do_not_fit_raise(changes):
    with pytest.raises(ValueError, match=r"expected \(3, 2\)"):
        logits_set(**changes)


def test_files_hold_the_set(folder):
    loaded, written = load_logits(folder), logits_set()
    for name in ("example_ids", "logits", "content"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(written, name))
    assert loaded.logits.dtype == np.float32
    assert (loaded.scenes, loaded.members) == (SCENES, (MEMBER,))


def test_set_that_is_not_finished_raises(folder):
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="no finished logits set"):
        load_logits(folder)


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 100), lambda path: os.truncate(path, 0)]
)
def test_file_that_is_missing_or_cut_short_raises_with_its_name(folder, damage):
    damage(folder / "logits-00001.arrow")
    with pytest.raises(ValueError, match="logits-00001.arrow is missing or damaged"):
        load_logits(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": 4}, "3 clips, its manifest says 4"),
        ({"format": 99}, "is of format 99, expected 1"),
        ({"scenes": ["bus", "park", "tram"]}, r"\(3, 2\).* expected \(3, 3\).*bus, park, tram"),
        ({"files": ["logits-00000.arrow", "logits-00000.arrow"], "clips": 4}, "more than once"),
    ],
)
def test_manifest_that_the_files_contradict_raises(folder, change, message):
    meta = json.loads((folder / MANIFEST_NAME).read_text())
    write_json(folder / MANIFEST_NAME, {**meta, **change})
    with pytest.raises(ValueError, match=message):
        load_logits(folder)


def test_manifest_that_is_no_json_raises_with_its_name(folder):
    (folder / MANIFEST_NAME).write_text('{"format": 1')
    with pytest.raises(ValueError, match=f"{MANIFEST_NAME} is damaged"):
        load_logits(folder)
