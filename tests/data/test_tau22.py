"""Corpora in TAU22's layout become index datasets; rows that cannot be right are refused with file and line."""

from collections import Counter
from pathlib import Path

import pytest
from small_corpus import CLIPS, META, SLICES, meta_row, write_corpus, write_lists, write_table

from hf_ascdistill.data.crops import shifted_crops
from hf_ascdistill.data.tau22 import DEVICE_GROUPS, DEVICES, SCENES, device_groups, load_tau22, select_listed


def column(dataset, name: str) -> list:
    return dataset.with_format(None)[name][:]


def rows(dataset) -> dict[str, dict]:
    """Rows of the index by their names; no audio."""
    return {row["example_id"]: row for row in dataset.with_format(None)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Tables alone: nothing in this file may look for audio."""
    write_table(tmp_path / "meta.csv", META, map(meta_row, CLIPS))
    write_lists(tmp_path, CLIPS[:5], CLIPS[5:])
    return tmp_path


@pytest.fixture(scope="module")
def full(shared):
    return load_tau22(shared / "data/tau22-meta", splits=("train", "evaluate", "all"))


# What a row says


def test_a_slice_knows_its_place_in_the_recording(shared):
    row = rows(load_tau22(shared / "data/tau22-sample")["evaluate"])["airport-barcelona-203-6125-2-a"]
    path = row.pop("path")
    assert row == {
        "example_id": "airport-barcelona-203-6125-2-a",
        "recording": "airport-barcelona-203-6125-a",
        "start": 64_000,
        "length": 32_000,
        "labels": 0,
        "device_ids": 0,
        "city": "barcelona",
    }
    assert Path(path) == (shared / "data/tau22-sample/audio/airport-barcelona-203-6125-2-a.wav").absolute()


def test_full_corpus_has_the_published_sizes(full):
    assert {split: len(clips) for split, clips in full.items()} == {
        "train": 139_620,
        "evaluate": 29_680,
        "all": 230_350,
    }
    names = full["train"].features["device_ids"].names
    devices = {split: Counter(names[device] for device in column(full[split], "device_ids")) for split in full}
    assert devices["train"] == {"a": 102_150, "b": 7_490, "c": 7_480, "s1": 7_500, "s2": 7_500, "s3": 7_500}
    assert devices["evaluate"] == dict.fromkeys(names, 3_300) | {"b": 3_290, "c": 3_290}


def test_full_corpus_joins_ten_slices_a_recording(full):
    assert set(Counter(column(full["all"], "recording")).values()) == {10}
    assert set(column(full["all"], "start")) == {32_000 * number for number in range(10)}


def test_labels_of_tau22_are_in_its_order(full):
    assert tuple(full["train"].features["labels"].names) == SCENES
    assert tuple(full["train"].features["device_ids"].names) == DEVICES
    assert sum(DEVICE_GROUPS.values(), ()) == DEVICES


def test_rows_keep_the_order_of_the_split_list(corpus):
    write_lists(corpus, CLIPS[4::-1], CLIPS[5:])
    assert column(load_tau22(corpus)["train"], "example_id") == list(CLIPS[4::-1])


def test_all_is_every_row_of_meta_and_needs_no_list(corpus):
    for path in (corpus / "evaluation_setup").iterdir():
        path.unlink()
    assert column(load_tau22(corpus, splits=("all",))["all"], "example_id") == list(CLIPS)


def test_dcase24_split_replaces_the_train_list(shared, full):
    path = shared / "data/tau22-meta/dcase24_splits/split5.csv"
    clips = load_tau22(shared / "data/tau22-meta", train_list=path)
    assert len(clips["train"]) == len(path.read_text().splitlines()) - 1
    assert set(column(clips["train"], "example_id")) < set(column(full["train"], "example_id"))
    assert len(clips["evaluate"]) == 29_680


# Corpora of other people


def test_other_scenes_cities_and_devices_come_from_meta(tmp_path):
    names = ["dog_bark-fold1-12A-17-3-zoom", "rain-new-york-7-18-0-s2", "rain-cellar-19-1-a"]
    write_table(tmp_path / "meta.csv", META, map(meta_row, names))
    clips = load_tau22(tmp_path, splits=("all",))["all"]
    assert clips.features["labels"].names == ["dog_bark", "rain"]
    assert clips.features["device_ids"].names == ["a", "s2", "zoom"]
    assert column(clips, "city") == ["fold1", "new-york", "cellar"]
    assert column(clips, "recording") == ["dog_bark-fold1-12A-17-zoom", "rain-new-york-7-18-s2", "rain-cellar-19-a"]
    assert column(clips, "start") == [96_000, 0, 32_000]


@pytest.mark.parametrize("name", ["kitchen_01", "bus-lyon-9-10-0-a", "bus-lyon-1-10-x-a", "bus-lyon-1-10-01-a"])
def test_a_file_of_another_name_is_a_recording_of_its_own(tmp_path, name):
    write_table(tmp_path / "meta.csv", META, [f"audio/{name}.wav\tbus\tlyon-1\ta"])
    clips = load_tau22(tmp_path, splits=("all",))["all"]
    assert (column(clips, "recording"), column(clips, "start")) == ([name], [0])


def test_given_scenes_and_devices_set_the_order(corpus):
    clips = load_tau22(corpus, scenes=["park", "tram", "bus"], devices=["s4", "s1", "a"])["train"]
    assert clips.features["labels"].names == ["park", "tram", "bus"]
    assert column(clips, "labels") == [2, 2, 2, 2, 0]
    assert column(clips, "device_ids") == [2, 2, 2, 1, 2]


@pytest.mark.parametrize(
    ("train", "devices", "groups"),
    [
        ("a", "a s1 s5 s6", {"real": ("a",), "seen": ("s1",), "unseen": ("s5", "s6")}),
        ("a zoom", "a zoom phone", {"real": (), "seen": ("a", "zoom"), "unseen": ("phone",)}),
    ],
)
def test_devices_are_grouped_as_in_tau22_or_by_training(train, devices, groups):
    assert device_groups(train.split(), devices.split()) == groups


# Rows that cannot be right

BAD_META = {  # rows of meta.csv in place of the first -> what the error says
    "scene outside": (["audio/x.wav\ttrain\tlyon-1\ta"], {"scenes": ["bus", "park"]}, "line 2: .*train.*bus, park"),
    "device outside": (["audio/x.wav\tbus\tlyon-1\tz"], {"devices": ["a", "s1", "s4"]}, "line 2: .*z of .*a, s1, s4"),
    "device in the name": (["audio/bus-lyon-1-10-0-a.wav\tbus\tlyon-1\tb"], {}, "line 2: .*-a.wav.*source_label b"),
    "absolute path": (["/audio/x.wav\tbus\tlyon-1\ta"], {}, "line 2: /audio/x.wav leads out"),
    "drive": ([r"C:\x.wav" + "\tbus\tlyon-1\ta"], {}, "line 2: .*leads out"),
    "parent folder": (["audio/../../x.wav\tbus\tlyon-1\ta"], {}, "line 2: .*leads out"),
    "duplicate": ([meta_row(CLIPS[0])] * 2, {}, f"line 3: .*{CLIPS[0]}"),
    "same name in two folders": (["a/x.wav\tbus\tlyon-1\ta", "b/x.wav\tbus\tlyon-1\ta"], {}, "line 3: b/x.wav"),
    "name of a crop": (["audio/x+500ms.wav\tbus\tlyon-1\ta"], {}, "line 2: .*shifted crop"),
    "no scene": (["audio/x.wav\t\tlyon-1\ta"], {}, "line 2: its scene_label is empty"),
    "fields missing": (["audio/x.wav\tbus"], {}, "not a tab-separated table"),
}


@pytest.mark.parametrize(("bad", "options", "message"), BAD_META.values(), ids=BAD_META)
def test_bad_row_of_meta_raises(corpus, bad, options, message):
    write_table(corpus / "meta.csv", META, [*bad, *map(meta_row, CLIPS[1:])])
    with pytest.raises(ValueError, match=rf"meta\.csv.*{message}"):
        load_tau22(corpus, splits=("all",), **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (META + "\n", "no rows"),
        (META.replace("\t", ",") + "\na,b,c,d\n", "lacks"),
        ("a\tb\nc\td\n", "lacks"),
    ],
    ids=["empty", "header alone", "commas", "other columns"],
)
def test_meta_that_is_no_table_raises(corpus, text, message):
    (corpus / "meta.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"meta\.csv.*{message}"):
        load_tau22(corpus)


@pytest.mark.parametrize("name", ["meta.csv", "evaluation_setup/fold1_train.csv"])
def test_missing_table_raises(corpus, name):
    (corpus / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_tau22(corpus)


BAD_LISTS = {
    "not in meta": ("audio/bus-lyon-1-10-7-a.wav\tbus", "line 3: .*10-7-a.wav is not in .*meta.csv"),
    "another label": ("audio/bus-lyon-1-10-1-a.wav\tpark", "line 3: .*park, but not in .*meta.csv"),
    "parent folder": ("../bus-lyon-1-10-1-a.wav\tbus", "line 3: .*leads out"),
    "duplicate": ("audio/bus-lyon-1-10-0-a.wav\tbus", "line 3: .*10-0-a.wav"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_bad_row_of_a_list_raises(corpus, bad, message):
    path = write_table(corpus / "some.csv", "filename\tscene_label", [f"audio/{CLIPS[0]}.wav\tbus", bad])
    with pytest.raises(ValueError, match=rf"some\.csv, {message}"):
        load_tau22(corpus, train_list=path)


def test_clip_in_train_and_evaluate_raises(corpus):
    write_lists(corpus, CLIPS, CLIPS[5:])
    with pytest.raises(ValueError, match=rf"{CLIPS[5]}.*both in train and in evaluate"):
        load_tau22(corpus)


@pytest.mark.parametrize(
    "options",
    [{"splits": ("test",)}, {"splits": "train"}, {"splits": ()}, {"splits": ("all",), "train_list": "x.csv"}],
)
def test_splits_that_make_no_sense_raise(corpus, options):
    with pytest.raises(ValueError, match="splits="):
        load_tau22(corpus, **options)


# Split files over clips and crops


def test_select_listed_keeps_the_listed_clips(corpus):
    path = write_table(corpus / "some.csv", "filename", [f"audio/{CLIPS[3]}.wav", f"audio/{CLIPS[0]}.wav"])
    assert column(select_listed(load_tau22(corpus)["train"], path), "example_id") == [CLIPS[0], CLIPS[3]]


def test_select_listed_keeps_crops_within_listed_clips(corpus):
    crops = shifted_crops(load_tau22(corpus)["train"])
    path = write_table(corpus / "some.csv", "filename", [f"audio/{name}.wav" for name in SLICES[:2]])
    assert column(select_listed(crops, path), "example_id") == [SLICES[0], f"{SLICES[0]}+500ms", SLICES[1]]


def test_select_listed_takes_whole_recordings_of_other_names(tmp_path):
    write_table(tmp_path / "meta.csv", META, [f"audio/{name}.wav\tbus\tlyon-1\ta" for name in ("one", "two")])
    clips = load_tau22(tmp_path, splits=("all",))["all"]
    path = write_table(tmp_path / "some.csv", "filename", ["audio/two.wav"])
    assert column(select_listed(clips, path), "example_id") == ["two"]


def test_select_listed_agrees_with_the_train_list(shared, full):
    path = shared / "data/tau22-meta/dcase24_splits/split10.csv"
    listed = load_tau22(shared / "data/tau22-meta", train_list=path, splits=("train",))["train"]
    selected = select_listed(full["all"], path)
    assert set(column(selected, "example_id")) == set(column(listed, "example_id"))
    crops = select_listed(shifted_crops(full["train"]), path)
    assert column(crops, "example_id") == column(shifted_crops(select_listed(full["train"], path)), "example_id")


def test_select_listed_refuses_a_clip_that_is_not_there(corpus):
    path = write_table(corpus / "some.csv", "filename", [f"audio/{CLIPS[0]}.wav", f"audio/{CLIPS[5]}.wav"])
    with pytest.raises(ValueError, match=rf"some\.csv, line 3: .*{CLIPS[5]}.*not in the dataset"):
        select_listed(load_tau22(corpus)["train"], path)


def test_rows_are_read_from_their_wav_files(tmp_path):
    clips = load_tau22(write_corpus(tmp_path))["evaluate"]
    row = clips[0]
    assert set(row) == {"example_id", "waveform", "labels", "device_ids", "city"}
    assert (row["example_id"], row["waveform"].shape, row["waveform"].dtype) == (CLIPS[5], (32_000,), "float32")
