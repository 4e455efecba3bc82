"""Soups from the command line: of models, and of the checkpoints of one run."""

import json

import pytest
import torch
from tiny_corpus import tiny_model, tiny_store
from torch import nn

from hf_ascdistill import AscFeatureExtractor, load_classifier, load_prepared
from hf_ascdistill.teachers import model_identity


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The prepared store of the made-up clips."""
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def runs(clips, tmp_path_factory):
    """Folders of two models."""
    root = tmp_path_factory.mktemp("runs")
    scenes = load_prepared(clips)["train"].features["labels"].names
    for seed, name in enumerate(("one", "two")):
        tiny_model(scenes, seed).save_pretrained(root / name)
        AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(root / name)
    return [root / "one", root / "two"]


@pytest.fixture(scope="module")
def soup(runs, clips, run_recipe, tmp_path_factory):
    """Folder of the soup of both, whose statistics are measured."""
    folder = tmp_path_factory.mktemp("models") / "soup"
    run_recipe("soup", "--model", *runs, "--data", clips, "--crop_hop", 0.5, "--output", folder, "--batch_size", 16)
    return folder


def record_of(folder) -> dict:
    return json.loads((folder / "soup.json").read_text())


def test_soup_scores_as_evaluation_finds(soup, clips, run_recipe, capsys):
    capsys.readouterr()
    run_recipe("evaluate_run", "--model", soup, "--data", clips, "--json")
    metrics, recorded = json.loads(capsys.readouterr().out), record_of(soup)["soup"]
    assert metrics.keys() == recorded.keys() and metrics["clips"] == 30
    for name, value in metrics.items():
        assert recorded[name] == pytest.approx(value, rel=1e-5), name


def test_record_names_members_settings_and_verdict(soup, runs):
    record = record_of(soup)
    assert list(record["members"]) == [row["name"] for row in record["made_of"]] == ["one", "two"]
    assert record["made_of"][1]["model"] == model_identity(load_classifier(runs[1])[0])
    assert (record["configuration"]["batch_norm"], record["configuration"]["crop_hop"]) == ("reestimate", 0.5)
    assert record["verdict"].startswith("The soup, ")


def test_table_and_verdict_are_printed(runs, clips, run_recipe, tmp_path, capsys):
    run_recipe("soup", "--model", *runs, "--data", clips, "--output", tmp_path / "soup")
    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows == ["", "one", "two", "ensemble (mean of raw logits)", "soup"]
    assert record_of(tmp_path / "soup")["verdict"] in printed


def first_norm(folder) -> nn.Module:
    return next(layer for layer in load_classifier(folder)[0].modules() if isinstance(layer, nn.BatchNorm2d))


def test_statistics_are_measured_where_there_are_clips_and_averaged_where_not(soup, runs, run_recipe, tmp_path):
    run_recipe("soup", "--model", *runs, "--output", tmp_path / "soup")
    averaged, means = first_norm(tmp_path / "soup"), [first_norm(run).running_mean for run in runs]
    torch.testing.assert_close(averaged.running_mean, (means[0] + means[1]) / 2)
    measured = first_norm(soup)
    assert int(measured.num_batches_tracked) == 90 // 16
    assert not torch.allclose(measured.running_mean, averaged.running_mean, atol=1e-3)
    assert torch.equal(measured.weight, averaged.weight)
    assert record_of(tmp_path / "soup").keys() == {"made_of", "configuration"}


def test_statistics_can_be_averaged_beside_clips_too(runs, clips, run_recipe, tmp_path):
    run_recipe(
        "soup", "--model", *runs, "--data", clips, "--batch_norm", "average", "--output", tmp_path / "evaluated"
    )
    run_recipe("soup", "--model", *runs, "--output", tmp_path / "plain")
    identities = [model_identity(load_classifier(tmp_path / name)[0]) for name in ("evaluated", "plain")]
    assert identities[0] == identities[1]
    assert "soup" in record_of(tmp_path / "evaluated")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_norm", "reestimate"], "takes training clips: pass --data"),
        (["--batch_norm", "fold"], "batch_norm is 'fold'; expected one of reestimate, average"),
    ],
)
def test_wrong_settings_raise(runs, run_recipe, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_recipe("soup", "--model", *runs, "--output", tmp_path / "soup", *arguments)


def test_folder_that_is_there_stays(soup, runs, run_recipe):
    before = {path: path.stat().st_mtime_ns for path in soup.iterdir()}
    with pytest.raises(ValueError, match="exists already; name a new or empty folder"):
        run_recipe("soup", "--model", *runs, "--output", soup)
    assert {path: path.stat().st_mtime_ns for path in soup.iterdir()} == before


def test_checkpoints_of_one_run_make_a_soup(clips, run_recipe, tmp_path):
    run = tmp_path / "run"
    size = ["--architecture", "cp-mobile", "--config_overrides", "base_channels=8", "--device_generalization", "none"]
    steps = [
        "--num_train_epochs",
        2,
        "--per_device_train_batch_size",
        32,
        "--save_total_limit",
        2,
        "--pictures",
        "false",
    ]
    settings = ["--use_cpu", "true", "--disable_tqdm", "true", "--output_dir", run, "--seed", 0]
    run_recipe("train_teacher", "--data", clips, *size, *steps, *settings)
    checkpoints = sorted(run.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    run_recipe("soup", "--model", *checkpoints, "--output", tmp_path / "soup")
    states = [load_classifier(folder)[0].state_dict() for folder in (*checkpoints, tmp_path / "soup")]
    for name, mean in states[2].items():
        if mean.is_floating_point():
            torch.testing.assert_close(mean, (states[0][name] + states[1][name]) / 2)
    assert any(not torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
