"""Files are there whole or not at all."""

import json

import pytest

from hf_ascdistill.files import write_json, written_whole


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


def test_value_that_json_lacks_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert not list(tmp_path.iterdir())
