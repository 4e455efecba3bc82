"""Published files become folders with one command, and the authors' student decides in a pipeline as it did."""

import numpy as np
import pytest
import torch
from published import passt_tensors, small_passt, written
from transformers import AutoModelForAudioClassification, pipeline

from hf_ascdistill import (
    SCENES,
    AscFeatureExtractor,
    PasstConfig,
    PasstForAudioClassification,
    load_logits,
    load_split,
)


@pytest.mark.parametrize(("split", "correct", "clips"), [("evaluate", 62, 80), ("all", 173, 200)])
def test_the_student_decides_in_a_pipeline_as_it_did(split, correct, clips, shared, sample, run_recipe, tmp_path):
    folder = tmp_path / "student"
    run_recipe("convert_checkpoint", "--input", shared / "checkpoints/cpm_student_dcase23.ckpt", "--output", folder)
    classify = pipeline("audio-classification", model=str(folder))
    rows = load_split(sample, split)
    names = rows.features["labels"].names
    assert len(rows) == clips
    decisions = classify([{"raw": row["waveform"], "sampling_rate": 32_000} for row in rows])
    right = [best["label"] == names[row["labels"]] for [best, *_], row in zip(decisions, rows, strict=True)]
    assert sum(right) == correct


def test_a_transformer_takes_new_classes_by_a_flag(run_recipe, tmp_path, capsys):
    path = written(passt_tensors(small_passt(num_labels=527, max_frames=2000)), tmp_path)
    command = ("convert_checkpoint", "--input", path, "--output", tmp_path / "model", "--num_labels", 10)
    with pytest.raises(ValueError, match="--hop_length"):
        run_recipe(*command)
    run_recipe(*command, "--hop_length", 160, "--seed", 3)
    assert "asc-passt, 10 classes" in capsys.readouterr().out
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    assert tuple(model.config.label2id) == SCENES
    extractor = AscFeatureExtractor.from_pretrained(tmp_path / "model")
    assert (extractor.hop_length, extractor.fmax) == (160, 15_500)


def test_all_that_the_tensors_leave_open_are_flags(run_recipe, tmp_path):
    fields = {"hidden_size": 48, "num_attention_heads": 4, "patch_stride": 14, "max_frames": 2000, "num_labels": 3}
    model = PasstForAudioClassification(PasstConfig(num_hidden_layers=1, intermediate_size=8, **fields))
    path = written(passt_tensors(model), tmp_path)
    flags = ("--num_attention_heads", 4, "--hop_length", 200, "--patch_stride", 14, "--fmax", 14_000)
    run_recipe("convert_checkpoint", "--input", path, "--output", tmp_path / "model", *flags)
    config = PasstConfig.from_pretrained(tmp_path / "model")
    assert {name: getattr(config, name) for name in fields} == {**fields, "max_frames": 1990}  # what 142 columns need
    assert config.time_patches == model.config.time_patches
    extractor = AscFeatureExtractor.from_pretrained(tmp_path / "model")
    assert (extractor.hop_length, extractor.fmax) == (200, 14_000)


def test_logits_become_a_set(sample, run_recipe, tmp_path, capsys):
    rows = load_split(sample, "all").with_format(None)
    path = written(5 * torch.nn.functional.one_hot(torch.tensor(rows["labels"][:]), 10).float(), tmp_path)
    folder = tmp_path / "logits"
    run_recipe("convert_checkpoint", "--input", path, "--meta_csv", sample / "meta.csv", "--output", folder)
    assert f"200 clips x 10 scenes: {folder}" in capsys.readouterr().out
    logits = load_logits(folder)
    assert logits.example_ids.tolist() == rows["example_id"][:]
    np.testing.assert_array_equal(logits.logits.argmax(axis=1), rows["labels"][:])
