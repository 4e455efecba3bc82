"""The folder of a run: one configuration, results that are there whole or not at all, and a report of several runs."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_corpus import tiny_model, tiny_store

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationArguments,
    DataArguments,
    DistillationTrainingArguments,
    ModelArguments,
    TeacherArguments,
    build_trainer,
    check_budget,
    finish_run,
    finished_results,
    load_classifier,
    load_prepared,
    measure_complexity,
    open_run,
    print_once,
    results_table,
    run_summary,
    runs,
    write_report,
)
from hf_ascdistill.complexity import ModelComplexity

EPOCHS = 5
GROUPS = ("real", "seen", "unseen")


def arguments(folder, **settings) -> DistillationTrainingArguments:
    batches = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 16}
    defaults = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": EPOCHS, **batches}
    return DistillationTrainingArguments(output_dir=str(folder), **{**defaults, **settings})


def train(folder, store, **settings):
    """Trains a tiny model on 16 clips in a folder that is opened as recipes do."""
    training = arguments(folder, **settings)
    open_run(training, DataArguments(str(store)))
    data = load_prepared(store)
    data["train"] = data["train"].select(range(16))
    model = tiny_model(data["train"].features["labels"].names)
    frontend = AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))
    trainer = build_trainer(model, training, data, frontend=frontend)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store):
    """A finished run: its folder, its trainer and what `finish_run` returned."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    trainer = train(folder, store)
    return folder, trainer, finish_run(trainer, folder, teachers=[{"name": "cpr-128k-dirfms-s0"}])


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished[0] / "results.json").read_text())


def test_same_configuration_opens_again(tmp_path):
    others = (DataArguments("corpus"), ModelArguments(), AugmentationArguments(dir_devices=["a"]))
    assert open_run(arguments(tmp_path), *others) == open_run(arguments(tmp_path), *others) == tmp_path


@pytest.mark.parametrize(
    ("settings", "others", "message"),
    [
        (
            {"learning_rate": 0.5},
            [DataArguments("corpus")],
            "configuration: learning_rate was 0.0009, now 0.5. Choose",
        ),
        (
            {},
            [DataArguments("elsewhere", crop_hop=0.5)],
            "crop_hop was None, now 0.5; data was 'corpus', now 'elsewhere'",
        ),
        ({}, [DataArguments("corpus"), TeacherArguments(["logits"])], r"teacher_logits was None, now \['logits'\]"),
        ({}, [], "data was 'corpus', now None"),
    ],
)
def test_folder_of_another_configuration_raises_with_what_differs(tmp_path, settings, others, message):
    open_run(arguments(tmp_path), DataArguments("corpus"))
    with pytest.raises(ValueError, match=message):
        open_run(arguments(tmp_path, **settings), *others)


def test_field_that_an_older_run_lacks_had_its_default(tmp_path):
    others = (DataArguments("corpus"), AugmentationArguments(), TeacherArguments(["logits"]))
    open_run(arguments(tmp_path), *others)
    path = tmp_path / "configuration.json"
    old = json.loads(path.read_text())
    for name in ("teacher_mode", "teachers", "fms_p", "kd_lambda"):
        del old[name]
    path.write_text(json.dumps(old))
    assert open_run(arguments(tmp_path), *others) == tmp_path
    with pytest.raises(ValueError, match="configuration: fms_p was 0.4, now 0.8; kd_lambda was 0.02, now 0.5. Choose"):
        open_run(arguments(tmp_path, kd_lambda=0.5), others[0], AugmentationArguments(fms_p=0.8), others[2])


def test_field_without_a_default_that_a_run_lacks_raises(tmp_path):
    open_run(arguments(tmp_path))
    with pytest.raises(ValueError, match="data was None, now 'corpus'"):
        open_run(arguments(tmp_path), DataArguments("corpus"))


def test_settings_that_change_no_number_may_differ(tmp_path):
    open_run(arguments(tmp_path), DataArguments("corpus"))
    open_run(arguments(tmp_path, save_total_limit=9, per_device_eval_batch_size=3), DataArguments("corpus"))


def test_run_without_evaluation_stops_before_it_trains(tmp_path):
    with pytest.raises(ValueError, match="eval_strategy is no"):
        open_run(arguments(tmp_path / "run", eval_strategy="no"))
    assert not (tmp_path / "run").exists()


def test_run_that_would_end_before_its_first_evaluation_stops_before_it_trains(tmp_path):
    with pytest.raises(ValueError, match="eval_delay is 8, but num_train_epochs 5"):
        open_run(arguments(tmp_path / "run", eval_delay=8, num_train_epochs=5))
    assert not (tmp_path / "run").exists()
    open_run(arguments(tmp_path / "run", eval_delay=5, num_train_epochs=5))


def test_missing_matplotlib_stops_a_run_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"hf_ascdistill\[plot\]"):
        open_run(arguments(tmp_path / "with"))
    open_run(arguments(tmp_path / "without", pictures=False))
    assert not (tmp_path / "with").exists()


