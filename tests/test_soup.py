"""Soups: the mean of weights to the last bit, statistics that are measured, and a verdict that spares nobody."""

import json

import numpy as np
import pytest
import torch
from tiny_corpus import tiny_model, tiny_store
from torch import nn

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
    average_weights,
    evaluate_clips,
    evaluate_logits,
    load_classifier,
    load_prepared,
    predict_batches,
    reestimate_batch_norm,
    soup_metrics,
    soup_summary,
    write_soup,
)
from hf_ascdistill.data.collator import collate_clips
from hf_ascdistill.soup import _judgement
from hf_ascdistill.teachers import model_identity

GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def scenes(data):
    return data["train"].features["labels"].names


@pytest.fixture(scope="module")
def frontend():
    return AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))


@pytest.fixture
def members(scenes, frontend):
    """Three models that have trained for some steps, each for another number."""
    models = [tiny_model(scenes, seed) for seed in range(3)]
    for steps, model in enumerate(models, start=1):
        for _ in range(steps):
            model.train()(torch.randn(4, 256, 64, generator=torch.Generator().manual_seed(steps)))
        model.eval()
    return {name: (model, frontend) for name, model in zip(("x", "y", "z"), models, strict=True)}


def test_soup_is_the_mean_in_double_precision(members):
    soup = average_weights(members).state_dict()
    states = [model.state_dict() for model, _ in members.values()]
    for name, tensor in soup.items():
        if tensor.is_floating_point():
            expected = np.mean([state[name].numpy().astype(np.float64) for state in states], axis=0)
            assert np.array_equal(tensor.numpy(), expected.astype(np.float32)), name


def test_counters_become_the_largest(members):
    counters = {name: int(t) for name, t in average_weights(members).state_dict().items() if "tracked" in name}
    assert counters and set(counters.values()) == {3}


def test_members_stay_as_they_are(members):
    before = [model_identity(model) for model, _ in members.values()]
    soup = average_weights(members)
    next(soup.parameters()).data.zero_()
    assert [model_identity(model) for model, _ in members.values()] == before
    assert not soup.training


def test_soup_of_one_model_twice_is_that_model(members):
    soup = average_weights({"one": members["x"], "again": members["x"]})
    assert model_identity(soup) == model_identity(members["x"][0])


def test_soup_has_no_denormal_weights(members):
    for value, (model, _) in zip((3e-38, -3e-38, 2e-38), members.values(), strict=True):
        next(model.parameters()).data.view(-1)[0] = value  # a mean of 7e-39
    assert next(average_weights(members).parameters()).view(-1)[0] == 0


def test_soup_keeps_the_kind_of_numbers(members):
    halves = {name: (model.to(torch.bfloat16), frontend) for name, (model, frontend) in members.items()}
    assert average_weights(halves).dtype == torch.bfloat16


def test_other_whole_numbers_must_be_the_same(members):
    for name, (model, _) in members.items():
        model.register_buffer("table", torch.tensor([1, 2 + (name == "y")]))
    with pytest.raises(ValueError, match="table holds whole numbers that differ in x, y, z"):
        average_weights(members)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_has_no_mean_raises_with_tensor_and_model(members, value):
    name, parameter = list(members["y"][0].named_parameters())[3]
    parameter.data.view(-1)[0] = value
    with pytest.raises(ValueError, match=f"{name} of y holds NaN or infinite numbers; leave y out"):
        average_weights(members)


@pytest.mark.parametrize(("names", "given"), [([], "none"), (["x"], "x")])
def test_fewer_than_two_models_raise(members, names, given):
    with pytest.raises(ValueError, match=f"at least two models; given: {given}"):
        average_weights({name: members[name] for name in names})


def of_scenes(config_class, model_class, scenes, **fields):
    return model_class(config_class(id2label=dict(enumerate(scenes)), **fields))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda scenes: tiny_model(scenes[:3]), r"z and x are not alike: classes is \['arcade', .* in x, .* in z\."),
        (
            lambda scenes: tiny_model(scenes[::-1]),
            r"alike: classes is \['arcade', .* in x, \['server_room', .* in z\.",
        ),
        (
            lambda scenes: of_scenes(CpMobileConfig, CpMobileForAudioClassification, scenes, base_channels=16),
            r"z and x are not alike: base_channels is 8 in x, 16 in z\.",
        ),
        (
            lambda scenes: of_scenes(CpResNetConfig, CpResNetForAudioClassification, scenes, base_channels=16),
            r"z and x are not alike: model_type is 'asc-cp-mobile' in x, 'asc-cp-resnet' in z\.",
        ),
    ],
)
def test_other_model_raises_with_what_differs(members, frontend, scenes, other, message):
    members["z"] = (other(scenes), frontend)
    with pytest.raises(ValueError, match=message):
        average_weights(members)


