"""The scene metrics by hand-made examples, and their `evaluate` module in one and in two processes."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from hf_ascdistill.metrics import load_scene_metrics, mean_over_last_epochs, scene_metrics, summarize_runs

SCENES = ("bus", "park", "tram")
DEVICES = ("a", "b", "s1", "s4")
GROUPS = {"real": ("a", "b"), "seen": ("s1",), "unseen": ("s4",)}
NAMES = {"scenes": SCENES, "devices": DEVICES, "groups": GROUPS}

# Seven clips: decisions 0 0 1 2 1 0 2, so right are clips 0, 1, 2, 3 and 6.
LOGITS = np.array([[3, 1, 0], [2, 0, 1], [0, 4, 1], [0, 1, 5], [1, 2, 0], [6, 0, 0], [0, 0, 1]], dtype=np.float32)
LABELS = np.array([0, 0, 1, 2, 0, 2, 2])
DEVICE_IDS = np.array([0, 0, 0, 1, 1, 1, 3])


@pytest.fixture
def scores():
    return scene_metrics(LOGITS, LABELS, DEVICE_IDS, **NAMES)


def test_overall_and_macro_accuracy(scores):
    assert scores["accuracy"] == pytest.approx(5 / 7)
    assert scores["macro_accuracy"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)


def test_groups_pool_clips_and_do_not_average_devices(scores):
    # a has 3 of 3 right and b 1 of 3: pooled 4 / 6; unequal counts would tell pooling from averaging
    assert scores["accuracy_a"] == 1.0
    assert scores["accuracy_b"] == pytest.approx(1 / 3)
    few_of_b = scene_metrics(LOGITS[:5], LABELS[:5], DEVICE_IDS[:5], **NAMES)
    assert few_of_b["accuracy_real"] == pytest.approx(4 / 5)  # the mean of the devices would be 3 / 4
    assert scores["accuracy_real"] == pytest.approx(4 / 6)
    assert scores["accuracy_unseen"] == 1.0


def test_scene_accuracies(scores):
    assert scores["accuracy_scene_bus"] == pytest.approx(2 / 3)
    assert scores["accuracy_scene_park"] == 1.0
    assert scores["accuracy_scene_tram"] == pytest.approx(2 / 3)


def test_what_has_no_clip_has_no_entry(scores):
    assert not {"accuracy_seen", "accuracy_s1"} & scores.keys()
    only_bus = scene_metrics(LOGITS[:2], LABELS[:2], DEVICE_IDS[:2], **NAMES)
    assert only_bus["macro_accuracy"] == 1.0
    assert "accuracy_scene_park" not in only_bus
    assert all(math.isfinite(value) for value in {**scores, **only_bus}.values())


def test_log_loss_is_the_mean_cross_entropy_in_nats(scores):
    expected = [
        -math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
        for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    ]
    assert scores["log_loss"] == pytest.approx(sum(expected) / 7, rel=1e-9)


def test_log_loss_of_equal_logits_is_the_log_of_the_class_count():
    scores = scene_metrics(np.zeros((2, 3)), [0, 2], [0, 1], **NAMES)
    assert scores["log_loss"] == pytest.approx(math.log(3))


def test_log_loss_of_huge_logits_does_not_overflow():
    scores = scene_metrics([[1e4, 0.0, 0.0]], [1], [0], **NAMES)
    assert scores["log_loss"] == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.where(np.arange(7)[:, None] == 4, np.nan, LOGITS)}, "first at row 4"),
        ({"logits": np.full((7, 3), np.inf)}, "7 of 7 clips are NaN or infinite"),
        ({"logits": LOGITS[:, :2]}, r"shape \(7, 2\), expected \(clips, 3\)"),
        ({"logits": [[1.0, 2.0, 3.0], [1.0]]}, "must all hold 3 scores"),
        ({"logits": np.zeros((0, 3)), "labels": [], "device_ids": []}, "no clips to score"),
        ({"labels": np.array([0, 0, 1, 2, 0, 2, 3])}, r"labels\[6\] is 3, expected 0..2"),
        ({"labels": np.array([0, 0, 1, 2, 0, 2, -100])}, r"labels\[6\] is -100"),
        ({"labels": LABELS[:6]}, r"labels has shape \(6,\), expected \(7,\)"),
        ({"labels": LABELS.astype(float)}, "labels must be integers, got float64"),
        ({"device_ids": np.array([0, 4, 0, 0, 0, 0, 0])}, r"device_ids\[1\] is 4, expected 0..3"),
        ({"groups": {"unseen": ("s5",)}}, r"group 'unseen' names the devices \['s5'\]"),
        ({"groups": {"a": ("a",)}}, r"\['accuracy_a'\] are named twice"),
    ],
)
def test_bad_input_raises(change, message):
    given = {"logits": LOGITS, "labels": LABELS, "device_ids": DEVICE_IDS, **NAMES, **change}
    with pytest.raises(ValueError, match=message):
        scene_metrics(given.pop("logits"), given.pop("labels"), given.pop("device_ids"), **given)


def test_module_gives_the_function_s_figures_batch_by_batch(tmp_path, scores):
    metric = load_scene_metrics(cache_dir=str(tmp_path))
    for batch in (slice(0, 3), slice(3, 7)):
        metric.add_batch(predictions=LOGITS[batch], references=LABELS[batch], device_ids=DEVICE_IDS[batch])
    assert metric.compute(**NAMES) == pytest.approx(scores)


def test_module_takes_all_clips_in_compute(tmp_path, scores):
    metric = load_scene_metrics(cache_dir=str(tmp_path))
    assert metric.compute(predictions=LOGITS, references=LABELS, device_ids=DEVICE_IDS, **NAMES) == pytest.approx(
        scores
    )


def test_module_refuses_nan_logits(tmp_path):
    metric = load_scene_metrics(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="NaN"):
        metric.compute(predictions=LOGITS * np.nan, references=LABELS, device_ids=DEVICE_IDS, **NAMES)


def test_module_without_clips_raises(tmp_path):
    with pytest.raises(ValueError, match="at least once before calling `compute`"):
        load_scene_metrics(cache_dir=str(tmp_path)).compute(**NAMES)


ONE_OF_TWO_PROCESSES = """
import json
import sys

