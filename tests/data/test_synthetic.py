"""The synthetic corpus: layout, splits, determinism, devices, and what it refuses to overwrite."""

import csv
import json
from collections import Counter, defaultdict
from dataclasses import asdict
from hashlib import sha256

import numpy as np
import pytest
import soundfile

from hf_ascdistill.data.synthetic import SyntheticSettings, write_synthetic_corpus
from hf_ascdistill.data.synthetic_devices import DEVICES, fast_fft_size, record
from hf_ascdistill.data.synthetic_scenes import SCENES, render, vary
from hf_ascdistill.data.tau22 import load_tau22

TINY = SyntheticSettings.from_preset("tiny")
UNSEEN = {"s4", "s5", "s6"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_synthetic_corpus(path, settings=TINY)
    return path


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def split_rows(corpus, split):
    meta = {row["filename"]: row for row in table(corpus / "meta.csv")}
    return [meta[row["filename"]] for row in table(corpus / "evaluation_setup" / f"fold1_{split}.csv")]


def contents(corpus):
    return {
        str(path.relative_to(corpus)): sha256(path.read_bytes()).hexdigest()
        for path in corpus.rglob("*")
        if path.is_file()
    }


def test_every_listed_file_is_one_second_of_24_bit_mono(corpus):
    rows = table(corpus / "meta.csv")
    assert {f"audio/{path.name}" for path in (corpus / "audio").iterdir()} == {row["filename"] for row in rows}
    for row in rows:
        info = soundfile.info(corpus / row["filename"])
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (44_100, 1, 44_100, "PCM_24")


def test_names_and_tables_follow_tau22(corpus):
    for row in table(corpus / "meta.csv"):
        scene, city, location, segment, number, device = row["filename"][len("audio/") : -len(".wav")].split("-")
        assert (scene, f"{city}-{location}", device) == (row["scene_label"], row["identifier"], row["source_label"])
        assert segment.isdigit() and number.isdigit()
    evaluate, test = (table(corpus / "evaluation_setup" / f"fold1_{split}.csv") for split in ("evaluate", "test"))
    assert list(evaluate[0]) == ["filename", "scene_label"] and list(test[0]) == ["filename"]
    assert [row["filename"] for row in test] == [row["filename"] for row in evaluate]


def test_it_opens_as_a_tau22_corpus(corpus):
    splits = load_tau22(corpus)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 60, "evaluate": 30}
    assert splits["train"].features["labels"].names == list(SCENES) == sorted(SCENES)
    assert splits["train"][0]["waveform"].shape == (32_000,)


def test_no_location_is_on_both_sides(corpus):
    train, evaluate = ({row["identifier"] for row in split_rows(corpus, split)} for split in ("train", "evaluate"))
    assert train and evaluate and not train & evaluate


def test_every_scene_and_several_cities_are_on_both_sides(corpus):
    for split in ("train", "evaluate"):
        rows = split_rows(corpus, split)
        assert {row["scene_label"] for row in rows} == set(SCENES)
        assert len({row["identifier"].split("-")[0] for row in rows}) > 2


def test_unseen_devices_are_in_evaluation_only_and_device_a_dominates_training(corpus):
    train, evaluate = (
        Counter(row["source_label"] for row in split_rows(corpus, split)) for split in ("train", "evaluate")
    )
    assert set(train) == set(DEVICES) - UNSEEN
    assert set(evaluate) == set(DEVICES)
    assert train == {"a": 40, "b": 4, "c": 4, "s1": 4, "s2": 4, "s3": 4}


def test_demo_has_the_device_shares_of_tau22():
    settings = SyntheticSettings.from_preset("demo")
    segments = settings.train_segments_per_scene * len(SCENES)
    others = round(settings.other_device_share * segments)
    assert segments * settings.train_slices == 720
    assert (segments + 5 * others) * settings.train_slices == 990
    assert others / segments == pytest.approx(7_490 / 102_150, abs=0.005)


def test_slices_of_a_segment_are_one_recording(corpus):
    segments = defaultdict(dict)
    for row in split_rows(corpus, "train"):
        stem, number, device = row["filename"][: -len(".wav")].rsplit("-", 2)
        segments[stem, device][int(number)] = soundfile.read(corpus / row["filename"])[0]
    assert all(sorted(slices) == [0, 1] for slices in segments.values())
    # within a recording a border is no step: it is like any other pair of neighbouring samples
    steps = [abs(slices[1][0] - slices[0][-1]) / np.abs(np.diff(slices[0])).mean() for slices in segments.values()]
    assert np.median(steps) < 2


