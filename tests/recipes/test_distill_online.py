"""Online distillation on real clips, without logits on disk: in one process, in two, and killed on the way."""

import signal

import pytest
import torch
from test_main_job import CONFIGS, RECIPES, interrupt, launch_two, results_of, weights_of
from tiny_corpus import tiny_model

from hf_ascdistill import SCENES, AscFeatureExtractor, CpResNetConfig, CpResNetForAudioClassification
from hf_ascdistill.teachers import model_identity


def save(folder, model, preset: str):
    model.save_pretrained(folder)
    AscFeatureExtractor.from_preset(preset).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folders of two teachers, one with the student's front-end and one with its own, and the models."""
    root = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(1)
    resnet = CpResNetForAudioClassification(CpResNetConfig(base_channels=16, id2label=dict(enumerate(SCENES))))
    for parameter in resnet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    models = {"cpm": (tiny_model(SCENES), "cp-mobile"), "cpr": (resnet, "cp-resnet")}
    return {root / name: save(root / name, *made) for name, made in models.items()}


@pytest.fixture(scope="module")
def online_job(store, teachers):
    """Arguments of a short training of a student."""
    steps = ["--num_train_epochs", 2, "--per_device_train_batch_size", 32, "--per_device_eval_batch_size", 24]
    data = ["--data", store, "--crop_hop", 0.5, "--seed", 0, "--use_cpu", "true", "--disable_tqdm", "true", *steps]
    return ["--config", CONFIGS / "student.yaml", *data, "--teacher_mode", "online", "--teachers", *teachers]


@pytest.fixture(scope="module")
def student(run_recipe, online_job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online") / "student"
    run_recipe("distill", *online_job, "--output_dir", folder)
    return folder


def test_student_names_its_online_teachers_and_learns_from_both_parts(student, teachers):
    results = results_of(student)
    assert [(row["name"], row["mode"]) for row in results["teachers"]] == [("cpm", "online"), ("cpr", "online")]
    assert [row["model"] for row in results["teachers"]] == [model_identity(model) for model in teachers.values()]
    assert [row["front_end"]["hop_length"] for row in results["teachers"]] == [500, 750]
    assert results["configuration"]["teacher_mode"] == "online"
    for row in results["training"]:
        assert row["loss"] == pytest.approx(0.02 * row["label_loss"] + 0.98 * row["teacher_loss"], rel=1e-3)


def test_run_holds_the_student_alone(student):
    results = results_of(student)
    assert results["complexity"]["parameters"] == 126_952
    assert (student / "model.safetensors").stat().st_size < 700_000


def test_killed_student_training_ends_with_the_same_weights(student, run_recipe, online_job, environment, tmp_path):
    folder = tmp_path / "student"
    command = [RECIPES / "distill.py", *online_job, "--output_dir", folder]
    interrupt(command, folder, signal_number=signal.SIGKILL, environment=environment)
    run_recipe("distill", *online_job, "--output_dir", folder)
    assert weights_of(folder) == weights_of(student)
    assert results_of(folder)["epochs"] == results_of(student)["epochs"]


def test_student_of_random_crops_has_online_teachers(run_recipe, online_job, tmp_path):
    settings = ["--random_crops", "true", "--num_train_epochs", 1, "--save_strategy", "no"]
    run_recipe("distill", *online_job, *settings, "--output_dir", tmp_path / "student")
    assert results_of(tmp_path / "student")["configuration"]["random_crops"] is True
    assert all(row["teacher_loss"] > 0 for row in results_of(tmp_path / "student")["training"])


def test_folder_of_a_student_of_other_teachers_raises(student, run_recipe, online_job):
    with pytest.raises(ValueError, match="holds a run of another configuration: teachers was"):
        run_recipe("distill", *online_job[:-1], "--output_dir", student)


def test_teacher_of_other_scenes_raises_before_training(run_recipe, online_job, tmp_path):
    save(tmp_path / "other", tiny_model(SCENES[:3]), "cp-mobile")
    with pytest.raises(ValueError, match=r"other's 3 classes are airport.*the data's 10"):
        run_recipe("distill", *online_job, tmp_path / "other", "--output_dir", tmp_path / "student")


def test_front_end_in_the_workers_raises_before_training(run_recipe, online_job, tmp_path):
    settings = ["--frontend_seat", "workers", "--output_dir", tmp_path / "student"]
    with pytest.raises(ValueError, match="frontend_seat is workers.*--frontend_seat accelerator"):
        run_recipe("distill", *online_job, *settings)


@pytest.mark.dist
def test_two_processes_each_have_the_teachers(online_job, teachers, tmp_path):
    printed = launch_two("distill", *online_job, "--output_dir", tmp_path / "student")
    assert printed.count("pictures:") == 1
    results = results_of(tmp_path / "student")
    assert results["configuration"]["world_size"] == 2
    assert len(results["teachers"]) == len(teachers)
    for row in results["training"]:
        assert row["loss"] == pytest.approx(0.02 * row["label_loss"] + 0.98 * row["teacher_loss"], rel=1e-3)
