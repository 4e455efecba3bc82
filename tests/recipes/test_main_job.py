"""The main job on real clips: store, teacher, logits, student, evaluation; in one process, in two, and interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hf_ascdistill import load_logits

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CONFIGS = RECIPES / "configs"
LAUNCH = "-m accelerate.commands.launch --num_machines 1 --mixed_precision no --dynamo_backend no"
CROPS, CLIPS = 121, 80


@pytest.fixture(scope="module")
def training(store):
    """Arguments of both trainings, tiny."""
    steps = ["--num_train_epochs", 2, "--per_device_train_batch_size", 32, "--per_device_eval_batch_size", 24]
    return ["--data", store, "--crop_hop", 0.5, "--seed", 0, "--use_cpu", "true", "--disable_tqdm", "true", *steps]


@pytest.fixture(scope="module")
def teacher_job(training, shared):
    responses = ["--impulse_responses", shared / "data/micirp", "--resample_impulse_responses", "true"]
    return ["--config", CONFIGS / "cpr_128k.yaml", *training, *responses]


@pytest.fixture(scope="module")
def student_job(training, job):
    return ["--config", CONFIGS / "student.yaml", *training, "--teacher_logits", job / "logits"]


@pytest.fixture(scope="module")
def job(run_recipe, store, teacher_job, training, tmp_path_factory):
    """Folder of the whole job in this process: teacher, logits and student."""
    folder = tmp_path_factory.mktemp("job")
    run_recipe("train_teacher", *teacher_job, "--output_dir", folder / "teacher")
    caching = ["--data", store, "--crop_hop", 0.5, "--model", folder / "teacher", "--output", folder / "logits"]
    run_recipe("cache_logits", *caching)
    distilling = ["--config", CONFIGS / "student.yaml", *training, "--teacher_logits", folder / "logits"]
    run_recipe("distill", *distilling, "--output_dir", folder / "student")
    return folder


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def evaluate(run_recipe, store, capsys):
    def run(model: Path) -> dict:
        capsys.readouterr()
        run_recipe("evaluate_run", "--model", model, "--data", store, "--json")
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_last_epoch_is_what_evaluation_finds_on_every_clip(job, evaluate, name):
    metrics, last = evaluate(job / name), results_of(job / name)["epochs"][-1]
    assert metrics["clips"] == CLIPS
    for metric in metrics.keys() - {"clips", "correct"}:
        assert last[metric] == pytest.approx(metrics[metric], abs=1e-5), metric


def test_teacher_logits_belong_to_every_crop(job):
    logits = load_logits(job / "logits")
    assert logits.logits.shape == (CROPS, 10)
    assert sum("+500ms" in name for name in logits.example_ids) == 1
    assert logits.members[0]["name"] == "teacher"


def test_student_names_its_teacher_and_learns_from_both_parts(job):
    results = results_of(job / "student")
    assert results["teachers"] == list(load_logits(job / "logits").members)
    assert results["configuration"]["kd_reduction"] == "batchmean"
    for row in results["training"]:
        assert row["loss"] == pytest.approx(0.02 * row["label_loss"] + 0.98 * row["teacher_loss"], rel=1e-3)
    assert (results["complexity"]["parameters"], results["complexity"]["macs"]) == (126_952, 28_889_088)


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_run_leaves_its_pictures(job, name):
    for picture in ("training_curve.png", "devices.png"):
        assert (job / name / picture).stat().st_size > 10_000


def test_finished_training_is_not_repeated(job, run_recipe, teacher_job, monkeypatch, capsys):
    monkeypatch.setattr(
        "hf_ascdistill.DistillationTrainer.train", lambda *args, **kwargs: pytest.fail("trained again")
    )
    before = {path: path.stat().st_mtime_ns for path in (job / "teacher").rglob("*")}
    run_recipe("train_teacher", *teacher_job, "--output_dir", job / "teacher")
    assert {path: path.stat().st_mtime_ns for path in (job / "teacher").rglob("*")} == before
    assert results_of(job / "teacher")["complexity"]["verdict"] in capsys.readouterr().out


def test_training_that_was_killed_after_its_last_epoch_is_finished(job, run_recipe, teacher_job, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(job / "teacher", folder)
    for name in ("results.json", "model.safetensors", "devices.png"):
        (folder / name).unlink()
    run_recipe("train_teacher", *teacher_job, "--output_dir", folder)
    assert weights_of(folder) == weights_of(job / "teacher")
    assert results_of(folder) == results_of(job / "teacher")


def test_other_setting_in_a_finished_folder_raises(job, run_recipe, teacher_job):
    with pytest.raises(ValueError, match="fms_p was 0.8, now 0.1"):
        run_recipe("train_teacher", *teacher_job, "--fms_p", 0.1, "--output_dir", job / "teacher")


def test_folder_of_another_recipe_raises(job, run_recipe, student_job, teacher_job):
    with pytest.raises(ValueError, match="teacher_logits was"):
        run_recipe("train_teacher", *student_job[:-2], "--output_dir", job / "student")


def launch_two(recipe: str, *arguments) -> str:
    """Runs a recipe in two processes of one thread each; returns what it prints."""
    launcher = [*LAUNCH.split(), "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = [sys.executable, *launcher, str(RECIPES / f"{recipe}.py"), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-12_000:]
    return done.stdout


@pytest.mark.dist
def test_two_processes_do_the_whole_job(store, teacher_job, training, run_recipe, evaluate, tmp_path):
    teacher, logits, student = (tmp_path / name for name in ("teacher", "logits", "student"))
    printed = launch_two("train_teacher", *teacher_job, "--output_dir", teacher)
    assert printed.count("pictures:") == 1  # the main process alone reports
    caching = ["--data", store, "--crop_hop", 0.5, "--model", teacher, "--clips_per_file", 32, "--use_cpu"]
    launch_two("cache_logits", *caching, "--output", logits)
    run_recipe("cache_logits", *caching, "--output", tmp_path / "of-one-process")
    two, one = load_logits(logits), load_logits(tmp_path / "of-one-process")
    assert two.example_ids.tolist() == one.example_ids.tolist()
    np.testing.assert_allclose(two.logits, one.logits, atol=1e-4)
    distilling = ["--config", CONFIGS / "student.yaml", *training, "--teacher_logits", logits]
    launch_two("distill", *distilling, "--output_dir", student)
    for folder in (teacher, student):
        assert results_of(folder)["configuration"]["world_size"] == 2
        metrics, last = evaluate(folder), results_of(folder)["epochs"][-1]
        assert metrics["clips"] == CLIPS
        for metric in metrics.keys() - {"clips", "correct"}:
            assert last[metric] == pytest.approx(metrics[metric], abs=1e-5), metric


def interrupt(command: list, folder: Path, *, signal_number: int, environment: dict[str, str]) -> None:
    """Starts a training, and sends it a signal once its first checkpoint is there."""
    with open(folder.with_name("log.txt"), "w") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
        while process.poll() is None and not list(folder.glob("checkpoint-*/complete")):
            time.sleep(0.01)
        assert process.poll() is None, folder.with_name("log.txt").read_text()[-3000:]
        os.killpg(process.pid, signal_number)
        process.wait(timeout=60)
    assert not (folder / "results.json").exists()


def test_killed_teacher_training_ends_with_the_same_weights(job, run_recipe, teacher_job, environment, tmp_path):
    folder = tmp_path / "teacher"
    command = [
        *LAUNCH.split(),
        "--num_processes",
        "1",
        RECIPES / "train_teacher.py",
        *teacher_job,
        "--output_dir",
        folder,
    ]
    interrupt(command, folder, signal_number=signal.SIGKILL, environment=environment)
    run_recipe("train_teacher", *teacher_job, "--output_dir", folder)
    assert weights_of(folder) == weights_of(job / "teacher")
    assert results_of(folder)["epochs"] == results_of(job / "teacher")["epochs"]


def test_interrupted_student_training_ends_with_the_same_weights(job, run_recipe, student_job, environment, tmp_path):
    folder = tmp_path / "student"
    command = [RECIPES / "distill.py", *student_job, "--output_dir", folder]
    interrupt(command, folder, signal_number=signal.SIGINT, environment=environment)
    run_recipe("distill", *student_job, "--output_dir", folder)
    assert weights_of(folder) == weights_of(job / "student")
    assert results_of(folder)["epochs"] == results_of(job / "student")["epochs"]