def test_results_hold_every_epoch_with_every_device(results):
    assert [row["epoch"] for row in results["epochs"]] == [1, 2, 3, 4, 5]
    names = {"loss", "log_loss", "accuracy", "macro_accuracy", *(f"accuracy_{group}" for group in GROUPS)}
    names |= {f"accuracy_{device}" for device in ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")}
    assert all(names <= row.keys() for row in results["epochs"])
    assert [row["epoch"] for row in results["training"]] == [1, 2, 3, 4, 5]
    assert all("learning_rate" in row for row in results["training"])


def test_results_hold_the_mean_of_the_last_four_epochs(results):
    last = results["last_epochs"]
    assert last["epochs"] == 4
    for name in ("accuracy", "accuracy_unseen", "accuracy_s4", "log_loss"):
        assert last[name] == pytest.approx(np.mean([row[name] for row in results["epochs"][1:]]))
    assert len({row["log_loss"] for row in results["epochs"]}) == EPOCHS


def test_results_hold_configuration_complexity_and_teachers(finished, results):
    complexity = measure_complexity(finished[1].model, (1, 256, 64))
    assert results["complexity"]["parameters"] == complexity.parameters
    assert results["complexity"]["macs"] == complexity.macs
    assert results["complexity"]["verdict"] == check_budget(complexity).text
    assert ModelComplexity.from_results(results["complexity"]) == complexity
    assert complexity.peak_activation_bytes > 0
    assert results["configuration"] == json.loads((finished[0] / "configuration.json").read_text())
    assert results["configuration"]["world_size"] == 1
    assert (results["run"], results["teachers"]) == ("student", [{"name": "cpr-128k-dirfms-s0"}])


def test_results_on_disk_are_those_that_are_returned(finished, results):
    assert json.loads(json.dumps(finished[2])) == results == finished_results(finished[0])


def test_results_of_a_resumed_training_are_the_same_bytes(finished, monkeypatch):
    folder, trainer, _ = finished
    before = (folder / "results.json").read_bytes()
    history = json.loads(json.dumps(trainer.state.log_history, sort_keys=True))  # as a checkpoint keeps it
    monkeypatch.setattr(trainer.state, "log_history", history)
    finish_run(trainer, folder, teachers=[{"name": "cpr-128k-dirfms-s0"}])
    assert (folder / "results.json").read_bytes() == before


def test_finished_folder_holds_pictures_and_the_trained_model(finished):
    folder, trainer, _ = finished
    for name in ("training_curve.png", "devices.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    model, extractor = load_classifier(folder)
    saved, trained = model.state_dict(), trainer.model.state_dict()
    assert all(np.array_equal(saved[name].numpy(), values.numpy()) for name, values in trained.items())
    assert extractor.to_dict()["hop_length"] == 500


def test_run_that_ends_before_all_is_written_is_not_finished(tmp_path, store, monkeypatch):
    trainer = train(tmp_path, store, num_train_epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "draw_device_accuracy", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish_run(trainer, tmp_path)
    assert finished_results(tmp_path) is None
    finish_run(trainer, tmp_path)
    assert finished_results(tmp_path)["last_epochs"]["epochs"] == 1


def test_denormal_weights_are_saved_in_checkpoints_and_not_in_the_finished_model(tmp_path, store):
    trainer = train(tmp_path, store, num_train_epochs=1, pictures=False)
    name, weight = next(iter(trainer.model.named_parameters()))
    weight.data.view(-1)[:2] = torch.tensor([1e-40, -1e-40])
    kept = weight.detach().clone()
    trainer._save_checkpoint(trainer.model, None)
    finish_run(trainer, tmp_path)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert torch.equal(load_file(checkpoint / "model.safetensors")[name], kept)
    kept.view(-1)[:2] = 0
    assert torch.equal(load_file(tmp_path / "model.safetensors")[name], kept)


def test_pictures_are_left_out_on_request(tmp_path, store):
    finish_run(train(tmp_path, store, num_train_epochs=1, pictures=False), tmp_path)
    assert finished_results(tmp_path) and not list(tmp_path.glob("*.png"))


def test_summary_shows_the_mean_and_the_budget(finished, results, capsys):
    print_once(run_summary(results, finished[0]))
    shown = capsys.readouterr().out
    assert f"accuracy_unseen {100 * results['last_epochs']['accuracy_unseen']:.2f} %" in " ".join(shown.split())
    assert results["complexity"]["verdict"] in shown and str(finished[0]) in shown
    assert "estimated latency: about" in shown


def test_summary_of_an_older_run_shows_what_was_measured_then(finished, results):
    added = ("depthwise_macs", "peak_activation_bytes")
    older = {name: value for name, value in results["complexity"].items() if name not in added}
    shown = run_summary({**results, "complexity": older}, finished[0])
    assert results["complexity"]["verdict"] in shown and "latency" not in shown and "memory" not in shown


def row(name: str, **changes) -> dict:
    complexity = {"parameters": 126_952, "macs": 28_889_088, "verdict": "fits"}
    return {
        "run": name,
        "last_epochs": {"accuracy": 0.5, "accuracy_unseen": 0.25},
        "complexity": complexity,
        **changes,
    }


def test_table_has_a_row_for_each_run():
    spread = {"accuracy": 0.011, "accuracy_unseen": None}
    table = results_table({"teacher": row("t"), "student": row("s", spread=spread)})
    assert table.splitlines() == [
        "| | all | real | seen | unseen | parameters | MACs | budget |",
        "|---|---|---|---|---|---|---|---|",
        "| teacher | 50.0 | - | - | 25.0 | 126,952 | 28.9 M | fits |",
        "| student | 50.0 ± 1.1 | - | - | 25.0 | 126,952 | 28.9 M | fits |",
    ]


def test_report_has_the_table_and_pictures_that_are_there(finished, results):
    root = finished[0].parent
    printed = write_report({"student with KD": results, "once more": results}, root)
    report = (root / "report.md").read_text()
    table = results_table({"student with KD": results, "once more": results})
    assert table in report and table in printed and "mean of the last 4 epochs" in report
    links = [line.split("](")[1].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    assert links == ["devices.png", "student/training_curve.png", "student/training_curve.png"]
    assert all((root / link).exists() for link in links)
