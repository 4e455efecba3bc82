"""The authors' trained student, converted, decides as it did: from wav files, from the store, from aligned crops."""

import json

import pytest


@pytest.fixture(scope="module")
def student(shared, run_recipe, tmp_path_factory):
    """Folder of the converted checkpoint."""
    folder = tmp_path_factory.mktemp("models") / "cpm-student"
    run_recipe("convert_checkpoint", "--input", shared / "checkpoints/cpm_student_dcase23.ckpt", "--output", folder)
    return folder


@pytest.fixture
def evaluate(run_recipe, student, capsys):
    def run(*arguments) -> dict:
        capsys.readouterr()
        run_recipe("evaluate_run", "--model", student, *arguments, "--json")
        return json.loads(capsys.readouterr().out)

    return run


SPLITS = pytest.mark.parametrize(("split", "correct", "clips"), [("evaluate", 62, 80), ("all", 173, 200)])


@SPLITS
def test_correct_clips_from_the_wav_files(evaluate, sample, split, correct, clips):
    metrics = evaluate("--data", sample, "--split", split)
    assert (metrics["correct"], metrics["clips"]) == (correct, clips)
    assert metrics["accuracy"] == pytest.approx(correct / clips)


@SPLITS
def test_correct_clips_from_the_prepared_store(evaluate, store, split, correct, clips):
    metrics = evaluate("--data", store, "--split", split)
    assert (metrics["correct"], metrics["clips"]) == (correct, clips)


@SPLITS
def test_correct_clips_from_the_aligned_crops(evaluate, store, split, correct, clips):
    metrics = evaluate("--data", store, "--split", split, "--crop_hop", 0.5, "--aligned")
    assert (metrics["correct"], metrics["clips"]) == (correct, clips)


def test_folding_changes_no_figure(evaluate, store):
    plain, fused = (evaluate("--data", store, "--fused", is_fused) for is_fused in ("false", "true"))
    assert fused == pytest.approx(plain, abs=1e-5)


def test_training_split_is_the_rest(evaluate, sample):
    metrics = evaluate("--data", sample, "--split", "train")
    assert (metrics["correct"], metrics["clips"]) == (173 - 62, 120)


def test_shifted_crops_are_more_than_the_clips(evaluate, store):
    assert evaluate("--data", store, "--split", "train", "--crop_hop", 0.5)["clips"] == 121


def test_unknown_split_raises(evaluate, sample):
    with pytest.raises(ValueError, match="(?s)test.*train, evaluate, all"):
        evaluate("--data", sample, "--split", "test")


def test_table_is_the_default(run_recipe, student, store, capsys):
    run_recipe("evaluate_run", "--model", student, "--data", store)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["correct", "62"] in lines and ["accuracy", "77.50", "%"] in lines
