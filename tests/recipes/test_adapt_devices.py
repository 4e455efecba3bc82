"""Adaptation of a student to every device from the command line: resumed, interrupted, routed and evaluated."""

import json
import shutil
import signal

import pytest
import torch
from test_main_job import CONFIGS, RECIPES, interrupt, launch_two, results_of, weights_of
from tiny_corpus import tiny_model, tiny_store

from hf_ascdistill import (
    AscFeatureExtractor,
    CardContext,
    DataArguments,
    DeviceStudents,
    load_classifier,
    load_prepared,
    load_training_data,
    predict_logits,
    publish,
)
from hf_ascdistill.teachers import model_identity
from hf_ascdistill.transforms import AcousticFrontend

TRAINED, UNSEEN = ["a", "b", "c", "s1", "s2", "s3"], ["s4", "s5", "s6"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The prepared store of the made-up clips."""
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def student(clips, tmp_path_factory):
    """Folder of the general student."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    tiny_model(load_prepared(clips)["train"].features["labels"].names).save_pretrained(folder)
    AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(student, clips):
    steps = ["--num_train_epochs", 2, "--per_device_train_batch_size", 32, "--learning_rate", "1e-3", "--seed", 0]
    quiet = ["--use_cpu", "true", "--disable_tqdm", "true", "--pictures", "false"]
    return ["--config", CONFIGS / "adapt.yaml", "--model", student, "--data", clips, "--crop_hop", 0.5, *steps, *quiet]


@pytest.fixture(scope="module")
def adapted(run_recipe, settings, tmp_path_factory):
    """Folder of the students of all devices."""
    folder = tmp_path_factory.mktemp("adapted") / "devices"
    run_recipe("adapt_devices", *settings, "--output_dir", folder)
    return folder


def test_every_device_of_the_training_clips_gets_a_student(adapted, student):
    students = DeviceStudents.from_pretrained(adapted)
    assert list(students.devices) == TRAINED
    identities = [model_identity(students.model_for(device))["weights"] for device in (*TRAINED, None)]
    assert len(set(identities)) == len(TRAINED) + 1
    assert weights_of(adapted / "general") == weights_of(student)


def test_to_push_all_students_as_one_is_refused(run_recipe, settings, tmp_path):
    with pytest.raises(ValueError, match="push_to_hub is True, but there is a student for each device"):
        run_recipe("adapt_devices", *settings, "--push_to_hub", "true", "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_of_a_device_can_be_published(adapted, tmp_path):
    context = CardContext("made up", "user/made-up", dataset_note="It is made up.", data_license="cc0-1.0")
    publish(adapted / "a", "user/student-a", dry_run=True, staging=tmp_path / "staged", card={"context": context})
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "saved weights" in card and "CP-Mobile" in card and str(adapted) not in card


def test_results_say_what_each_student_is_worth(adapted):
    results = results_of(adapted)
    assert results["training_clips"] == {"a": 60, "b": 6, "c": 6, "s1": 6, "s2": 6, "s3": 6}
    assert list(results["by_device"]) == [*TRAINED, *UNSEEN]
    for name in ("general", "adapted"):
        assert results[name]["clips"] == 30
        for device, row in results["by_device"].items():
            assert results[name][f"accuracy_{device}"] == row[name]
    for device in UNSEEN:
        assert results["by_device"][device]["adapted"] == results["by_device"][device]["general"]


def test_student_of_a_device_is_what_its_own_run_says(adapted):
    for device in TRAINED:
        own = results_of(adapted / device)
        assert own["configuration"]["devices"] == [device]
        last = own["epochs"][-1][f"accuracy_{device}"]
        assert results_of(adapted)["by_device"][device]["adapted"] == pytest.approx(last)


def test_evaluation_routes_each_clip_to_the_student_of_its_device(adapted, clips, run_recipe, capsys):
    capsys.readouterr()
    run_recipe("evaluate_run", "--model", adapted, "--data", clips, "--json")
    metrics, expected = json.loads(capsys.readouterr().out), results_of(adapted)["adapted"]
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name


def test_finished_adaptation_is_only_printed(adapted, run_recipe, settings, monkeypatch, capsys):
    monkeypatch.setattr(
        "hf_ascdistill.DistillationTrainer.train", lambda *args, **kwargs: pytest.fail("trained again")
    )
    before = {path: path.stat().st_mtime_ns for path in adapted.rglob("*")}
    run_recipe("adapt_devices", *settings, "--output_dir", adapted)
    assert {path: path.stat().st_mtime_ns for path in adapted.rglob("*")} == before
    assert "hence unchanged: s4, s5, s6." in capsys.readouterr().out


def same_students(folder, other) -> bool:
    return all(weights_of(folder / name) == weights_of(other / name) for name in ("general", *TRAINED))


def test_adaptation_goes_on_with_the_devices_that_are_missing(adapted, run_recipe, settings, tmp_path):
    folder = tmp_path / "devices"
    shutil.copytree(adapted, folder)
    for name in ("device_models.json", "results.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "s2")
    (folder / "b/results.json").unlink()
    before = (folder / "a/results.json").stat().st_mtime_ns
    run_recipe("adapt_devices", *settings, "--output_dir", folder)
    assert same_students(folder, adapted) and results_of(folder)["by_device"] == results_of(adapted)["by_device"]
    assert (folder / "a/results.json").stat().st_mtime_ns == before


def test_killed_adaptation_ends_with_the_same_students(adapted, run_recipe, settings, environment, tmp_path):
    folder = tmp_path / "devices"
    command = [RECIPES / "adapt_devices.py", *settings, "--output_dir", folder]
    folder.mkdir()  # the log goes there
    interrupt(command, folder / "a", signal_number=signal.SIGKILL, environment=environment)
    assert not (folder / "device_models.json").exists()
    run_recipe("adapt_devices", *settings, "--output_dir", folder)
    assert same_students(folder, adapted) and results_of(folder)["by_device"] == results_of(adapted)["by_device"]


def test_student_of_a_device_does_not_depend_on_the_others(adapted, run_recipe, settings, tmp_path):
    some = ["--devices", "s1", "--pictures", "true"]
    run_recipe("adapt_devices", *settings, *some, "--output_dir", tmp_path / "one")
    assert weights_of(tmp_path / "one/s1") == weights_of(adapted / "s1")
    assert DeviceStudents.from_pretrained(tmp_path / "one").devices == ("s1",)
    assert "b" not in results_of(tmp_path / "one")["training_clips"]
    assert (tmp_path / "one/devices.png").stat().st_size > 5_000


def statistics_of(folder) -> dict:
    return {name: buffer for name, buffer in load_classifier(folder)[0].named_buffers()}


def test_statistics_stay_those_of_the_general_student_unless_they_may_change(adapted, run_recipe, settings, tmp_path):
    free = ["--keep_statistics", "false", "--devices", "s1", "--output_dir", tmp_path / "free"]
    run_recipe("adapt_devices", *settings, *free)
    general = statistics_of(adapted / "general")
    kept, changed = statistics_of(adapted / "s1"), statistics_of(tmp_path / "free/s1")
    assert all(torch.equal(buffer, kept[name]) for name, buffer in general.items())
    assert not any(torch.equal(buffer, changed[name]) for name, buffer in general.items())


@pytest.fixture(scope="module")
def logits(student, clips, tmp_path_factory):
    """A teacher's logits of all training crops."""
    crops = load_training_data(DataArguments(str(clips), crop_hop=0.5))["train"]
    folder = tmp_path_factory.mktemp("logits") / "teacher"
    frontend = AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))
    predict_logits(tiny_model(crops.features["labels"].names, seed=3), crops, folder, frontend=frontend)
    return folder


def test_teacher_teaches_each_device_its_own_clips(adapted, logits, run_recipe, settings, tmp_path):
    arguments = ["--teacher_logits", logits, "--devices", "s1", "--output_dir", tmp_path / "taught"]
    run_recipe("adapt_devices", *settings, *arguments)
    for row in results_of(tmp_path / "taught/s1")["training"]:
        assert row["loss"] == pytest.approx(0.02 * row["label_loss"] + 0.98 * row["teacher_loss"], rel=1e-3)
    assert len(results_of(tmp_path / "taught")["teachers"]) == 1
    assert weights_of(tmp_path / "taught/s1") != weights_of(adapted / "s1")


def test_teacher_can_be_in_the_training_loop(student, run_recipe, settings, tmp_path):
    arguments = ["--teacher_mode", "online", "--teachers", student, "--devices", "s1"]
    run_recipe("adapt_devices", *settings, *arguments, "--output_dir", tmp_path / "taught")
    assert results_of(tmp_path / "taught/s1")["teachers"][0]["mode"] == "online"


def test_folder_of_another_student_raises(adapted, student, run_recipe, settings, tmp_path):
    folder, other = tmp_path / "devices", tmp_path / "student"
    shutil.copytree(adapted, folder)
    (folder / "device_models.json").unlink()
    with pytest.raises(ValueError, match="model was .*student"):
        run_recipe("adapt_devices", *settings, "--model", other, "--output_dir", folder)


def test_student_that_has_changed_since_raises(adapted, student, clips, run_recipe, settings, tmp_path):
    folder, changed = tmp_path / "devices", tmp_path / "student"
    shutil.copytree(student, changed)
    run_recipe("adapt_devices", *settings, "--model", changed, "--devices", "s1", "--output_dir", folder)
    (folder / "device_models.json").unlink()
    tiny_model(load_prepared(clips)["train"].features["labels"].names, seed=9).save_pretrained(changed)
    with pytest.raises(ValueError, match="general holds another model"):
        run_recipe("adapt_devices", *settings, "--model", changed, "--devices", "s1", "--output_dir", folder)


def test_device_that_nobody_recorded_raises_before_training(run_recipe, settings, tmp_path):
    with pytest.raises(ValueError, match="devices names s5; the devices of the training clips are a, b, c"):
        run_recipe("adapt_devices", *settings, "--devices", "a", "s5", "--output_dir", tmp_path / "devices")
    assert [path.name for path in (tmp_path / "devices").iterdir()] == ["configuration.json"]


@pytest.mark.dist
def test_two_processes_adapt_together(settings, tmp_path):
    printed = launch_two("adapt_devices", *settings, "--devices", "a", "b", "--output_dir", tmp_path / "devices")
    assert printed.count("hence unchanged") == 1
    assert DeviceStudents.from_pretrained(tmp_path / "devices").devices == ("a", "b")
    assert results_of(tmp_path / "devices/b")["configuration"]["world_size"] == 2
