"""Teacher logits are averaged over an ensemble, and reach the student's clips only where they belong."""

import shutil
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from predict_job import crops_of, predict
from tiny_corpus import example_ids, tiny_corpus, tiny_model, tiny_store

from hf_ascdistill import (
    LogitsSet,
    aligned_only,
    attach_logits,
    average_logits,
    load_prepared,
    load_tau22,
    shifted_crops,
)
from hf_ascdistill.data.store import clip_contents
from hf_ascdistill.teachers import model_identity


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def crops(store):
    return crops_of(store)


@pytest.fixture(scope="module")
def clips(store):
    """The first six training clips: three recordings of two slices."""
    return load_prepared(store)["train"].select(range(6))


@pytest.fixture
def model(crops):
    return tiny_model(crops.features["labels"].names)


@pytest.fixture(scope="module")
def straight(crops, tmp_path_factory):
    """Folder of a set, and the set."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, predict(crops, folder, tiny_model(crops.features["labels"].names))


def made_up(clips, seed: int = 0, **changes) -> LogitsSet:
    """Random logits that belong to clips."""
    names, scenes = np.array(example_ids(clips), dtype=object), tuple(clips.features["labels"].names)
    logits = np.random.default_rng(seed).normal(0, 3, (len(clips), len(scenes))).astype(np.float32)
    fields = {"example_ids": names, "logits": logits, "content": clip_contents(clips), "scenes": scenes}
    return LogitsSet(**{**fields, "members": ({"name": f"teacher {seed}"},), **changes})


def rows(logits: LogitsSet, chosen) -> dict[str, np.ndarray]:
    return {name: getattr(logits, name)[chosen] for name in ("example_ids", "logits", "content")}


def attached_logits(clips) -> np.ndarray:
    return np.array(clips.with_format(None)["teacher_logits"][:], dtype=np.float32)


def test_same_clips_with_other_audio_raise(clips, tmp_path, tmp_path_factory, model):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus(tmp_path_factory.getbasetemp()), corpus)
    wavs = load_tau22(corpus)["train"].select(range(6))
    logits = predict(wavs, tmp_path / "logits", model)
    attach_logits(clips, logits)  # the store of the same files
    paths = [corpus / "audio" / f"{name}.wav" for name in example_ids(wavs)[:2]]
    shutil.copyfile(paths[1], paths[0])
    changed = load_tau22(corpus)["train"].select(range(6))
    with pytest.raises(
        ValueError, match=f"other audio than the dataset.*fingerprints of 1 clips.* {paths[0].stem} is"
    ):
        attach_logits(changed, logits)
    with pytest.raises(ValueError, match=r"'data': '(\w+)'.* asked for .*'data': '(?!\1)"):
        predict(changed, tmp_path / "logits", model)


def test_average_is_the_mean_of_raw_logits(golden):
    kd = golden("kd")
    names = np.array([f"clip-{row}" for row in range(16)], dtype=object)
    scenes, content = tuple("abcdefghij"), np.full(16, "same", dtype=object)
    members = [LogitsSet(names, logits, content, scenes) for logits in kd["ens_logits"]]
    mean = average_logits(members)
    np.testing.assert_allclose(mean.logits, kd["ens_mean"], atol=1e-5)
    assert mean.logits.dtype == np.float32


def test_average_joins_by_id_and_keeps_every_identity(clips):
    first, second = made_up(clips, 0), made_up(clips, 1)
    shuffled = LogitsSet(**rows(second, [3, 1, 5, 0, 2, 4]), scenes=second.scenes, members=second.members)
    mean = average_logits([first, shuffled])
    np.testing.assert_allclose(mean.logits, (first.logits + second.logits) / 2, atol=1e-6)
    assert [member["name"] for member in mean.members] == ["teacher 0", "teacher 1"]


def test_average_does_not_depend_on_the_order_of_the_members(clips):
    members = [made_up(clips, seed) for seed in range(4)]
    for scale, member in zip((1e-4, 1.0, 30.0, 1e3), members, strict=True):
        member.logits[:] *= scale  # float32 sums of these would differ
    means = [average_logits(order).logits for order in permutations(members)]
    assert all(np.array_equal(mean, means[0]) for mean in means)
    sums = [sum(member.logits for member in order) / np.float32(4) for order in permutations(members)]
    assert not all(np.array_equal(mean, sums[0]) for mean in sums)


def test_average_takes_members_one_by_one_and_leaves_them_alone(clips):
    members = [made_up(clips, seed) for seed in range(27)]
    before = [member.logits.copy() for member in members]
    mean = average_logits(iter(members))
    np.testing.assert_allclose(mean.logits, np.mean(before, axis=0, dtype=np.float64), rtol=1e-6)
    assert [member["name"] for member in mean.members] == [f"teacher {seed}" for seed in range(27)]
    for member, logits in zip(members, before, strict=True):
        np.testing.assert_array_equal(member.logits, logits)


def changed_content(logits: LogitsSet) -> np.ndarray:
    content = logits.content.copy()
    content[2] = "0" * 32
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda other: rows(other, slice(1, None)), "belong to other clips, 6 and 5"),
        (lambda other: {"scenes": other.scenes[::-1]}, "teacher 1 have 10 classes .*those of teacher 0 are 10"),
        (lambda other: {"content": changed_content(other)}, "teacher 1 belong to other audio than teacher 0"),
    ],
)
def test_ensemble_of_sets_that_differ_raises_and_both_are_named(clips, change, message):
    other = made_up(clips, 1)
    with pytest.raises(ValueError, match=message):
        average_logits([made_up(clips, 0), made_up(clips, 1, **change(other))])


def test_ensemble_without_members_raises():
    with pytest.raises(ValueError, match="none was given"):
        average_logits([])


def test_logits_of_clips_attach_to_aligned_crops(clips):
    logits = made_up(clips)
    aligned = aligned_only(shifted_crops(clips, hop_seconds=0.5))
    attached = attach_logits(aligned, logits)
    assert example_ids(attached) == example_ids(clips)
    np.testing.assert_array_equal(attached_logits(attached), logits.logits)


def test_logits_of_shifted_crops_attach_in_any_order(clips):
    crops = shifted_crops(clips, hop_seconds=0.5)
    logits = made_up(crops)
    assert len(crops) == 9
    shuffled = [8, 0, 3, 5, 1, 2, 7, 4, 6]
    attached = attach_logits(crops.select(shuffled), logits)
    np.testing.assert_array_equal(attached_logits(attached), logits.logits[shuffled])
    assert attached[1]["example_id"] == example_ids(crops)[0]


def test_attaching_reads_no_audio_and_keeps_the_reading(clips):
    chosen = clips.select([4, 2])
    attached = attach_logits(chosen, made_up(clips), allow_extra=True)
    assert "waveform" not in attached.column_names
    assert attached.column_names == [*clips.column_names, "teacher_logits"]
    np.testing.assert_array_equal(attached[0]["waveform"], clips[4]["waveform"])
    assert attached.features["labels"] == clips.features["labels"]


def test_logits_from_folders_are_averaged(crops, straight, tmp_path):
    other = predict(crops, tmp_path, tiny_model(crops.features["labels"].names, seed=1))
    expected = average_logits([straight[1], other]).logits
    attached = attach_logits(crops, [straight[0], tmp_path])
    np.testing.assert_array_equal(attached_logits(attached), expected)
    np.testing.assert_array_equal(attached_logits(attach_logits(crops, straight[0])), straight[1].logits)


def test_clip_without_logits_raises(clips):
    logits = made_up(clips)
    few = LogitsSet(**rows(logits, slice(1, None)), scenes=logits.scenes, members=logits.members)
    with pytest.raises(
        ValueError, match=f"1 of 6 clips have no logits, among them {example_ids(clips)[0]}.*teacher 0 holds 5"
    ):
        attach_logits(clips, few)


def test_logits_of_clips_do_not_attach_to_shifted_crops(clips):
    with pytest.raises(ValueError, match=r"3 of 9 clips have no logits, among them .*\+500ms"):
        attach_logits(shifted_crops(clips, hop_seconds=0.5), made_up(clips))


def test_logits_of_other_clips_raise_unless_they_are_allowed(clips):
    logits, some = made_up(clips), clips.select(range(1, 6))
    with pytest.raises(
        ValueError, match=f"teacher 0 hold 1 clips that the dataset of 5 lacks, among them {example_ids(clips)[0]}"
    ):
        attach_logits(some, logits)
    np.testing.assert_array_equal(attached_logits(attach_logits(some, logits, allow_extra=True)), logits.logits[1:])


def test_logits_of_all_crops_attach_to_the_crops_of_some_clips(clips):
    logits = made_up(shifted_crops(clips, hop_seconds=0.5))
    crops = shifted_crops(clips.select([0, 1, 4]), hop_seconds=0.5)  # both slices of one recording, one of another
    attached = attach_logits(crops, logits, allow_extra=True)
    assert len(attached) == 4
    np.testing.assert_array_equal(attached_logits(attached), logits.ordered_as(example_ids(crops)).logits)


@pytest.mark.parametrize("scenes", [tuple("abcdefghij"), ("bus", "park", "tram")])
def test_logits_of_other_classes_raise_and_both_sides_are_named(clips, scenes):
    logits = made_up(clips, scenes=scenes, logits=np.zeros((6, len(scenes)), np.float32))
    with pytest.raises(
        ValueError, match=rf"have {len(scenes)} classes \({', '.join(scenes)}\), the dataset's are 10 \("
    ):
        attach_logits(clips, logits)


def test_logits_of_other_audio_raise_and_both_fingerprints_are_named(clips):
    logits = made_up(clips)
    content = changed_content(logits)
    with pytest.raises(ValueError, match=f"{content[2]} in the logits and {logits.content[2]} in the dataset"):
        attach_logits(clips, made_up(clips, content=content))


def test_logits_attach_once(clips):
    with pytest.raises(ValueError, match="has teacher_logits already"):
        attach_logits(attach_logits(clips, made_up(clips)), made_up(clips))


def constant_model(dtype=torch.float32) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm2d(3)).to(dtype)
    for number, parameter in enumerate(model.parameters(), start=1):
        torch.nn.init.constant_(parameter, 0.25 * number)
    model.config = SimpleNamespace(model_type="x")
    return model


def test_an_identity_stays_what_published_sets_say():
    assert model_identity(constant_model()) == {"type": "x", "weights": "1d2255099c4bb2990b309828fb1a26ec"}


def test_models_in_half_precision_have_identities_too():
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    identities = [model_identity(constant_model(kind))["weights"] for kind in kinds]
    assert len(set(identities)) == 3
    moved = constant_model(torch.bfloat16)
    moved[0].weight.data[2, 1] += 0.5
    assert model_identity(moved)["weights"] != identities[1]
    assert model_identity(constant_model(torch.bfloat16))["weights"] == identities[1]
