"""Two ranks train as one process does: same losses, same weights, each evaluation clip once, own augmentation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_trainer import clips
from two_process_job import EVALUATION_CLIPS

pytestmark = pytest.mark.dist

JOB = Path(__file__).with_name("two_process_job.py")
TWO_RANKS = (
    "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
)


def launch(output_dir: Path, *, ranks: int, clips_per_rank: int, accumulation: int) -> dict:
    launcher = [sys.executable]
    if ranks == 2:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", *TWO_RANKS.split()]
    command = [*launcher, str(JOB), str(output_dir), str(clips_per_rank), str(accumulation)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-12000:]
    return json.loads((output_dir / "result.json").read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one"), ranks=1, clips_per_rank=16, accumulation=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("two"), ranks=2, clips_per_rank=8, accumulation=1)


def test_two_ranks_take_part(one, two):
    assert (one["world_size"], two["world_size"]) == (1, 2)


def test_losses_agree_at_the_same_global_batch(one, two):
    assert len(one["losses"]) == 4
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_weights_agree_at_the_same_global_batch(one, two):
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-5)


def test_every_evaluation_clip_counts_once(two):
    assert two["clips"] == EVALUATION_CLIPS
    assert two["labels"] == sorted(clips()["labels"][:EVALUATION_CLIPS].tolist())


def test_ranks_augment_differently(two):
    assert two["views"][0] != two["views"][1]
