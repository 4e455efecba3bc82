"""Evaluation: logits in the dataset's order, every clip once, and metrics that people can read."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from tiny_corpus import tiny_model, tiny_store
from transformers import EvalPrediction

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    SceneEvaluation,
    build_frontend,
    default_impulse_responses,
    evaluate_clips,
    load_prepared,
    metrics_table,
    predict_batches,
    scene_metrics,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def clips(data):
    return data["evaluate"]


@pytest.fixture(scope="module")
def model(clips):
    return tiny_model(clips.features["labels"].names)


@pytest.fixture(scope="module")
def frontend():
    return AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))


@pytest.fixture(scope="module")
def logits(clips, model, frontend):
    with torch.no_grad():
        mels = frontend.extractor.log_mel(torch.tensor(np.stack(clips[:]["waveform"])))
        return model.eval()(mels).logits


def test_batches_hold_the_logits_and_labels_of_the_clips_in_order(clips, model, frontend, logits):
    batches = list(predict_batches(model, clips, frontend=frontend, batch_size=8))
    assert [len(batch["logits"]) for batch in batches] == [8, 8, 8, 6]
    torch.testing.assert_close(torch.cat([batch["logits"] for batch in batches]), logits, atol=1e-4, rtol=1e-5)
    for name in ("labels", "device_ids"):
        assert torch.cat([batch[name] for batch in batches]).tolist() == clips.with_format(None)[name][:]


def test_predictions_are_not_augmented_even_with_the_front_end_of_training(clips, model, frontend, logits):
    augmenting = build_frontend(frontend.extractor, impulse_responses=default_impulse_responses())
    batch = next(predict_batches(model.train(), clips, frontend=augmenting, batch_size=30))
    torch.testing.assert_close(batch["logits"], logits, atol=1e-4, rtol=1e-5)
    assert not model.training


def test_every_clip_is_counted_once(clips, model, frontend, logits):
    metrics = evaluate_clips(model, clips, frontend=frontend, batch_size=8)
    labels, device_ids = (np.array(clips.with_format(None)[name][:]) for name in ("labels", "device_ids"))
    right = logits.argmax(1).numpy() == labels
    assert (metrics["clips"], metrics["correct"]) == (30, right.sum())
    assert metrics["accuracy"] == pytest.approx(right.mean())
    unseen = device_ids >= clips.features["device_ids"].str2int("s4")
    assert metrics["accuracy_unseen"] == pytest.approx(right[unseen].mean())
    cross_entropy = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels))
    assert metrics["log_loss"] == pytest.approx(cross_entropy.item(), rel=1e-5)


def of_devices(clips, names):
    """The clips of as many devices as there are names, in a dataset that knows them by these."""
    plain = clips.with_format(None)
    rows = [row for row, device in enumerate(plain["device_ids"]) if device < len(names)]
    renamed = plain.select(rows).cast_column("device_ids", ClassLabel(names=names))
    return renamed.with_transform(clips.format["format_kwargs"]["transform"])


def test_groups_of_a_corpus_with_some_of_the_devices(clips, model, frontend):
    metrics = evaluate_clips(model, of_devices(clips, ["a", "b", "c", "s1"]), frontend=frontend)
    assert metrics["accuracy_seen"] == metrics["accuracy_s1"]
    assert "accuracy_real" in metrics and "accuracy_unseen" not in metrics


def test_devices_of_another_corpus_are_in_no_group_unless_it_is_given(clips, model, frontend):
    phones = of_devices(clips, ["phone", "tablet"])
    metrics = evaluate_clips(model, phones, frontend=frontend)
    assert not {"accuracy_real", "accuracy_seen", "accuracy_unseen"} & metrics.keys()
    metrics = evaluate_clips(model, phones, frontend=frontend, groups={"unseen": ("tablet",)})
    assert metrics["accuracy_unseen"] == metrics["accuracy_tablet"]


def test_trainer_metrics_name_devices_and_groups_of_the_data(data, logits):
    evaluation = SceneEvaluation.of(data)
    clips = data["evaluate"].with_format(None)
    labels, device_ids = np.array(clips["labels"][:]), np.array(clips["device_ids"][:])
    metrics = evaluation(EvalPrediction(logits.numpy(), (labels, device_ids)))
    assert evaluation.groups == {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}
    names = {"scenes": evaluation.scenes, "devices": evaluation.devices, "groups": evaluation.groups}
    assert metrics == scene_metrics(logits.numpy(), labels, device_ids, **names)
    assert "accuracy_unseen" in metrics


def test_table_shows_shares_as_percent():
    lines = metrics_table({"clips": 80, "accuracy_s4": 0.775, "log_loss": 0.60546}).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["clips", "80"],
        ["accuracy_s4", "77.50 %"],
        ["log_loss", "0.6055"],
    ]
