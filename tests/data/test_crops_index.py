"""An index of crops finds them again in a store of the same audio, and only there."""

import shutil

import numpy as np
import pytest
from small_corpus import CLIPS, noise, write_corpus, write_wav

from hf_ascdistill.data.columns import SAMPLING_RATE
from hf_ascdistill.data.crops import shifted_crops
from hf_ascdistill.data.crops_index import load_crops_index, read_crops_index, write_crops_index
from hf_ascdistill.data.store import data_fingerprint, load_prepared, prepare
from hf_ascdistill.data.tau22 import load_tau22


def copied(corpus, folder, names):
    """A corpus of other clips, whose common files are those of the first to the byte: a written wav holds its time."""
    write_corpus(folder, names)
    for name in set(names) & set(CLIPS):
        shutil.copyfile(corpus / f"audio/{name}.wav", folder / f"audio/{name}.wav")
    return folder


def store_of(corpus, folder):
    prepare(load_tau22(corpus), folder, num_proc=1)
    return folder


@pytest.fixture
def crops(store):
    """Crops of two lengths, in an order of their own."""
    data = load_prepared(store)
    long = shifted_crops(data["train"].select(range(3)), hop_seconds=0.4, length_seconds=1.5)
    return {"train": shifted_crops(data["train"], hop_seconds=0.25).shuffle(seed=0), "long": long}


@pytest.fixture
def index(crops, tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    write_crops_index(crops, folder)
    return folder


def test_the_same_audio_prepared_again_gives_the_same_crops_in_their_order(index, crops, corpus, tmp_path):
    again = copied(corpus, tmp_path / "again", CLIPS)
    found = load_crops_index(index, store_of(again, tmp_path / "own"))
    assert list(found) == ["train", "long"]
    for split, expected in crops.items():
        assert found[split].with_format(None)["example_id"][:] == expected.with_format(None)["example_id"][:]
        assert found[split].features == expected.features and found[split].split == split
        assert data_fingerprint(found[split]) == data_fingerprint(expected)
        assert all(np.array_equal(a["waveform"], b["waveform"]) for a, b in zip(found[split], expected, strict=True))


def test_a_store_of_more_recordings_will_do(index, crops, corpus, tmp_path):
    more = copied(corpus, tmp_path / "more", [*CLIPS, "park-rome-9-90-0-b", "bus-lyon-1-10-3-a"])
    found = load_crops_index(index, store_of(more, tmp_path / "own"))
    assert len(found["train"]) == len(crops["train"])


@pytest.mark.parametrize("lost", ["bus-oslo-2-11-4-s1", "bus-lyon-1-10-0-a", "bus-lyon-1-10-1-a"])
def test_a_store_that_lacks_audio_is_refused(index, corpus, lost, tmp_path):
    fewer = copied(corpus, tmp_path / "fewer", [name for name in CLIPS if name != lost])
    with pytest.raises(ValueError, match=f"own lacks the audio of .* crops in split 'train' of .*index.*{lost}"):
        load_crops_index(index, store_of(fewer, tmp_path / "own"))


@pytest.mark.parametrize("spoilt", ["bus-oslo-2-11-4-s1", "bus-lyon-1-10-2-a"])
def test_a_store_of_other_audio_is_refused(index, corpus, spoilt, tmp_path):
    own_corpus = copied(corpus, tmp_path / "spoilt", CLIPS)
    write_wav(own_corpus / f"audio/{spoilt}.wav", noise(spoilt) * 0.5)
    with pytest.raises(ValueError, match="own holds other audio than split 'train' of .*index: that of"):
        load_crops_index(index, store_of(own_corpus, tmp_path / "own"))


def test_audio_that_breaks_off_within_a_crop_is_refused(index, corpus, tmp_path):
    """The last of three clips is lost; crops of 1.5 s still begin in the second one."""
    names = [name for name in CLIPS if name != CLIPS[2]]
    fewer = store_of(copied(corpus, tmp_path / "fewer", names), tmp_path / "own")
    rest = read_crops_index(index)["long"].filter(lambda start: start < 2 * SAMPLING_RATE, input_columns="start")
    (index / "train.parquet").unlink()
    write_crops_index({"long": rest}, index)
    with pytest.raises(ValueError, match="holds other audio than split 'long'"):
        load_crops_index(index, fewer)


def test_no_index_and_a_damaged_one_are_named(index, store, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no index of crops"):
        load_crops_index(tmp_path, store)
    (index / "train.parquet").write_bytes((index / "train.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="train.parquet is damaged"):
        load_crops_index(index, store)
