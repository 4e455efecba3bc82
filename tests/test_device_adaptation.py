"""Adaptation to devices: whose clips are whose, errors before anything is trained, and results that hide nothing."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from tiny_corpus import tiny_model, tiny_store

from hf_ascdistill import (
    AscFeatureExtractor,
    AugmentationSettings,
    DistillationTrainingArguments,
    build_frontend,
    check_batches,
    clips_of_device,
    device_adaptation,
    devices_to_adapt,
    freeze_batch_norm,
    has_device_students,
    load_prepared,
    save_general,
    students_summary,
    write_device_students,
)
from hf_ascdistill.data.index import read_like

TRAINED = ["a", "b", "c", "s1", "s2", "s3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def extractor():
    return AscFeatureExtractor.from_preset("cp-mobile")


def test_devices_of_the_training_clips_get_a_student(data):
    assert devices_to_adapt(data) == TRAINED
    assert devices_to_adapt(data, ["s2", "b"]) == ["b", "s2"]


@pytest.mark.parametrize("device", ["s4", "phone"])
def test_device_without_training_clips_raises(data, device):
    with pytest.raises(ValueError, match=f"devices names {device}; the devices of the training clips are a, b, c, s1"):
        devices_to_adapt(data, ["a", device])


def without(clips, device):
    names = clips.features["device_ids"].names
    return clips.select(np.flatnonzero(np.array(clips.with_format(None)["device_ids"][:]) != names.index(device)))


def test_device_that_cannot_be_evaluated_raises_unless_it_is_left_out(data):
    some = {**data, "evaluate": without(data["evaluate"], "c")}
    with pytest.raises(ValueError, match="device c has training clips but none to evaluate.*--devices"):
        devices_to_adapt(some)
    assert devices_to_adapt(some, ["a", "s3"]) == ["a", "s3"]


@pytest.mark.parametrize("name", ["general", "../a", "phone/2", ".."])
def test_device_whose_name_is_no_folder_raises(data, name):
    names = ClassLabel(names=["a", name, *data["train"].features["device_ids"].names[2:]])
    renamed = {
        split: read_like(clips.with_format(None).cast_column("device_ids", names), clips)
        for split, clips in data.items()
    }
    with pytest.raises(ValueError, match=f"device {name!r} cannot name a folder"):
        devices_to_adapt(renamed)


def test_clips_of_a_device_are_its_own_and_are_still_read(data):
    parts = {device: clips_of_device(data, device) for device in TRAINED}
    assert sum(len(part["train"]) for part in parts.values()) == len(data["train"])
    for device, part in parts.items():
        for clips in part.values():
            names = clips.features["device_ids"].names
            assert {names[index] for index in clips.with_format(None)["device_ids"]} == {device}
    assert parts["b"]["train"][0]["waveform"].shape == (32_000,)


def arguments(folder, **settings) -> DistillationTrainingArguments:
    return DistillationTrainingArguments(output_dir=str(folder), use_cpu=True, **settings)


def frontend_of(extractor, device_generalization):
    return build_frontend(extractor, AugmentationSettings(device_generalization=device_generalization))


def test_device_with_fewer_clips_than_a_batch_is_trained_in_a_smaller_one(tmp_path, extractor):
    training = arguments(tmp_path, per_device_train_batch_size=32)
    check_batches({"a": 100, "b": 3, "c": 1}, training, frontend_of(extractor, "none"))


def test_device_whose_only_batch_would_be_dropped_raises(tmp_path, extractor):
    training = arguments(tmp_path, per_device_train_batch_size=32, dataloader_drop_last=True)
    with pytest.raises(
        ValueError, match="device b has 31 training clips and a batch 32.*--dataloader_drop_last false"
    ):
        check_batches({"a": 32, "b": 31}, training, frontend_of(extractor, "none"))


def test_last_batch_that_cannot_be_mixed_names_its_device(tmp_path, extractor):
    training = arguments(tmp_path, per_device_train_batch_size=32)
    with pytest.raises(ValueError, match="device s1: 33 training clips in batches of 32 leave a last batch of one"):
        check_batches({"a": 64, "s1": 33}, training, frontend_of(extractor, "fms"))


def test_frozen_statistics_stay_and_are_used_while_weights_learn(data):
    model = tiny_model(data["train"].features["labels"].names)
    inputs = torch.randn(4, 256, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(inputs).logits
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    freeze_batch_norm(model)
    output = model.train()(input_values=inputs, labels=torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(output.logits, expected)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    output.loss.backward()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)


def test_general_student_is_kept_once(data, extractor, tmp_path):
    model = tiny_model(data["train"].features["labels"].names)
    path = save_general(model, extractor, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert save_general(model, extractor, tmp_path) == path == tmp_path / "general"
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


def test_other_general_student_raises(data, extractor, tmp_path):
    scenes = data["train"].features["labels"].names
    save_general(tiny_model(scenes), extractor, tmp_path)
    with pytest.raises(ValueError, match="general holds another model .* it has changed since. Choose another"):
        save_general(tiny_model(scenes, seed=1), extractor, tmp_path)


def results() -> dict:
    rows = {"a": (0.5, 0.75, 2, 1), "s1": (0.75, 0.5, 0, 1), "s4": (0.25, 0.25, 0, 0)}
    by_device = {
        device: {"clips": 4, "general": general, "adapted": adapted, "gained": gained, "lost": lost}
        for device, (general, adapted, gained, lost) in rows.items()
    }
    general, adapted = (
        {"accuracy": 0.5, "accuracy_unseen": 0.25, **{f"accuracy_{name}": row[key] for name, row in by_device.items()}}
        for key in ("general", "adapted")
    )
    names = {"devices": ["a", "s1", "s4"], "groups": {"real": ["a"], "seen": ["s1"], "unseen": ["s4"]}}
    return {
        "training_clips": {"a": 100, "s1": 10},
        "general": general,
        "adapted": adapted,
        "by_device": by_device,
        **names,
    }


def test_results_picture_and_manifest_are_written(tmp_path):
    write_device_students(tmp_path, ["a", "s1"], results=results())
    assert json.loads((tmp_path / "results.json").read_text()) == results()
    assert json.loads((tmp_path / "device_models.json").read_text()) == {"format": 1, "devices": ["a", "s1"]}
    assert (tmp_path / "devices.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_manifest_comes_last(tmp_path, monkeypatch):
    write_json = device_adaptation.write_json

    def interrupted(path, value):
        if path.name == "device_models.json":
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(device_adaptation, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_device_students(tmp_path, ["a"], results=results(), picture=False)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert not has_device_students(tmp_path)


def test_summary_shows_every_device_and_names_the_worse_and_the_unchanged():
    text = students_summary(results(), "runs/devices")
    assert "| a | 100 | 4 | 50.00 | 75.00 | 2 | 1 |" in text.splitlines()
    assert "| s4 | - | 4 | 25.00 | 25.00 | 0 | 0 |" in text.splitlines()
    assert "Worse than the general student on their own device: s1." in text
    assert "Without a student of their own, hence unchanged: s4." in text
    assert "students: runs/devices" in text


def test_summary_does_not_speak_of_worse_students_where_there_are_none():
    better = results()
    better["by_device"]["s1"]["adapted"] = 0.8
    assert "Worse" not in students_summary(better, "runs/devices")