import numpy as np

from hf_ascdistill.metrics import load_scene_metrics

rank, cache, data, names = int(sys.argv[1]), sys.argv[2], np.load(sys.argv[3]), json.loads(sys.argv[4])
metric = load_scene_metrics(num_process=2, process_id=rank, experiment_id="two", cache_dir=cache)
mine = {column: data[column][rank::2] for column in ("logits", "labels", "device_ids")}
metric.add_batch(predictions=mine["logits"], references=mine["labels"], device_ids=mine["device_ids"])
print(json.dumps(metric.compute(**names)))
"""


def test_module_counts_every_clip_of_two_processes_once(tmp_path, scores):
    np.savez(tmp_path / "clips.npz", logits=LOGITS, labels=LABELS, device_ids=DEVICE_IDS)
    arguments = [str(tmp_path / "cache"), str(tmp_path / "clips.npz"), json.dumps(NAMES)]
    processes = [
        subprocess.Popen([sys.executable, "-c", ONE_OF_TWO_PROCESSES, str(rank), *arguments], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    first, second = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert first == pytest.approx(scores)
    assert second is None


def test_last_epochs_are_averaged_without_best_epoch_selection():
    history = [{"epoch": epoch, "accuracy": accuracy} for epoch, accuracy in enumerate((0.9, 0.1, 0.2, 0.3, 0.6))]
    assert mean_over_last_epochs(history) == {"epochs": 4, "accuracy": pytest.approx(0.3)}
    assert mean_over_last_epochs(history, last=1) == {"epochs": 1, "accuracy": pytest.approx(0.6)}


def test_shorter_run_says_how_many_epochs_were_averaged():
    assert mean_over_last_epochs([{"accuracy": 0.2}, {"accuracy": 0.4}]) == {
        "epochs": 2,
        "accuracy": pytest.approx(0.3),
    }


@pytest.mark.parametrize(
    ("history", "last", "message"),
    [
        ([], 4, "history is empty"),
        ([{"accuracy": 0.5}], 0, "last is 0"),
        ([{"accuracy": 0.5}, {"accuracy": 0.5, "log_loss": 1.0}], 4, r"differ in \['log_loss'\]"),
        ([{"accuracy": "0.5"}], 4, "no numbers"),
    ],
)
def test_bad_history_raises(history, last, message):
    with pytest.raises(ValueError, match=message):
        mean_over_last_epochs(history, last)


def test_runs_are_summarised_by_mean_and_sample_deviation():
    summary = summarize_runs([{"accuracy": 0.60}, {"accuracy": 0.62}, {"accuracy": 0.67}])
    # squared deviations from 0.63: 0.0009 + 0.0001 + 0.0016 = 0.0026, divided by 3 - 1
    assert summary == {"accuracy": {"mean": pytest.approx(0.63), "std": pytest.approx(math.sqrt(0.0013)), "runs": 3}}


def test_one_run_has_no_deviation():
    assert summarize_runs([{"accuracy": 0.6}]) == {"accuracy": {"mean": 0.6, "std": None, "runs": 1}}


@pytest.mark.parametrize(
    ("runs", "message"),
    [([], "runs is empty"), ([{"accuracy": 0.5}, {"macro_accuracy": 0.5}], "runs 0 and 1 do not hold")],
)
def test_bad_runs_raise(runs, message):
    with pytest.raises(ValueError, match=message):
        summarize_runs(runs)
