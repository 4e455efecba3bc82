"""A store reads as the files do, and says what audio it holds."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soxr
from datasets import Dataset
from small_corpus import CLIPS, META, RATE, meta_row, noise, write_lists, write_table, write_wav
from torch.utils.data import DataLoader

from hf_ascdistill.data.index import read_like
from hf_ascdistill.data.store import clip_contents, data_fingerprint, load_prepared, prepare
from hf_ascdistill.data.tau22 import load_tau22

# What a store reads


def test_isolated_clips_differ_by_half_a_16_bit_step_of_their_peak(corpus, store):
    wavs, prepared = load_tau22(corpus)["train"][3:], load_prepared(store)["train"][3:]
    for expected, waveform in zip(wavs["waveform"], prepared["waveform"], strict=True):
        assert waveform.dtype == np.float32
        assert 0 < np.abs(waveform - expected).max() <= 0.51 * np.abs(expected).max() / 32767


def test_real_clips_differ_by_half_a_16_bit_step_of_their_peak(golden, shared, tmp_path):
    clips = golden("clips8")
    wanted = [Path(str(name)).stem for name in clips["filename"]]
    corpus = load_tau22(shared / "data/tau22-sample", splits=("all",))["all"]
    rows = [corpus.with_format(None)["example_id"][:].index(name) for name in wanted]
    prepared = prepare(corpus.select(rows), tmp_path / "store", num_proc=1)["all"]
    for waveform, expected in zip(prepared[:]["waveform"], clips["wav"], strict=True):
        assert np.abs(waveform - expected).max() <= 0.51 * np.abs(expected).max() / 32767


def test_few_shards_are_open_at_a_time(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_ascdistill.data.shards.RUNS_PER_SHARD", 1)
    prepared = prepare(load_tau22(corpus), tmp_path / "store", num_proc=1)["train"]
    store = prepared.format["format_kwargs"]["transform"].store
    expected = prepared[:]["waveform"]
    assert len(store.readers) > 2
    store.readers.clear()
    monkeypatch.setattr("hf_ascdistill.data.store_reader.MOST_OPEN_FILES", 2)
    for row in (*range(len(prepared)), 0, 1):
        np.testing.assert_array_equal(prepared[row]["waveform"], expected[row])
        assert len(store.readers) <= 2


def test_consecutive_slices_have_no_seams(store):
    joined = np.concatenate([noise(name) for name in CLIPS[:3]])
    expected = soxr.resample(joined, RATE, 32_000, quality="HQ")
    waveform = np.concatenate(load_prepared(store)["train"][:3]["waveform"])
    assert np.abs(waveform - expected).max() <= 0.51 * np.abs(expected).max() / 32767


def test_rows_say_the_same_from_files_and_from_the_store(corpus, store):
    for split, clips in load_tau22(corpus).items():
        wavs, prepared = clips[:], load_prepared(store)[split][:]
        assert set(wavs) == set(prepared) == {"example_id", "waveform", "labels", "device_ids", "city"}
        assert all(wavs[name] == prepared[name] for name in set(wavs) - {"waveform"})
        for name in ("labels", "device_ids"):
            assert load_prepared(store)[split].features[name] == clips.features[name]


def test_peaks_above_one_are_kept(own_corpus, tmp_path):
    square = np.sign(np.sin(np.arange(RATE) / 3)).astype(np.float32)
    write_wav(own_corpus / f"audio/{CLIPS[3]}.wav", square)
    waveform = prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=1)["train"][3]["waveform"]
    expected = soxr.resample(square, RATE, 32_000, quality="HQ")
    assert np.abs(expected).max() > 1.05
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=0.51 * np.abs(expected).max() / 32767)


def test_allowed_silence_is_silent(own_corpus, tmp_path):
    write_wav(own_corpus / f"audio/{CLIPS[3]}.wav", np.zeros(RATE))
    clips = prepare(load_tau22(own_corpus), tmp_path / "store", num_proc=1, allow_silent=True)
    np.testing.assert_array_equal(clips["train"][3]["waveform"], np.zeros(32_000))


def test_manifest_says_what_the_store_holds(store):
    manifest = json.loads((store / "store.json").read_text())
    assert manifest["splits"] == {"train": 5, "evaluate": 1}
    assert (manifest["scenes"], manifest["devices"]) == (["bus", "park"], ["a", "s1", "s4"])
    assert manifest["groups"] == {"real": ["a"], "seen": ["s1"], "unseen": ["s4"]}
    assert manifest["settings"]["sampling_rate"] == 32_000


def test_a_clip_may_be_in_several_splits(corpus, tmp_path):
    clips = load_tau22(corpus, splits=("train", "all"))
    prepared = prepare(clips, tmp_path / "store", num_proc=1)
    assert [len(prepared["train"]), len(prepared["all"])] == [5, 6]
    np.testing.assert_array_equal(prepared["train"][4]["waveform"], prepared["all"][4]["waveform"])
    assert len(list((tmp_path / "store").glob("shard-*"))) == 1


def test_columns_of_the_user_come_along(corpus, tmp_path):
    clips = load_tau22(corpus)["evaluate"].add_column("weather", ["rain"])
    assert prepare(clips, tmp_path / "store", num_proc=1)["evaluate"][0]["weather"] == "rain"


# As a dataset


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: clips.select([4, 0]),
        lambda clips: clips.shuffle(seed=0),
        lambda clips: clips.sort("city"),
        lambda clips: clips.filter(lambda city: city == "lyon", input_columns=["city"]),
        lambda clips: clips.train_test_split(2, seed=0)["train"],
        lambda clips: clips.select([3, 1]).add_column("teacher_logits", [[0.0, 1.0]] * 2),
        lambda clips: pickle.loads(pickle.dumps(clips)),
        copy.deepcopy,
    ],
    ids=["select", "shuffle", "sort", "filter", "train_test_split", "add_column", "pickle", "deepcopy"],
)
def test_rows_are_still_read_after_a_change(store, change):
    clips = load_prepared(store)["train"]
    expected = dict(zip(CLIPS, clips[:]["waveform"], strict=False))
    rows = list(change(clips))
    assert rows
    for row in rows:
        np.testing.assert_array_equal(row["waveform"], expected[row["example_id"]])


def test_changes_of_columns_and_rows_read_no_audio(store, tmp_path):
    clips = load_prepared(shutil.copytree(store, tmp_path / "store"))["train"]
    for path in (tmp_path / "store").glob("shard-*"):
        path.unlink()
    clips = clips.filter(lambda cities: [city == "lyon" for city in cities], input_columns="city", batched=True)
    clips = clips.shuffle(seed=0)
    clips = read_like(clips.with_format(None).add_column("teacher_logits", [[0.0]] * 4), clips)
    assert sorted(clips.with_format(None)["example_id"][:]) == sorted([*CLIPS[:3], CLIPS[4]])
    with pytest.raises(FileNotFoundError):
        clips[0]


def test_a_dataset_writes_nothing_into_the_store(store):
    before = sorted(store.iterdir())
    load_prepared(store)["train"].shuffle(seed=1).filter(lambda city: city == "lyon", input_columns="city").sort(
        "start"
    )
    assert sorted(store.iterdir()) == before


def test_workers_of_a_loader_read_the_store(store):
    clips = load_prepared(store)["train"]
    loader = DataLoader(clips, batch_size=2, num_workers=2, collate_fn=list)
    rows = [row for batch in loader for row in batch]
    assert [row["example_id"] for row in rows] == list(CLIPS[:5])
    for row, waveform in zip(rows, clips[:]["waveform"], strict=True):
        np.testing.assert_array_equal(row["waveform"], waveform)


# What audio a dataset holds


def test_fingerprint_is_that_of_the_files_in_any_order(corpus, store):
    wavs, prepared = load_tau22(corpus)["train"], load_prepared(store)["train"]
    fingerprint = data_fingerprint(wavs)
    assert data_fingerprint(prepared) == data_fingerprint(prepared.shuffle(seed=0)) == fingerprint
    assert clip_contents(wavs).tolist() == clip_contents(prepared).tolist()


def test_fingerprint_changes_with_one_byte_and_with_one_row(own_corpus):
    clips = load_tau22(own_corpus)["train"]
    seen = {data_fingerprint(clips), data_fingerprint(clips.select(range(4)))}
    path = own_corpus / f"audio/{CLIPS[2]}.wav"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    seen.add(data_fingerprint(clips))
    path.write_bytes(data)
    other = write_wav(own_corpus / "audio/bus-lyon-1-10-3-a.wav", noise(CLIPS[2])).stem
    write_table(own_corpus / "meta.csv", META, map(meta_row, [*CLIPS[:2], other, *CLIPS[3:]]))
    write_lists(own_corpus, [*CLIPS[:2], other, *CLIPS[3:5]], CLIPS[5:])
    seen.add(data_fingerprint(load_tau22(own_corpus)["train"]))
    assert len(seen) == 4


def test_fingerprint_of_an_absent_file_raises(own_corpus):
    clips = load_tau22(own_corpus)["train"]
    (own_corpus / f"audio/{CLIPS[2]}.wav").unlink()
    with pytest.raises(FileNotFoundError, match=CLIPS[2]):
        data_fingerprint(clips)


# Stores that are not whole


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda store: (store / "store.json").unlink(), FileNotFoundError, "no finished store.*run prepare again"),
        (lambda store: (store / "store.json").write_text("{"), ValueError, "store.json is damaged"),
        (lambda store: (store / "store.json").write_text("[]"), ValueError, "store.json is no manifest"),
        (lambda store: next(store.glob("shard-*")).unlink(), ValueError, "shard-.* is missing or damaged"),
        (lambda store: next(store.glob("index-*")).unlink(), ValueError, "index-.* is missing or damaged"),
        (lambda store: next(store.glob("runs-*")).write_bytes(b"ARROW1"), ValueError, "runs-.* is missing or damaged"),
    ],
    ids=["unfinished", "damaged manifest", "foreign manifest", "shard", "index", "runs"],
)
def test_store_that_is_not_whole_is_not_opened(store, tmp_path, spoil, error, message):
    folder = shutil.copytree(store, tmp_path / "store")
    spoil(folder)
    with pytest.raises(error, match=message):
        load_prepared(folder)["train"][0]


def test_store_of_another_version_is_not_opened(store, tmp_path):
    folder = shutil.copytree(store, tmp_path / "store")
    manifest = json.loads((folder / "store.json").read_text())
    manifest["settings"]["format"] = 0
    (folder / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is of format 0, expected 1"):
        load_prepared(folder)


def test_rows_of_another_store_raise(store, tmp_path):
    rows = {"recording": ["elsewhere"], "start": [0], "length": [32_000], "example_id": ["x"]}
    clips = Dataset.from_dict(rows).with_transform(load_prepared(store)["train"].format["format_kwargs"]["transform"])
    with pytest.raises(ValueError, match="does not hold .* of elsewhere"):
        clips[0]
