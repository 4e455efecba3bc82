"""Two ranks that hold the clips in memory train as from disk, and draw the clips that one process would."""

import json
import os
import subprocess
import sys

import placement_job
import pytest
from test_two_processes import TWO_RANKS
from tiny_corpus import tiny_store

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def two(store, tmp_path_factory):
    """What each rank saw, by placement."""
    folder = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *TWO_RANKS.split()]
    command = [*launcher, placement_job.__file__, str(store), str(folder), "4"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-12000:]
    names = ("disk", "ram", "threads")
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in names}


@pytest.fixture(scope="module")
def one(store, tmp_path_factory):
    return placement_job.train(str(store), str(tmp_path_factory.mktemp("one")), clips_per_rank=8, placement="ram")


def test_both_ranks_hold_the_clips_in_memory(two):
    assert [rank["dataset"] for rank in two["ram"]] == ["ResidentClips"] * 2
    assert [rank["dataset"] for rank in two["disk"]] == ["Dataset"] * 2
    assert [rank["world_size"] for rank in two["ram"]] == [2, 2]


def test_ranks_in_memory_see_the_clips_and_end_with_the_weights_of_disk(two):
    for disk, ram in zip(two["disk"], two["ram"], strict=True):
        assert len(disk["seen"]) == 6 and disk["seen"] == ram["seen"]
        assert disk["losses"] == ram["losses"] and disk["weights"] == ram["weights"]


def test_no_thread_of_the_group_is_left_when_a_rank_ends(two):
    for before, after in two["threads"]:
        assert after <= before - 2  # one that is left and lets go of a tensor as Python ends aborts the rank


def test_ranks_together_draw_the_batches_of_one_process(two, one):
    left, right = (rank["seen"] for rank in two["ram"])
    assert [sum(pair) for pair in zip(left, right, strict=True)] == pytest.approx(one["seen"], abs=1e-6)
    assert two["ram"][0]["losses"] == pytest.approx(one["losses"], abs=1e-5)
