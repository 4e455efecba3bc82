"""Files are there whole or not at all."""

import json

import pytest

from hf_ascdistill.files import check_unused, is_staged, new_folder, write_json, written_whole


def test_json_file_is_written_and_nothing_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": [2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_error_on_the_way_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("before")
    with pytest.raises(OSError, match="disk full"), written_whole(path) as staged:
        staged.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    with written_whole(tmp_path / "a.json") as first:
        monkeypatch.setattr("os.getpid", lambda: -1)  # another process
        with written_whole(tmp_path / "a.json") as second:
            first.write_text("one")
            second.write_text("another")
        assert (tmp_path / "a.json").read_text() == "another"
        assert is_staged(first, "a.json") and not is_staged(first, "b.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "one"


def test_value_that_json_lacks_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_folder_appears_when_all_is_written(tmp_path, is_there):
    path = tmp_path / "models" / "soup"
    if is_there:
        path.mkdir(parents=True)
    with new_folder(path) as partial:
        (partial / "config.json").write_text("{}")
        assert not path.exists() or not any(path.iterdir())
    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert [folder.name for folder in path.parent.iterdir()] == ["soup"]


def test_folder_or_file_that_holds_something_stays(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "kept.txt"):
        with pytest.raises(ValueError, match="exists already; name a new or empty folder"):
            check_unused(path)
        with pytest.raises(ValueError, match="exists already"), new_folder(path):
            pytest.fail("was given a folder")
    assert (tmp_path / "kept.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("other")])
def test_error_on_the_way_leaves_no_folder(tmp_path, error):
    with pytest.raises(type(error)), new_folder(tmp_path / "models" / "soup") as partial:
        (partial / "half.bin").write_bytes(b"0")
        raise error
    assert not list(tmp_path.iterdir())


def test_folder_of_a_killed_run_is_replaced(tmp_path):
    left = tmp_path / ".soup.partial"
    left.mkdir()
    (left / "half.bin").write_bytes(b"0")
    with new_folder(tmp_path / "soup") as partial:
        (partial / "whole.bin").write_bytes(b"1")
    assert [file.name for file in (tmp_path / "soup").iterdir()] == ["whole.bin"]
    assert not left.exists()