def test_devices_record_the_same_sound_with_their_own_colour(corpus):
    recordings = defaultdict(dict)
    for row in split_rows(corpus, "evaluate"):
        stem, device = row["filename"][: -len(".wav")].rsplit("-", 1)
        recordings[stem][device] = soundfile.read(corpus / row["filename"])[0]
    for devices in recordings.values():
        assert len(devices) == 3 and len(UNSEEN & set(devices)) == 1
        levels = [np.log(np.abs(np.fft.rfft(wave)) + 1e-6) for wave in devices.values()]
        for other in levels[1:]:
            assert np.abs(levels[0] - other).mean() > 0.3
            # bins of 1 Hz: the fine structure is that of one sound where all devices hear it, whatever their colour
            assert np.corrcoef(np.diff(levels[0][500:2_000]), np.diff(other[500:2_000]))[0, 1] > 0.5


def test_same_seed_gives_the_same_bytes_in_any_number_of_processes(corpus, tmp_path):
    write_synthetic_corpus(tmp_path / "two", settings=TINY, num_proc=2)
    assert contents(tmp_path / "two") == contents(corpus)


def test_another_seed_gives_other_sounds(corpus, tmp_path):
    small = SyntheticSettings.from_preset("tiny", train_segments_per_scene=1, train_slices=1)
    write_synthetic_corpus(tmp_path / "0", settings=small)
    write_synthetic_corpus(tmp_path / "1", settings=small, seed=1)
    first, second = contents(tmp_path / "0"), contents(tmp_path / "1")
    shared_names = {name for name in first.keys() & second.keys() if name.startswith("audio/")}
    assert shared_names and all(first[name] != second[name] for name in shared_names)


def test_clips_are_neither_silent_nor_clipped(corpus):
    for path in (corpus / "audio").iterdir():
        wave, _ = soundfile.read(path)
        assert np.sqrt(np.mean(wave**2)) > 1e-3
        assert np.mean(np.abs(wave) > 0.999) < 0.001


def test_complete_corpus_is_left_alone(corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    write_synthetic_corpus(corpus, settings=TINY)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"settings": SyntheticSettings.from_preset("tiny", bleed_share=0.0)}])
def test_corpus_of_another_recipe_raises(corpus, change):
    with pytest.raises(ValueError, match="holds a synthetic corpus made from"):
        write_synthetic_corpus(corpus, **{"settings": TINY, **change})


def test_folder_of_something_else_raises_and_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files that are no synthetic corpus"):
        write_synthetic_corpus(tmp_path, settings=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_path_of_a_file_raises(tmp_path):
    (tmp_path / "corpus").write_text("a file")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        write_synthetic_corpus(tmp_path / "corpus", settings=TINY)


def test_interrupted_corpus_is_made_anew(corpus, tmp_path):
    leftover = tmp_path / ".corpus.partial" / "audio"
    leftover.mkdir(parents=True)
    (leftover / "half-written.wav").write_bytes(b"RIFF")
    (tmp_path / "corpus").mkdir()  # an empty folder is no obstacle
    write_synthetic_corpus(tmp_path / "corpus", settings=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert contents(tmp_path / "corpus") == contents(corpus)


def test_marker_says_what_the_corpus_was_made_from(corpus):
    marker = json.loads((corpus / "synthetic.json").read_text())
    assert marker["seed"] == 0 and marker["settings"] == asdict(TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_slices": 0}, r"\['train_slices'\] must be at least 1"),
        ({"bleed_share": 1.5}, "bleed_share is 1.5"),
        ({"device_strength": -1.0}, r"\['device_strength'\] must not be negative"),
    ],
)
def test_impossible_settings_raise(change, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSettings(**change)


def test_unknown_preset_raises():
    with pytest.raises(ValueError, match="there is no preset 'huge'"):
        SyntheticSettings.from_preset("huge")


def test_without_spread_a_place_is_the_scene_itself():
    sound = SCENES["harbour"]
    assert vary(sound, np.random.default_rng(0), 0.0) == sound
    assert vary(sound, np.random.default_rng(0), 1.0) != sound


@pytest.mark.parametrize("scene", SCENES)
def test_scene_renders_finite_sound_of_the_asked_length(scene):
    wave = render(SCENES[scene], np.random.default_rng(0), 2)
    assert wave.shape == (88_200,) and np.isfinite(wave).all()


def test_flat_device_returns_the_sound_but_for_its_noise():
    sound = np.random.default_rng(0).normal(0, 0.05, 44_100)
    recorded = record(sound, "a", np.random.default_rng(1), strength=0.0, rate=44_100)
    np.testing.assert_allclose(recorded, sound, atol=3e-4)  # 5 standard deviations of noise at -90 dB, and rounding


def test_fft_size_is_smooth_even_and_close():
    for length in (1, 44_100, 133_323, 89_123):
        size, rest = fast_fft_size(length), fast_fft_size(length)
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert size % 2 == 0 and rest == 1 and length <= size < 1.1 * length + 4
