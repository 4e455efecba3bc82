"""Class names and sizes of the configurations."""

import json

import pytest

from hf_ascdistill import CpMobileConfig, CpResNetConfig
from hf_ascdistill.models.configuration_asc import TAU22_SCENES

CONFIGS = (CpMobileConfig, CpResNetConfig)
both = pytest.mark.parametrize("config_class", CONFIGS)


@both
def test_the_classes_are_the_scenes_of_tau22_unless_given(config_class):
    config = config_class()
    assert config.num_labels == 10
    assert config.id2label == dict(enumerate(TAU22_SCENES))
    assert config.label2id == {name: index for index, name in enumerate(TAU22_SCENES)}
    assert config_class(num_labels=10).id2label == config.id2label


@both
def test_another_number_of_classes_gets_neutral_names(config_class):
    config = config_class(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


@both
@pytest.mark.parametrize("labels", [{"id2label": {"1": "out", "0": "in"}}, {"label2id": {"out": 1, "in": 0}}])
def test_one_map_of_the_names_gives_the_other(config_class, labels):
    config = config_class(**labels)
    assert list(config.id2label.items()) == [(0, "in"), (1, "out")]
    assert config.label2id == {"in": 0, "out": 1}
    assert config.num_labels == 2


@both
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"num_labels": 3, "id2label": {0: "in", 1: "out"}}, "num_labels is 3"),
        ({"num_labels": 0}, "at least one"),
        ({"id2label": {}}, "at least one"),
        ({"id2label": {0: "in", 2: "out"}}, r"ids \[0, 2\]"),
        ({"id2label": {0: "in", 1: "in"}}, "twice"),
        ({"id2label": {0: "in", 1: "out"}, "label2id": {"in": 1, "out": 0}}, "turned around"),
    ],
)
def test_contradicting_class_names_raise(config_class, labels, message):
    with pytest.raises(ValueError, match=message):
        config_class(**labels)


@both
def test_the_saved_file_always_names_the_classes(config_class, tmp_path):
    config = config_class()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert list(saved["id2label"].values()) == list(TAU22_SCENES)
    assert saved["base_channels"] == 32
    assert config_class.from_pretrained(tmp_path).to_dict() == config.to_dict()


@both
def test_names_given_on_loading_replace_the_saved_ones(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    renamed = config_class.from_pretrained(tmp_path, id2label={0: "in", 1: "out"})
    assert (renamed.id2label, renamed.label2id) == ({0: "in", 1: "out"}, {"in": 0, "out": 1})
    assert config_class.from_pretrained(tmp_path, num_labels=7).label2id["LABEL_6"] == 6
    assert config_class.from_pretrained(tmp_path, num_labels=10).id2label[9] == "tram"


@both
def test_a_field_given_on_loading_is_checked(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path, base_channels=64).base_channels == 64
    with pytest.raises(ValueError, match="base_channels is -8"):
        config_class.from_pretrained(tmp_path, base_channels=-8)


@both
def test_presets_are_the_sizes_of_the_paper(config_class):
    assert list(config_class.PRESETS) == ["128k", "450k", "1m", "4m", "8m"]
    assert config_class.from_preset("128k").to_dict() == config_class().to_dict()
    assert config_class.from_preset("1m", num_labels=3).num_labels == 3


@both
def test_an_unknown_preset_names_the_known_ones(config_class):
    with pytest.raises(ValueError, match="'2m'.*128k, 450k, 1m, 4m, 8m"):
        config_class.from_preset("2m")


@pytest.mark.parametrize(
    ("config_class", "field", "value"),
    [
        *(
            (config_class, "base_channels", value)
            for config_class in CONFIGS
            for value in (0, -32, 33, "32", 32.0, None)
        ),
        (CpMobileConfig, "base_channels", 20),
        *((CpMobileConfig, "channels_multiplier", value) for value in (0, -1.0, float("inf"), float("nan"), "2.3")),
        *((CpMobileConfig, "expansion_rate", value) for value in (0, -3, None)),
        *((CpResNetConfig, "channel_cut", value) for value in (-1, 128, 0.5)),
    ],
)
def test_a_field_out_of_its_range_raises(config_class, field, value):
    with pytest.raises(ValueError, match=f"{config_class.__name__}: {field} is {value!r}; expected"):
        config_class(**{field: value})


@pytest.mark.parametrize(
    ("config_class", "channels"),
    [
        (CpMobileConfig, [(32, 72, 168), (64, 144, 336), (96, 224, 504), (184, 424, 976), (264, 608, 1400)]),
        (CpResNetConfig, [(32, 64, 92), (56, 112, 188), (88, 176, 316), (168, 336, 636), (232, 464, 892)]),
    ],
)
def test_channels_of_the_stages_are_the_published_ones(config_class, channels):
    configs = [config_class.from_preset(name) for name in config_class.PRESETS]
    assert [config.stage_channels for config in configs] == channels
    assert [config.hidden_size for config in configs] == [stages[-1] for stages in channels]
