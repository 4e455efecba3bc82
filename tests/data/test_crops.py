"""Shifted crops are new rows over the same audio, with names that do not depend on the machine."""

import numpy as np
import pytest
from datasets import Dataset
from small_corpus import CLIPS, META, SLICES, meta_row, noise, write_table

from hf_ascdistill.data.crops import aligned_only, shifted_crops
from hf_ascdistill.data.index import is_repeated, rows_of
from hf_ascdistill.data.store import clip_contents, data_fingerprint, load_prepared, prepare_recordings
from hf_ascdistill.data.tau22 import load_tau22


def column(dataset, name: str) -> list:
    return dataset.with_format(None)[name][:]


def clips_of(folder, names):
    """Index of files that are not there: cutting crops must not look for them."""
    write_table(folder / "meta.csv", META, map(meta_row, names))
    return load_tau22(folder, splits=("all",))["all"]


def segment(*slices: int) -> list[str]:
    return [f"bus-lyon-1-10-{number}-a" for number in slices]


@pytest.fixture
def prepared(store):
    return load_prepared(store)["train"]


@pytest.fixture(scope="module")
def long_recordings(tmp_path_factory):
    """Recordings of 2.5, 1 and 1.75 s, each of its own."""
    rows = {
        "audio": [noise(name, count) for name, count in (("x", 80_000), ("y", 32_000), ("z", 56_000))],
        "label": ["bus", "bus", "park"],
        "name": ["x", "y", "z"],
    }
    options = {"device_column": None, "id_column": "name", "sampling_rate": 32_000, "num_proc": 1}
    return prepare_recordings(Dataset.from_dict(rows), tmp_path_factory.mktemp("long"), **options)["train"]


# Which crops there are


def test_ten_slices_give_nineteen_crops(tmp_path):
    crops = shifted_crops(clips_of(tmp_path, segment(*range(10))))
    names = [name + offset for name in segment(*range(10)) for offset in ("", "+500ms")][:19]
    assert column(crops, "example_id") == names
    assert column(crops, "start") == list(range(0, 288_001, 16_000))
    assert set(column(crops, "length")) == {32_000}
    assert set(column(crops, "recording")) == {"bus-lyon-1-10-a"}


def test_full_corpus_gives_nineteen_crops_a_recording(shared):
    clips = load_tau22(shared / "data/tau22-meta", splits=("all",))["all"]
    crops = shifted_crops(clips)
    assert len(crops) == 23_035 * 19
    names, aligned = (rows_of(rows)["example_id"].combine_chunks() for rows in (crops, aligned_only(crops)))
    assert not is_repeated(names).any()
    assert aligned.equals(rows_of(clips)["example_id"].combine_chunks())


def test_a_missing_slice_is_never_bridged(tmp_path):
    crops = shifted_crops(clips_of(tmp_path, segment(0, 1, 3, 4, 6)))
    inside = {name: name.endswith("ms") for name in column(crops, "example_id")}
    assert inside == {
        "bus-lyon-1-10-0-a": False,
        "bus-lyon-1-10-0-a+500ms": True,
        "bus-lyon-1-10-1-a": False,
        "bus-lyon-1-10-3-a": False,
        "bus-lyon-1-10-3-a+500ms": True,
        "bus-lyon-1-10-4-a": False,
        "bus-lyon-1-10-6-a": False,
    }


def test_slices_of_other_devices_are_other_recordings(tmp_path):
    crops = shifted_crops(clips_of(tmp_path, ["bus-lyon-1-10-0-a", "bus-lyon-1-10-1-b"]))
    assert column(crops, "example_id") == ["bus-lyon-1-10-0-a", "bus-lyon-1-10-1-b"]


def test_order_of_the_clips_changes_the_order_of_the_crops_alone(tmp_path):
    clips = clips_of(tmp_path, [*segment(0, 1, 2, 3), "park-oslo-2-11-0-b"])
    crops, shuffled = shifted_crops(clips), shifted_crops(clips.select([3, 1, 4, 0, 2]))
    rows, others = ({row["example_id"]: row for row in data.with_format(None)} for data in (crops, shuffled))
    assert rows == others and len(rows) == 8


@pytest.mark.parametrize("hop", [0.25, 0.3, 0.7, 1.0])
def test_crops_of_some_clips_are_among_those_of_all(tmp_path, hop):
    clips = clips_of(tmp_path, segment(0, 1, 2, 3, 4))
    everything = {row["example_id"]: row for row in shifted_crops(clips, hop_seconds=hop).with_format(None)}
    some = shifted_crops(clips.select([1, 2, 4]), hop_seconds=hop)
    assert all(everything[row["example_id"]] == row for row in some.with_format(None))
    assert column(aligned_only(some), "example_id") == segment(1, 2, 4)


