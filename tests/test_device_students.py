"""Students of devices: a clip goes to the student of its device, and one of an unknown device to the general one."""

import json

import numpy as np
import pytest
import torch
from tiny_corpus import tiny_model, tiny_store

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    DeviceStudents,
    evaluate_clips,
    evaluate_logits,
    has_device_students,
    load_prepared,
    predict_batches,
)
from hf_ascdistill.teachers import model_identity

UNSEEN = ("s4", "s5", "s6")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))["evaluate"]


@pytest.fixture(scope="module")
def scenes(clips):
    return clips.features["labels"].names


@pytest.fixture(scope="module")
def frontend():
    return AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))


@pytest.fixture(scope="module")
def models(scenes):
    return {name: tiny_model(scenes, seed) for seed, name in enumerate(("general", "a", "s1"))}


@pytest.fixture(scope="module")
def students(models, frontend):
    return DeviceStudents(models["general"], {"a": models["a"], "s1": models["s1"]}, frontend=frontend)


@pytest.fixture(scope="module")
def logits(models, clips, frontend):
    """What each model says about every clip."""
    return {
        name: torch.cat([batch["logits"] for batch in predict_batches(model, clips, frontend=frontend)]).numpy()
        for name, model in models.items()
    }


def devices_of(clips) -> np.ndarray:
    return np.array(clips.features["device_ids"].names)[clips.with_format(None)["device_ids"][:]]


@pytest.mark.parametrize(
    ("device", "name"),
    [("a", "a"), ("s1", "s1"), ("b", "general"), ("a phone of next year", "general"), (None, "general")],
)
def test_device_decides_who_answers(students, models, device, name):
    assert students.model_for(device) is models[name]


def test_each_clip_goes_to_the_student_of_its_device(students, clips, logits):
    predicted, devices = students.predict(clips, batch_size=4), devices_of(clips)
    assert predicted.shape == (30, 10) and predicted.dtype == np.float32
    for row, device in enumerate(devices):
        expected = logits[device if device in ("a", "s1") else "general"][row]
        np.testing.assert_allclose(predicted[row], expected, atol=1e-4, rtol=1e-5)  # batches of other sizes
    assert {"a", "s1", "b", "s6"} <= set(devices)


def test_order_of_the_clips_does_not_matter(students, clips):
    shuffled = clips.select(np.random.default_rng(0).permutation(len(clips)))
    names, others = (part.with_format(None)["example_id"][:] for part in (clips, shuffled))
    places = [names.index(name) for name in others]
    expected = students.predict(clips)[places]
    np.testing.assert_allclose(students.predict(shuffled), expected, atol=1e-4, rtol=1e-5)


def test_evaluation_counts_every_clip_once(students, clips, logits):
    devices = devices_of(clips)
    routed = np.where(np.isin(devices, ("a", "s1"))[:, None], 0, logits["general"])
    for device in ("a", "s1"):
        routed[devices == device] = logits[device][devices == device]
    metrics, expected = students.evaluate(clips, batch_size=8), evaluate_logits(routed, clips)
    assert metrics.keys() == expected.keys() and metrics["clips"] == 30
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name


def test_students_of_no_device_are_the_general_one(models, clips, frontend):
    alone = DeviceStudents(models["general"], {}, frontend=frontend)
    assert alone.evaluate(clips) == evaluate_clips(models["general"], clips, frontend=frontend)


@pytest.fixture(scope="module")
def compared(students, clips):
    return students.compare(clips, batch_size=8)


def test_comparison_has_both_beside_each_other(compared, students, clips, models, frontend):
    for name, metrics in (
        ("general", evaluate_clips(models["general"], clips, frontend=frontend)),
        ("adapted", students.evaluate(clips)),
    ):
        for metric, value in metrics.items():
            assert compared[name][metric] == pytest.approx(value, rel=1e-5), (name, metric)
    assert compared["devices"] == clips.features["device_ids"].names
    assert compared["groups"]["unseen"] == list(UNSEEN)


def test_gains_and_losses_make_up_the_difference(compared, clips, logits):
    labels, devices = np.array(clips.with_format(None)["labels"][:]), devices_of(clips)
    for device, row in compared["by_device"].items():
        chosen = devices == device
        right = {name: (values.argmax(1) == labels)[chosen] for name, values in logits.items()}
        adapted = right.get(device, right["general"])
        assert row["clips"] == chosen.sum()
        assert row["gained"] == (adapted & ~right["general"]).sum()
        assert row["lost"] == (right["general"] & ~adapted).sum()
        assert row["adapted"] - row["general"] == pytest.approx((row["gained"] - row["lost"]) / row["clips"])
    assert sum(row["gained"] + row["lost"] for row in compared["by_device"].values()) > 0


def test_unseen_devices_are_unchanged(compared):
    for device in UNSEEN:
        row = compared["by_device"][device]
        assert (row["gained"], row["lost"]) == (0, 0) and row["adapted"] == row["general"]
    assert compared["adapted"]["accuracy_unseen"] == compared["general"]["accuracy_unseen"]


@pytest.fixture
def folder(tmp_path, models, frontend):
    for name, model in models.items():
        save(tmp_path / name, model, frontend.extractor)
    (tmp_path / "device_models.json").write_text(json.dumps({"format": 1, "devices": ["a", "s1"]}))
    return tmp_path


def save(folder, model, extractor):
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


def test_folder_gives_the_same_students(folder, models, scenes):
    assert has_device_students(folder)
    loaded = DeviceStudents.from_pretrained(folder, scenes=scenes)
    assert loaded.devices == ("a", "s1")
    for device in ("a", "s1", "b", None):
        name = device if device in ("a", "s1") else "general"
        assert model_identity(loaded.model_for(device)) == model_identity(models[name])
    assert loaded.frontend.extractor.hop_length == 500


def test_device_that_the_folder_does_not_name_is_not_loaded(folder, models):
    (folder / "device_models.json").write_text(json.dumps({"format": 1, "devices": ["s1"]}))
    assert model_identity(DeviceStudents.from_pretrained(folder).model_for("a")) == model_identity(models["general"])


def test_folder_that_is_not_finished_raises(folder):
    (folder / "device_models.json").unlink()
    assert not has_device_students(folder)
    with pytest.raises(FileNotFoundError, match=r"device_models.json is missing\); run adapt_devices.py"):
        DeviceStudents.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "dev', "device_models.json is damaged"),
        ('{"format": 2, "devices": []}', "is of format 2, expected 1"),
        ('{"format": 1, "devices": ["../a"]}', "names '../a'; expected names of folders beside it"),
        ('{"format": 1, "devices": [".."]}', "names '..'; expected names of folders beside it"),
    ],
)
def test_folder_of_a_wrong_manifest_raises(folder, text, message):
    (folder / "device_models.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        DeviceStudents.from_pretrained(folder)


def test_students_of_other_scenes_raise(folder, scenes):
    with pytest.raises(ValueError, match="the data's 3"):
        DeviceStudents.from_pretrained(folder, scenes=scenes[:3])


def test_student_that_is_not_like_the_general_one_raises(folder, models):
    save(folder / "s1", models["s1"], AscFeatureExtractor.from_preset("cp-resnet"))
    with pytest.raises(ValueError, match="s1 and general are not alike: front-end hop_length is 500 in general, 750"):
        DeviceStudents.from_pretrained(folder)
