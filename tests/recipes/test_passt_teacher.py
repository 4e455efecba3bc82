"""PaSST as a teacher: the recipe's values, a new small network, and fine-tuning of saved weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from hf_ascdistill import (
    AugmentationArguments,
    DistillationTrainingArguments,
    ModelArguments,
    PasstConfig,
    PasstForAudioClassification,
    parse_recipe,
)
from hf_ascdistill.transforms.frontend import PAPER_AUGMENTATION

CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "passt_s.yaml"
SMALL = "hidden_size=32,num_hidden_layers=2,num_attention_heads=4,intermediate_size=64"


@pytest.fixture
def arguments(tmp_path):
    kinds = (ModelArguments, AugmentationArguments, DistillationTrainingArguments)
    flags = ["--config", str(CONFIG), "--initial_weights", "models/passt-s", "--use_cpu", "true"]
    return parse_recipe(*kinds, argv=[*flags, "--output_dir", str(tmp_path)])


def test_the_recipe_has_the_published_schedule(arguments, golden):
    published = golden("lr")
    training = arguments[-1]
    factors = [training.schedule.factor(epoch) for epoch in range(25)]
    np.testing.assert_allclose(factors, published["passt_factor"], atol=1e-9, rtol=0)
    assert training.learning_rate == published["passt_cfg"][-1] == 1e-5
    assert training.weight_decay == 1e-3
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (25, 80)


def test_the_recipe_has_the_published_augmentation(arguments):
    model, augmentation, _ = arguments
    assert (model.architecture, model.size, model.initial_weights) == ("passt", "s", "models/passt-s")
    for name in ("fms_alpha", "fms_p", "dir_p", "roll_max_shift", "max_freq_mask", "max_time_mask"):
        assert getattr(augmentation, name) == getattr(PAPER_AUGMENTATION["passt"], name), name


def test_a_small_passt_is_trained_and_then_fine_tuned(run_recipe, store, tmp_path):
    steps = ["--num_train_epochs", 1, "--per_device_train_batch_size", 40, "--per_device_eval_batch_size", 40]
    flags = ["--config", CONFIG, "--data", store, "--use_cpu", "true", "--disable_tqdm", "true", *steps]
    flags = [*flags, "--pictures", "false", "--learning_rate", "1e-3"]
    run_recipe("train_teacher", *flags, "--config_overrides", SMALL, "--output_dir", tmp_path / "first")
    first = tmp_path / "first"
    checkpointed = ["--gradient_checkpointing", "true", "--bf16", "true"]
    run_recipe("train_teacher", *flags, "--initial_weights", first, *checkpointed, "--output_dir", tmp_path / "tuned")
    results = json.loads((tmp_path / "tuned" / "results.json").read_text())
    assert results["complexity"]["parameters"] == PasstForAudioClassification.from_pretrained(first).num_parameters()
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "tuned"))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if not name.startswith("unused_classifier")}
    assert PasstConfig.from_pretrained(tmp_path / "tuned").hidden_size == 32
