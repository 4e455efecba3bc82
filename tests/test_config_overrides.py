"""Fields of a new model's configuration from the command line."""

import pytest

from hf_ascdistill import (
    CpMobileConfig,
    CpResNetForAudioClassification,
    ModelArguments,
    PasstConfig,
    PasstForAudioClassification,
    build_model,
    parse_recipe,
)
from hf_ascdistill.building import parse_overrides

SCENES = ["bus", "park", "tram"]
SMALL_PASST = "hidden_size=48,num_hidden_layers=2,num_attention_heads=4,intermediate_size=192"


def build(*flags: str):
    (arguments,) = parse_recipe(ModelArguments, argv=flags)
    return build_model(arguments, SCENES)


def test_a_small_passt_is_built_from_the_command_line():
    model, extractor = build("--architecture", "passt", "--size", "s", "--config_overrides", SMALL_PASST)
    assert type(model) is PasstForAudioClassification
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (48, 2)
    assert list(model.config.id2label.values()) == SCENES
    assert (extractor.n_mels, extractor.hop_length) == (128, 320)
    assert model.config.frequency_patchout == 6  # what is not named keeps the value of the size


def test_a_file_may_name_them(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text("architecture: cp-resnet\nconfig_overrides: base_channels=16, channel_cut=12\n")
    model, _ = build("--config", str(path))
    assert type(model) is CpResNetForAudioClassification
    assert model.config.stage_channels == (16, 32, 52)


def test_values_have_the_type_of_their_field():
    values = parse_overrides("base_channels=16, channels_multiplier=2 ,expansion_rate=1e0,", CpMobileConfig)
    assert values == {"base_channels": 16, "channels_multiplier": 2.0, "expansion_rate": 1.0}
    assert [type(value) for value in values.values()] == [int, float, float]
    assert parse_overrides("", CpMobileConfig) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_channels", "'base_channels'; expected name=value pairs, separated by commas"),
        ("width=16", "names 'width' as a field; expected fields of CpMobileConfig, each once: base_channels, "),
        ("num_labels=3", "names 'num_labels' as a field; expected fields of CpMobileConfig"),
        ("base_channels=8,base_channels=16", "names 'base_channels' twice"),
        ("base_channels=wide", "base_channels the value 'wide'; expected a whole number"),
        ("base_channels=16.5", "base_channels the value '16.5'; expected a whole number"),
        ("expansion_rate=", "expansion_rate the value ''; expected a number"),
    ],
)
def test_what_is_no_field_or_no_value_raises(text, message):
    with pytest.raises(ValueError, match=message):
        parse_overrides(text, CpMobileConfig)


def test_the_configuration_checks_the_values():
    with pytest.raises(ValueError, match="hidden_size is 50; expected a multiple of num_attention_heads = 12"):
        build("--architecture", "passt", "--size", "s", "--config_overrides", "hidden_size=50")


def test_a_saved_model_keeps_its_configuration(tmp_path):
    PasstForAudioClassification(PasstConfig(**parse_overrides(SMALL_PASST, PasstConfig))).save_pretrained(tmp_path)
    flags = ("--initial_weights", str(tmp_path), "--config_overrides", SMALL_PASST)
    with pytest.raises(ValueError, match="config_overrides is 'hidden_size=48.*but initial_weights is given"):
        build(*flags)


def test_a_size_of_another_architecture_names_those_that_there_are():
    with pytest.raises(ValueError, match="PasstConfig has no preset '128k'; expected one of s"):
        build("--architecture", "passt")
