"""Published logits join meta.csv by their rows; a file that does not belong to it raises and leaves nothing behind."""

import errno
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from published import written
from tiny_corpus import example_ids, tiny_corpus, tiny_store

from hf_ascdistill import (
    LogitsSet,
    attach_logits,
    average_logits,
    convert_checkpoint,
    convert_logits,
    load_logits,
    load_prepared,
)
from hf_ascdistill.conversion import ensemble_logits
from hf_ascdistill.data.store import clip_contents

AGREEMENT = 0.8


def labels_of(meta_csv: Path) -> np.ndarray:
    """Label id of each row."""
    lines = meta_csv.read_text().splitlines()[1:]
    names = np.array([line.split("\t")[1] for line in lines])
    return np.unique(names, return_inverse=True)[1]


def scenes_of(clips) -> tuple[str, ...]:
    return tuple(clips.features["labels"].names)


def teacher_logits(labels: np.ndarray) -> np.ndarray:
    """Logits that decide right for four of five clips."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1, (len(labels), 10)).astype(np.float32)
    is_right = np.arange(len(labels)) % 5 > 0
    logits[np.arange(len(labels)), np.where(is_right, labels, (labels + 1) % 10)] += 10
    return logits


@pytest.fixture(scope="module")
def meta_csv(tmp_path_factory) -> Path:
    """The table of a corpus of 90 clips."""
    return tiny_corpus(tmp_path_factory.getbasetemp()) / "meta.csv"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The training clips of the same corpus."""
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))["train"]


@pytest.fixture(scope="module")
def convert(meta_csv, clips) -> Callable[..., LogitsSet]:
    """Converts logits of this corpus, whose scenes have names of their own."""
    return partial(convert_logits, meta_csv=meta_csv, scenes=scenes_of(clips))


@pytest.fixture(scope="module")
def logits(meta_csv) -> np.ndarray:
    return teacher_logits(labels_of(meta_csv))


@pytest.fixture(scope="module")
def published(convert, logits, tmp_path_factory) -> LogitsSet:
    """The converted logits of all clips."""
    folder = tmp_path_factory.mktemp("published")
    path = written(torch.from_numpy(logits), folder, "ensemble_logits.pt")
    return convert(path, folder / "set")


def predicted(clips, *, content=None) -> LogitsSet:
    """Logits of our own for the clips, made up."""
    scenes = scenes_of(clips)
    values = np.random.default_rng(1).normal(0, 1, (len(clips), len(scenes))).astype(np.float32)
    content = clip_contents(clips) if content is None else content
    return LogitsSet(np.array(example_ids(clips), dtype=object), values, content, scenes, ({"name": "ours"},))


def of_clips(logits: LogitsSet, clips) -> LogitsSet:
    return logits.ordered_as(example_ids(clips))


def test_every_row_of_the_table_has_its_logits(published, logits, meta_csv, clips):
    names = [Path(line.split("\t")[0]).stem for line in meta_csv.read_text().splitlines()[1:]]
    assert published.example_ids.tolist() == names
    np.testing.assert_array_equal(published.logits, logits)
    assert published.scenes == scenes_of(clips)
    [member] = published.members
    assert (member["name"], member["data"]) == ("ensemble_logits", None)
    assert set(published.content) == {""}


KINDS = {
    "float32 tensor": torch.from_numpy,
    "float16 tensor": lambda logits: torch.from_numpy(logits).half(),
    "float64 tensor": lambda logits: torch.from_numpy(logits).double(),
    "tensor with gradient": lambda logits: torch.from_numpy(logits).requires_grad_(),
    "float32 array": lambda logits: logits,
    "float16 array": lambda logits: logits.astype(np.float16),
    "transposed array": np.asfortranarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_arrays_of_any_precision_are_read(kind, logits, convert, tmp_path):
    convert(written(KINDS[kind](logits), tmp_path), tmp_path / "set")
    stored = load_logits(tmp_path / "set").logits
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, logits, rtol=1e-3 if "16" in kind else 0, atol=0)


def test_an_array_that_an_older_numpy_saved_is_read(logits, convert, tmp_path):
    path, older = written(logits, tmp_path), tmp_path / "older.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(older, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert older.read_bytes() != path.read_bytes()
    stored = convert(older, tmp_path / "set")
    np.testing.assert_array_equal(stored.logits, logits)


def test_published_logits_attach_to_clips_whose_audio_they_do_not_know(published, clips):
    attached = attach_logits(clips, published, allow_extra=True)
    stored = np.array(attached.with_format(None)["teacher_logits"][:], dtype=np.float32)
    np.testing.assert_array_equal(stored, of_clips(published, clips).logits)
    right = stored.argmax(axis=1) == np.array(attached.with_format(None)["labels"][:])
    assert right.mean() == pytest.approx(AGREEMENT, abs=0.05)


@pytest.mark.parametrize("is_first", [True, False])
def test_published_logits_join_an_ensemble_that_keeps_what_is_known_of_the_audio(is_first, published, clips):
    members = [of_clips(published, clips), predicted(clips)]
    mean = average_logits(members if is_first else members[::-1])
    np.testing.assert_allclose(mean.logits, (members[0].logits + members[1].logits) / 2, atol=1e-6)
    assert mean.content.tolist() == clip_contents(clips).tolist()


