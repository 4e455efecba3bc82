"""`ascdistill classify`: what it prints and writes, how it takes broken files, and the decisions of real models."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from loopback_hub import TOKEN, USER, running_hub
from publishing_parts import client_environment, running_client
from serving_parts import noise

from hf_ascdistill import SCENES, CpMobileForAudioClassification, EndpointHandler, convert_checkpoint

NAMES = ["a.wav", "b.FLAC", "below/c.ogg", "below/d.wav"]


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def correct(table: Path, corpus: Path) -> tuple[int, int]:
    """Clips of the evaluate list whose row in a table names their scene, and all of them."""
    told = {row["file"]: row["scene"] for row in read_table(table)}
    with open(corpus / "evaluation_setup" / "fold1_evaluate.csv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return sum(told[str(corpus / row["filename"])] == row["scene_label"] for row in rows), len(rows)


def evaluate_clips(corpus: Path) -> list[Path]:
    lines = (corpus / "evaluation_setup" / "fold1_evaluate.csv").read_text().splitlines()[1:]
    return [corpus / line.split("\t")[0] for line in lines]


def test_a_folder_is_read_and_told_as_the_request_handler_would(ascdistill, model_folder, recordings):
    result = ascdistill("classify", "--model", model_folder, recordings, "--json")
    assert result.code == 0
    told = [json.loads(line) for line in result.out.splitlines()]
    assert [row["file"] for row in told] == [str(recordings / name) for name in NAMES]
    assert [row["seconds"] for row in told] == [1, 1, 1, 3.2]
    handler = EndpointHandler(str(model_folder), trust_remote_code=False)
    for row in told:
        answer = handler({"inputs": Path(row["file"]).read_bytes()})
        assert list(row["scores"]) == [entry["label"] for entry in answer]
        assert np.allclose(list(row["scores"].values()), [entry["score"] for entry in answer], rtol=0, atol=2e-6)
        assert (row["scene"], row["score"]) == next(iter(row["scores"].items()))


def test_the_table_has_a_column_for_each_scene(ascdistill, model_folder, recordings, tmp_path):
    table = tmp_path / "scenes.csv"
    result = ascdistill("classify", "--model", model_folder, recordings, "--output", table)
    assert (result.code, result.out) == (0, "")
    assert "4 of 4 files classified" in result.err
    rows = read_table(table)
    assert list(rows[0]) == ["file", "scene", "score", "seconds", *SCENES]
    assert [Path(row["file"]).name for row in rows] == [Path(name).name for name in NAMES]
    for row in rows:
        scores = {scene: float(row[scene]) for scene in SCENES}
        assert max(scores, key=scores.get) == row["scene"] and scores[row["scene"]] == float(row["score"])
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recordings", "scenes.csv"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_change_what_is_told(ascdistill, model_folder, recordings, batch_size):
    command = ("classify", "--model", model_folder, recordings, "--json", "--hop", 0.3, "--batch_size")
    rows = [[json.loads(line) for line in ascdistill(*command, size).out.splitlines()] for size in (batch_size, 32)]
    assert [row["file"] for row in rows[0]] == [row["file"] for row in rows[1]]
    for one, other in zip(*rows, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=2e-6)


def test_text_and_json_tell_so_many_scenes(ascdistill, model_folder, recordings):
    command = ("classify", "--model", model_folder, recordings / "a.wav")
    [line] = ascdistill(*command).out.splitlines()
    assert line.startswith(f"{recordings / 'a.wav'}: ") and line.count(",") == 0
    [line] = ascdistill(*command, "--top_k", 3).out.splitlines()
    assert line.count(",") == 2
    assert len(json.loads(ascdistill(*command, "--top_k", 3, "--json").out)["scores"]) == 3
    assert ascdistill(*command, "--quiet").err == ""


def test_a_broken_file_among_good_ones_is_named_and_the_others_are_done(
    ascdistill, model_folder, recordings, tmp_path
):
    whole, table = (recordings / "a.wav").read_bytes(), tmp_path / "scenes.csv"
    broken = {"cut.wav": whole[: len(whole) // 2], "empty.wav": b"", "text.wav": b"no audio at all"}
    for name, data in broken.items():
        (recordings / name).write_bytes(data)
    result = ascdistill("classify", "--model", model_folder, recordings, "gone.wav", "--output", table, "--quiet")
    assert result.code == 1
    reasons = dict(line.split(": ", 1) for line in result.err.splitlines())
    assert set(reasons) == {*(str(recordings / name) for name in broken), "gone.wav"}
    assert "expected the" in reasons[str(recordings / "cut.wav")]
    assert reasons["gone.wav"] == "No such file or directory"
    assert [row["file"] for row in read_table(table)] == [str(recordings / name) for name in NAMES]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--window", "0.1"), "window is 0.1; expected seconds, 0.5 to 10"),
        (("--hop", "2"), "hop is 2.0; expected"),
        (("--top_k", "0"), "top_k is 0; expected"),
        (("--batch_size", "0"), "batch_size is 0; expected"),
        (("--output", "absent/scenes.csv"), "there is no folder absent"),
        (("--model", "./absent"), "model './absent' is neither a folder nor a model of the Hub"),
        (("--model", "user/absent"), "model 'user/absent' is neither a folder nor a model of the Hub"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    ascdistill, model_folder, recordings, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    command = ("classify", "--model", model_folder, "--output", "scenes.csv", recordings, *arguments)
    result = ascdistill(*command)
    assert (result.code, result.out) == (2, "")
    [line] = result.err.splitlines()
    assert line.startswith("ascdistill classify: ") and words in line
    assert [path.name for path in tmp_path.iterdir()] == ["recordings"]


def test_a_folder_without_audio_or_model_is_refused(ascdistill, model_folder, recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    result = ascdistill("classify", "--model", model_folder, tmp_path / "empty")
    assert result.code == 2 and "holds no audio file" in result.err
    result = ascdistill("classify", "--model", tmp_path / "empty", recordings)
    assert result.code == 2 and "holds no config.json" in result.err


def test_a_failure_leaves_the_old_table_and_no_half_of_a_new_one(
    ascdistill, model_folder, recordings, tmp_path, monkeypatch
):
    table = tmp_path / "scenes.csv"
    table.write_text("old")

    def stop(*arguments, **keywords):
        raise OSError("the disk is full")

    monkeypatch.setattr("hf_ascdistill.command_line.classify.as_row", stop)
    result = ascdistill("classify", "--model", model_folder, recordings, "--output", table)
    assert result.code == 2 and "the disk is full" in result.err
    assert table.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recordings", "scenes.csv"]


def test_names_that_are_no_text_are_told_all_the_same(ascdistill, model_folder, recordings, tmp_path):
    name = b"caf\xe9.wav"  # from an old archive
    (recordings / "a.wav").rename(os.fsdecode(os.path.join(os.fsencode(recordings), name)))
    done = ascdistill("classify", "--model", model_folder, recordings, "--output", tmp_path / "scenes.csv")
    assert done.code == 0, done.err
    assert name in (tmp_path / "scenes.csv").read_bytes()


def test_a_model_in_half_precision_classifies(ascdistill, model_folder, recordings, tmp_path):
    CpMobileForAudioClassification.from_pretrained(model_folder).bfloat16().save_pretrained(tmp_path / "half")
    shutil.copy(model_folder / "preprocessor_config.json", tmp_path / "half")
    done = ascdistill("classify", "--model", tmp_path / "half", recordings / "a.wav")
    assert done.code == 0 and "a.wav" in done.out


def test_weights_that_are_none_are_one_line(ascdistill, model_folder, recordings, tmp_path):
    shutil.copytree(model_folder, tmp_path / "pointer")
    (tmp_path / "pointer" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    done = ascdistill("classify", "--model", tmp_path / "pointer", recordings / "a.wav")
    assert done.code == 2 and "pointer to a file of Git LFS" in done.err and done.err.count("\n") == 1


def test_a_file_below_a_window_is_classified_and_one_below_a_tenth_of_a_second_is_not(
    ascdistill, model_folder, tmp_path
):
    for seconds in (0.3, 0.05):
        soundfile.write(tmp_path / f"{seconds}.wav", noise(seconds), 32_000)
    result = ascdistill("classify", "--model", model_folder, tmp_path)
    assert result.code == 1
    assert result.out.startswith(f"{tmp_path / '0.3.wav'}: ")
    assert "0.05.wav: the length of the file, in seconds, is 0.05; expected at least 0.1" in result.err


def test_the_converted_checkpoint_names_62_of_80_evaluate_clips(ascdistill, shared, tmp_path):
    sample = shared / "data" / "tau22-sample"
    convert = ("convert", "--input", shared / "checkpoints" / "cpm_student_dcase23.ckpt", "--output", tmp_path / "cpm")
    assert ascdistill(*convert).code == 0
    command = ("classify", "--model", tmp_path / "cpm", *evaluate_clips(sample), "--output", tmp_path / "scenes.csv")
    assert ascdistill(*command).code == 0
    assert len(read_table(tmp_path / "scenes.csv")) == 80
    assert correct(tmp_path / "scenes.csv", sample) == (62, 80)


def test_published_and_named_by_its_hub_name_it_names_the_same(shared, tmp_path):
    """Both commands in a process whose Hub is our own server on this machine."""
    name, sample, table = f"{USER}/cpm-dcase23", shared / "data" / "tau22-sample", tmp_path / "scenes.csv"
    convert_checkpoint(shared / "checkpoints" / "cpm_student_dcase23.ckpt", tmp_path / "cpm")
    main = "hf_ascdistill.command_line:main"
    with running_hub() as hub, running_client(tmp_path, client_environment(hub, tmp_path / "home")) as client:
        publish = ["publish", "--run", tmp_path / "cpm", "--data", sample, "--repo", name]
        assert client(main, list(map(str, publish))) == 0, client.output()
        assert hub.history(name) == ["initial commit", "Publish cpm"]
        classify = ["classify", "--model", name, *evaluate_clips(sample), "--output", table]
        assert client(main, list(map(str, classify))) == 0, client.output()
        assert TOKEN not in client.output()
    assert correct(table, sample) == (62, 80)