def test_other_front_end_raises_with_what_differs(members):
    members["z"] = (members["z"][0], AcousticFrontend(AscFeatureExtractor.from_preset("cp-resnet")))
    with pytest.raises(ValueError, match=r"z and x are not alike: front-end hop_length is 500 in x, 750 in z\."):
        average_weights(members)


def test_models_of_other_places_are_alike(members, frontend, tmp_path):
    for name, (model, _) in members.items():
        model.save_pretrained(tmp_path / name)
        frontend.extractor.save_pretrained(tmp_path / name)
    loaded = {name: load_classifier(tmp_path / name) for name in members}
    soup = average_weights({name: (model, AcousticFrontend(extractor)) for name, (model, extractor) in loaded.items()})
    assert model_identity(soup) == model_identity(average_weights(members))


def first_norm(model):
    """The first batch normalisation, and the convolution before it."""
    modules = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    place = next(place for place, module in enumerate(modules) if isinstance(module, nn.BatchNorm2d))
    return modules[place - 1], modules[place]


def test_statistics_are_those_of_the_clips(data, members, frontend):
    soup = average_weights(members)
    convolution, norm = first_norm(soup)
    clips = data["train"].select(range(8))
    layers = reestimate_batch_norm(soup, clips, frontend=frontend, batch_size=8)
    assert layers == sum(isinstance(module, nn.BatchNorm2d) for module in soup.modules())
    with torch.no_grad():
        mels = frontend(collate_clips([clips[row] for row in range(8)]))["input_values"]
        maps = convolution(mels[:, None])
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)  # order of the sum
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_statistics_are_the_mean_over_the_batches(data, members, frontend):
    soups = [average_weights(members) for _ in range(3)]
    clips = data["train"].select(range(8))
    order = torch.randperm(8, generator=loader_generator(7)).tolist()
    for soup, rows in zip(soups[:2], (order[:4], order[4:]), strict=True):
        reestimate_batch_norm(soup, clips.select(rows), frontend=frontend, batch_size=4)
    reestimate_batch_norm(soups[2], clips, frontend=frontend, batch_size=4, seed=7)
    one, two, both = (first_norm(soup)[1].running_mean for soup in soups)
    torch.testing.assert_close(both, (one + two) / 2, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(one, two, atol=1e-4)


def loader_generator(seed: int) -> torch.Generator:
    """The generator from which a DataLoader of this seed draws its order: it takes one number for itself first."""
    generator = torch.Generator().manual_seed(seed)
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    return generator


@pytest.mark.parametrize(("clips", "batches"), [(20, 2), (16, 2), (7, 1)])
def test_last_batch_counts_only_where_it_is_full_or_alone(data, members, frontend, clips, batches):
    soup = average_weights(members)
    reestimate_batch_norm(soup, data["train"].select(range(clips)), frontend=frontend, batch_size=8)
    assert first_norm(soup)[1].num_batches_tracked == batches


def test_measuring_statistics_changes_nothing_else(data, members, frontend):
    soup = average_weights(members)
    before = {name: parameter.clone() for name, parameter in soup.named_parameters()}
    reestimate_batch_norm(soup, data["train"].select(range(16)), frontend=frontend, batch_size=8)
    assert all(torch.equal(before[name], parameter) for name, parameter in soup.named_parameters())
    assert first_norm(soup)[1].momentum == 0.1
    assert not any(module.training for module in soup.modules())


def test_seed_decides_the_order_of_the_clips(data, members, frontend):
    soups = [average_weights(members) for _ in range(3)]
    for soup, seed in zip(soups, (1, 1, 2), strict=True):
        reestimate_batch_norm(soup, data["train"], frontend=frontend, batch_size=16, seed=seed)
    identities = [model_identity(soup)["weights"] for soup in soups]
    assert identities[0] == identities[1] != identities[2]


def test_model_without_batch_normalisation_is_left_alone(data):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = PasstForAudioClassification(PasstConfig(**sizes))
    before = model_identity(model)
    frontend = AcousticFrontend(AscFeatureExtractor.from_preset("passt"))
    assert reestimate_batch_norm(model, data["train"], frontend=frontend) == 0
    assert model_identity(model) == before


def logits_of(model, clips, frontend) -> np.ndarray:
    return torch.cat([batch["logits"] for batch in predict_batches(model, clips, frontend=frontend)]).numpy()


def test_soup_stands_beside_its_members_and_their_ensemble(data, members, frontend):
    clips, soup = data["evaluate"], average_weights(members)
    results = soup_metrics(soup, members, clips, groups=GROUPS, batch_size=16)
    assert results["soup"] == evaluate_clips(soup, clips, frontend=frontend, batch_size=16, groups=GROUPS)
    assert list(results["members"]) == ["x", "y", "z"]
    assert results["members"]["y"]["log_loss"] == pytest.approx(
        evaluate_clips(members["y"][0], clips, frontend=frontend)["log_loss"], rel=1e-5
    )
    mean = np.mean([logits_of(model, clips, frontend) for model, _ in members.values()], axis=0)
    assert results["ensemble"]["log_loss"] == pytest.approx(evaluate_logits(mean, clips)["log_loss"], rel=1e-5)
    assert (results["devices"][0], len(results["scenes"])) == ("a", 10)
    assert results["groups"] == {group: list(devices) for group, devices in GROUPS.items()}


def right_clips(model, clips, frontend):
    """Clips that a model decides rightly, and the model with the sign of its logits turned around."""
    is_right = logits_of(model, clips, frontend).argmax(1) == clips.with_format(None)["labels"][:]
    turned = average_weights({"one": (model, frontend), "again": (model, frontend)})
    norm = [module for module in turned.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    norm.weight.data.neg_()
    return clips.select(np.flatnonzero(is_right)), turned


def test_soup_that_is_worse_than_every_member_is_called_so(data, members, frontend):
    clips, wrong = right_clips(members["x"][0], data["train"], frontend)
    same = {"one": members["x"], "again": members["x"]}
    assert len(clips)
    results = soup_metrics(wrong, same, clips)
    assert results["is_worse_than_every_member"] is True
    assert "The soup, 0.00 %, is WORSE than its worst member, 100.00 %" in results["verdict"]
    assert "--initial_weights" in results["verdict"]
    assert results["verdict"] in soup_summary(results, same, "soup")


@pytest.mark.parametrize(("worst", "soup", "is_broken"), [(0.7, 0.69, False), (0.7, 0.41, False), (0.7, 0.39, True)])
def test_only_a_soup_that_has_lost_half_is_said_to_have_left_the_basin(worst, soup, is_broken):
    judgement = _judgement(soup, [0.75, worst], chance=0.1)
    assert (
        judgement["is_worse_than_every_member"] and "is WORSE than its worst member, 70.00 %" in judgement["verdict"]
    )
    assert ("do not lie in one basin" in judgement["verdict"]) == is_broken
    assert ("averaging did not pay; take a member" in judgement["verdict"]) != is_broken


def test_soup_that_is_as_good_as_the_best_is_called_so(data, members, frontend):
    clips, wrong = right_clips(members["x"][0], data["train"], frontend)
    right = members["x"][0]
    results = soup_metrics(right, {"right": members["x"], "wrong": (wrong, frontend)}, clips)
    assert "at least as good as its best member, 100.00 %" in results["verdict"]
    results = soup_metrics(wrong, {"right": members["x"], "wrong": (wrong, frontend)}, clips)
    assert "lies between its members, 0.00 to 100.00 %" in results["verdict"]
    assert results["is_worse_than_every_member"] is False


def test_summary_has_a_row_for_everything(data, members):
    results = soup_metrics(average_weights(members), members, data["evaluate"], batch_size=16)
    rows = [line.split("|")[1].strip() for line in soup_summary(results, members, "soup").splitlines()[2:7]]
    assert rows == ["x", "y", "z", "ensemble (mean of raw logits)", "soup"]


def test_summary_without_data_says_that_nothing_was_evaluated(members):
    text = soup_summary({}, members, "models/soup")
    assert "soup of 3 models (x, y, z): models/soup" in text and "Not evaluated: pass --data" in text


def test_folder_loads_as_any_other_model(members, tmp_path):
    soup = average_weights(members)
    write_soup(soup, members, tmp_path / "soup", results={"configuration": {"seed": 0}})
    model, extractor = load_classifier(tmp_path / "soup", list(soup.config.id2label.values()))
    assert model_identity(model) == model_identity(soup)
    assert extractor.hop_length == 500
    record = json.loads((tmp_path / "soup/soup.json").read_text())
    assert [row["name"] for row in record["made_of"]] == ["x", "y", "z"]
    assert record["made_of"][0]["model"] == model_identity(members["x"][0])
    assert (tmp_path / "soup/modeling_cp_mobile.py").exists()


def test_folder_that_holds_something_stays_as_it_is(members, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already; name a new or empty folder"):
        write_soup(average_weights(members), members, tmp_path, results={})
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_full_disk_leaves_nothing(members, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AscFeatureExtractor, "save_pretrained", full)
    with pytest.raises(OSError, match="soup cannot be written"):
        write_soup(average_weights(members), members, tmp_path / "soup", results={})
    assert not list(tmp_path.iterdir())