def test_members_of_other_audio_are_found_behind_published_logits(published, clips):
    other = clip_contents(clips)
    other[3] = "0" * 32
    with pytest.raises(ValueError, match="ours belong to other audio than .* 1 clips differ"):
        average_logits([of_clips(published, clips), predicted(clips), predicted(clips, content=other)])


def with_number(logits: np.ndarray, number: float) -> np.ndarray:
    changed = logits.copy()
    changed[[7, 9], 2] = number
    return changed


BAD_LOGITS = {
    r"89 rows of logits, but .*meta.csv has 90 clips": lambda x: torch.from_numpy(x[:-1]),
    r"180 rows of logits, but .*meta.csv has 90 clips": lambda x: torch.from_numpy(np.tile(x, (2, 1))),
    r"9 classes; expected the 10 scenes ": lambda x: torch.from_numpy(x[:, :9].copy()),
    r"2 of 90 rows hold NaN or infinity, the first is that of audio/.*\.wav": lambda x: with_number(x, np.nan),
    r"2 of 90 rows hold NaN": lambda x: torch.from_numpy(with_number(x, -np.inf)),
    r"in \d+\.\d % of 90 rows; expected at least 30 %. They are in another order": lambda x: x[::-1].copy(),
    r"another order: take the meta.csv": lambda x: torch.from_numpy(np.random.default_rng(0).permutation(x)),
    r"holds ndarray of shape \(90,\); expected one matrix": lambda x: torch.from_numpy(x[:, 0].copy()),
    r"holds ndarray of shape \(1, 90, 10\)": lambda x: torch.from_numpy(x)[None],
    r"holds Tensor; expected one matrix of floating-point": lambda x: torch.zeros(90, 10, dtype=torch.int64),
    r"holds dict; expected one matrix": lambda x: {"logits": torch.from_numpy(x)},
    r"holds list; expected one matrix": lambda x: x.tolist(),
    r"cannot be read as logits": lambda x: x.astype(object),
}


@pytest.mark.parametrize("message", BAD_LOGITS)
def test_logits_that_do_not_fit_raise_and_leave_nothing(message, logits, convert, tmp_path):
    path = written(BAD_LOGITS[message](logits), tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        convert(path, tmp_path / "deep" / "set")
    assert str(path) in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("is_torch_file", [True, False])
def test_code_in_a_file_is_not_run(is_torch_file, logits, convert, tmp_path):
    proof, path = tmp_path / "ran", tmp_path / "logits.pt"
    content = [logits, Intruder(proof)]
    torch.save(content, path) if is_torch_file else path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=f"{path} cannot be read as logits"):
        convert(path, tmp_path / "set")
    assert not proof.exists()
    torch.load(path, weights_only=False) if is_torch_file else pickle.loads(path.read_bytes())
    assert proof.exists()  # the file was able to


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_file_raises(kept, logits, convert, tmp_path):
    path = written(torch.from_numpy(logits), tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} cannot be read as logits"):
        convert(path, tmp_path / "set")


def test_an_unknown_scene_of_the_table_raises_with_its_line(logits, meta_csv, tmp_path):
    scene = meta_csv.read_text().splitlines()[1].split("\t")[1]
    with pytest.raises(ValueError, match=f"meta.csv, line 2: {scene} is not one of airport, bus"):
        convert_logits(written(logits, tmp_path), tmp_path / "set", meta_csv=meta_csv)


def test_logits_are_no_checkpoint(logits, tmp_path):
    with pytest.raises(ValueError, match=r"one tensor of shape \(90, 10\).*convert_logits"):
        convert_checkpoint(written(torch.from_numpy(logits), tmp_path), tmp_path / "model")


def test_a_folder_in_use_is_left_alone(logits, convert, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        convert(written(logits, tmp_path), folder)
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("writer", ["write_logits_file", "write_json"])
def test_a_full_disk_leaves_nothing(writer, logits, convert, tmp_path, monkeypatch):
    def fill_the_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = written(logits, tmp_path)
    monkeypatch.setattr(ensemble_logits, writer, fill_the_disk)
    with pytest.raises(OSError, match="set cannot be written, and nothing .*No space left"):
        convert(path, tmp_path / "set")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_full_table_joins_and_its_rows_by_name_do_not(shared, tmp_path):
    meta_csv = shared / "data" / "tau22-meta" / "meta.csv"
    labels = labels_of(meta_csv)
    logits = teacher_logits(labels)
    stored = convert_logits(written(logits, tmp_path, "right.pt"), tmp_path / "set", meta_csv=meta_csv)
    assert len(stored.example_ids) == 230_350
    assert (stored.logits.argmax(axis=1) == labels).mean() == pytest.approx(AGREEMENT, abs=1e-3)
    path = written(logits[np.argsort(stored.example_ids)], tmp_path, "by-name.pt")
    with pytest.raises(ValueError, match="in 1.* % of 230,350 rows"):
        convert_logits(path, tmp_path / "other", meta_csv=meta_csv)