def test_longer_crops_do_not_take_the_clips_names(tmp_path):
    crops = shifted_crops(clips_of(tmp_path, segment(0, 1, 2)), hop_seconds=1, length_seconds=2)
    assert column(crops, "example_id") == ["bus-lyon-1-10-0-a+0ms", "bus-lyon-1-10-1-a+0ms"]
    assert len(aligned_only(crops)) == 2


def test_recordings_of_any_length_are_cut_while_crops_fit(long_recordings):
    crops = shifted_crops(long_recordings)
    assert column(crops, "example_id") == ["x+0ms", "x+500ms", "x+1000ms", "x+1500ms", "y", "z+0ms", "z+500ms"]
    assert column(aligned_only(crops), "example_id") == ["x+0ms", "y", "z+0ms"]
    np.testing.assert_allclose(crops[3]["waveform"], noise("x", 80_000)[48_000:], atol=1e-5)


# What they read


def test_a_crop_holds_the_samples_between_its_clips(prepared):
    clips, crops = prepared, shifted_crops(prepared)
    rows = {row["example_id"]: row["waveform"] for row in crops}
    joined = np.concatenate(clips[:3]["waveform"])
    np.testing.assert_array_equal(rows[f"{SLICES[1]}+500ms"], joined[48_000:80_000])
    np.testing.assert_array_equal(rows[SLICES[2]], clips[2]["waveform"])


def test_a_row_has_the_columns_of_a_clip(prepared):
    assert shifted_crops(prepared)[1].keys() == prepared[1].keys()


def test_an_aligned_crop_of_wav_files_is_read_from_its_file(corpus):
    clips = load_tau22(corpus)["train"]
    np.testing.assert_array_equal(shifted_crops(clips)[2]["waveform"], clips[1]["waveform"])


def test_a_crop_across_wav_files_asks_for_prepare(corpus):
    crops = shifted_crops(load_tau22(corpus)["train"])
    with pytest.raises(ValueError, match=rf"{SLICES[0]}\+500ms.*run prepare first"):
        crops[1]
    with pytest.raises(ValueError, match=rf"{SLICES[0]}\+500ms.*run prepare first"):
        data_fingerprint(crops)


def test_contents_of_crops_follow_the_clips_that_they_touch(corpus, prepared):
    names = column(shifted_crops(prepared), "example_id")
    contents = dict(zip(names, clip_contents(shifted_crops(prepared)), strict=True))
    clips = dict(zip(CLIPS, clip_contents(load_tau22(corpus)["train"]), strict=False))
    assert {name: contents[name] for name in clips} == clips
    assert len(set(contents.values())) == len(contents)
    pair = dict(zip(names, clip_contents(shifted_crops(prepared.select([0, 1]))), strict=False))
    assert pair == {name: contents[name] for name in names[:3]}


def test_aligned_crops_have_the_fingerprint_of_the_clips(corpus, prepared):
    crops = aligned_only(shifted_crops(prepared))
    assert data_fingerprint(crops) == data_fingerprint(load_tau22(corpus)["train"])


# What cannot be cut


def test_recording_shorter_than_a_crop_raises_and_is_named(long_recordings):
    with pytest.raises(ValueError, match=r"2 recording\(s\).*2 s.*y \(1 s\)"):
        shifted_crops(long_recordings, length_seconds=2)


@pytest.mark.parametrize("options", [{"hop_seconds": 0.0001}, {"hop_seconds": 0}, {"length_seconds": -1}])
def test_times_that_are_no_whole_milliseconds_raise(tmp_path, options):
    with pytest.raises(ValueError, match="whole number of milliseconds"):
        shifted_crops(clips_of(tmp_path, segment(0, 1)), **options)


def test_crops_of_crops_raise(tmp_path):
    crops = shifted_crops(clips_of(tmp_path, segment(0, 1)))
    with pytest.raises(ValueError, match="overlap.*not crops"):
        shifted_crops(crops)


def test_clips_with_teacher_logits_raise(tmp_path):
    clips = clips_of(tmp_path, segment(0, 1)).add_column("teacher_logits", [[0.0, 1.0]] * 2)
    with pytest.raises(ValueError, match="attach logits to the crops"):
        shifted_crops(clips)


def test_a_dataset_without_recordings_raises():
    with pytest.raises(ValueError, match="lacks the column.*recording.*prepare_recordings"):
        shifted_crops(Dataset.from_dict({"example_id": ["x"], "labels": [0]}))


def test_no_clips_raise(prepared):
    with pytest.raises(ValueError, match="no clips"):
        shifted_crops(prepared.select([]))
