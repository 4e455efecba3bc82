"""Small corpora for the tests of the data layer."""

from pathlib import Path

import pytest
from small_corpus import write_corpus

from hf_ascdistill.data import shards
from hf_ascdistill.data.store import prepare
from hf_ascdistill.data.tau22 import load_tau22


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The small corpus; tests leave it as it is."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def store(corpus, tmp_path_factory) -> Path:
    """The store of the small corpus; tests leave it as it is."""
    path = tmp_path_factory.mktemp("prepared") / "store"
    prepare(load_tau22(corpus), path, num_proc=1)
    return path


@pytest.fixture
def own_corpus(tmp_path) -> Path:
    """A small corpus that the test may spoil."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def one_run_per_shard(monkeypatch) -> None:
    """Four shards for the small corpus; forked processes inherit it."""
    monkeypatch.setattr(shards, "RUNS_PER_SHARD", 1)
