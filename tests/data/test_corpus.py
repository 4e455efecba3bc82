"""A corpus opens alike from its wav files and from its prepared store."""

import shutil

import numpy as np
import pytest
from tiny_corpus import example_ids, tiny_corpus, tiny_store

from hf_ascdistill import load_corpus, load_split, load_tau22, prepare


@pytest.fixture(scope="module", params=["wav files", "store"])
def path(request, tmp_path_factory):
    basetemp = tmp_path_factory.getbasetemp()
    return tiny_corpus(basetemp) if request.param == "wav files" else tiny_store(basetemp)


@pytest.fixture(scope="module")
def train_list(tmp_path_factory):
    """A list of the first five training clips."""
    lines = (tiny_corpus(tmp_path_factory.getbasetemp()) / "evaluation_setup/fold1_train.csv").read_text().splitlines()
    path = tmp_path_factory.mktemp("list") / "split5.csv"
    path.write_text("\n".join([*lines[:6], ""]))
    return path


def test_both_splits_open(path):
    data = load_corpus(path)
    assert {split: len(clips) for split, clips in data.items()} == {"train": 60, "evaluate": 30}
    assert data["train"][0]["waveform"].shape == (32_000,)


def test_train_list_takes_the_place_of_the_whole_training_split(path, train_list):
    data = load_corpus(path, train_list=train_list)
    assert [f"audio/{name}.wav" for name in example_ids(data["train"])] == [
        line.split("\t")[0] for line in train_list.read_text().splitlines()[1:]
    ]
    assert len(data["evaluate"]) == 30


@pytest.mark.parametrize(("split", "clips"), [("train", 60), ("evaluate", 30), ("all", 90)])
def test_one_split_opens_and_reads(path, split, clips):
    opened = load_split(path, split)
    assert len(opened) == len(set(example_ids(opened))) == clips
    assert np.isfinite(opened[clips - 1]["waveform"]).all()


def test_all_clips_are_those_of_both_splits(path):
    both = [example_ids(load_split(path, split)) for split in ("train", "evaluate")]
    assert sorted(example_ids(load_split(path, "all"))) == sorted(sum(both, []))


def test_all_clips_of_a_store_that_has_them_as_a_split_come_once(tmp_path, tmp_path_factory):
    corpus = load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()), splits=("evaluate", "all"))
    prepare(corpus, tmp_path, num_proc=1)
    assert example_ids(load_split(tmp_path, "all")) == example_ids(corpus["all"])


def test_unknown_split_raises_with_the_known_ones(path):
    with pytest.raises(ValueError, match="(?s)test.*train, evaluate, all"):
        load_split(path, "test")


def test_folder_that_is_neither_corpus_nor_store_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"meta\.csv"):
        load_corpus(tmp_path)


def test_store_that_was_not_finished_raises(tmp_path, tmp_path_factory):
    unfinished = tmp_path / "store"
    shutil.copytree(tiny_store(tmp_path_factory.getbasetemp()), unfinished)
    (unfinished / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match=str(unfinished)):
        load_corpus(unfinished)


def test_store_without_an_evaluate_split_raises(tmp_path, tmp_path_factory):
    prepare(load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()), splits=("train",)), tmp_path, num_proc=1)
    with pytest.raises(ValueError, match="holds the splits train; expected train and evaluate"):
        load_corpus(tmp_path)
