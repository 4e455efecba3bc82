"""The Auto classes find the models: with the package imported, and from a saved folder without it."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from hf_ascdistill import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpMobileModel,
    CpResNetConfig,
    CpResNetForAudioClassification,
    CpResNetModel,
    PasstConfig,
    PasstForAudioClassification,
    PasstModel,
)
from hf_ascdistill.models import register

FAMILIES = {
    "cp-mobile": (CpMobileConfig, CpMobileModel, CpMobileForAudioClassification),
    "cp-resnet": (CpResNetConfig, CpResNetModel, CpResNetForAudioClassification),
    "passt": (PasstConfig, PasstModel, PasstForAudioClassification),
}
SMALL = {
    "cp-mobile": {"base_channels": 16},
    "cp-resnet": {"base_channels": 16},
    "passt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
}
families = pytest.mark.parametrize("family", FAMILIES)


def trained_model(family: str) -> nn.Module:
    """A small classifier in which no tensor has its initial value, in evaluation mode."""
    config_class, _, classifier_class = FAMILIES[family]
    torch.manual_seed(0)
    model = classifier_class(config_class(**SMALL[family])).eval()
    for name, tensor in model.state_dict().items():
        if "num_batches_tracked" in name:
            tensor.fill_(81_900)
        else:
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if "running_var" in name else torch.randn(tensor.shape) / 4)
    return model


def save(family: str, folder) -> nn.Module:
    model = trained_model(family)
    model.save_pretrained(folder)
    AscFeatureExtractor.from_preset(family).save_pretrained(folder)
    return model


@families
def test_a_saved_model_comes_back_exactly(family, tmp_path):
    config_class, model_class, classifier_class = FAMILIES[family]
    model = save(family, tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is config_class
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert type(loaded) is classifier_class
    assert not loaded.training
    tensors = loaded.state_dict()
    assert tensors.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype, name
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is model_class
    inputs = torch.randn(2, 128, 43)
    assert torch.equal(base(inputs).last_hidden_state, model.base_model(inputs).last_hidden_state)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.hop_length == AscFeatureExtractor.from_preset(family).hop_length


@families
def test_models_are_built_from_their_configuration(family):
    config_class, model_class, classifier_class = FAMILIES[family]
    config = AutoConfig.for_model(config_class.model_type, **SMALL[family])
    assert type(AutoModel.from_config(config)) is model_class
    assert type(AutoModelForAudioClassification.from_config(config)) is classifier_class


def test_registering_again_changes_nothing():
    register()
    assert type(AutoConfig.for_model("asc-cp-mobile")) is CpMobileConfig


WITHOUT_PACKAGE = """
import sys
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

for folder in sys.argv[1:]:
    classifier = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    for loaded in (classifier, base, extractor):
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded).__module__
    inputs, expected = torch.load(folder + "/expected.pt")
    with torch.no_grad():
        torch.testing.assert_close(classifier(inputs).logits, expected)
        assert torch.equal(base(inputs).pooler_output, classifier.base_model(inputs).pooler_output)
    values = extractor([0.0] * 32000, sampling_rate=32000, return_tensors="pt")["input_values"]
    assert values.shape[:2] == inputs.shape[:2]
    classifier.save_pretrained(folder + "/again")
    assert AutoModel.from_pretrained(folder + "/again", trust_remote_code=True).config.num_labels == 10
    fresh = AutoModelForAudioClassification.from_config(classifier.config, trust_remote_code=True)
    if folder.endswith("cp-resnet"):
        assert not fresh.classifier.conv.weight.any() and not fresh.cp_resnet.blocks[0].conv2.weight.any()
    elif folder.endswith("passt"):
        assert not classifier.unused_classifier.weight.requires_grad
        assert 0.015 < fresh.classifier.linear.weight.std() < 0.025
        assert 0.015 < fresh.passt.time_positions.std() < 0.025
    else:
        assert 0.4 < fresh.classifier.conv.weight.std() < 0.5  # sqrt(2 / 10)
assert "hf_ascdistill" not in sys.modules
"""


def test_a_saved_folder_works_without_the_package(tmp_path):
    folders = [tmp_path / family for family in FAMILIES]
    for folder in folders:
        model = save(folder.name, folder)
        inputs = torch.randn(1, AscFeatureExtractor.from_preset(folder.name).n_mels, 43)
        with torch.no_grad():
            torch.save((inputs, model(inputs).logits), folder / "expected.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, *map(str, folders)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
