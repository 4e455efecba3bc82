"""What people publish: a run as it ends, and a converted checkpoint; read back by its name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import TOKEN, USER
from publishing_parts import client_environment
from tiny_corpus import tiny_corpus

from hf_ascdistill import DistillationTrainingArguments, convert_checkpoint

SCORE_JOB = Path(__file__).with_name("score_clips_job.py")
CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"


def test_a_training_that_pushes_ends_in_what_publishing_its_folder_gives(hub, client, tmp_path, tmp_path_factory):
    name, corpus, run = f"{USER}/trained", tiny_corpus(tmp_path_factory.getbasetemp()), tmp_path / "run"
    training = ["--config", CONFIGS / "toy.yaml", "--data", corpus, "--config_overrides", "base_channels=8"]
    training += ["--output_dir", run, "--use_cpu", "true", "--last_epochs", "1", "--num_train_epochs", "1"]
    answer = client(
        "client_calls:run_recipe", "train_teacher", *training, "--push_to_hub", "true", "--hub_model_id", name
    )
    assert answer is None, answer
    assert hub.history(name) == ["initial commit", f"Publish {run.name}"]  # one commit, and none in between
    client(
        "client_calls:run_recipe", "publish", "--run", run, "--repo", name, "--dry_run", "--staging", tmp_path / "s"
    )
    staged = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    files = dict(hub.head(name).files)
    files.pop(".gitattributes")
    assert files == staged
    assert {"model.safetensors", "handler.py", "README.md", "modeling_cp_mobile.py"} <= files.keys()
    again = ["--push_to_hub", "true", "--hub_model_id", f"{name}-again"]  # the run is finished, as after a failed push
    assert client("client_calls:run_recipe", "train_teacher", *training, *again) is None
    assert hub.history(f"{name}-again") == ["initial commit", f"Publish {run.name}"]
    assert TOKEN not in client.output()


def test_the_published_checkpoint_keeps_its_accuracy(hub, client, shared, tmp_path):
    """62 of the 80 evaluation clips, by name from the Hub, through the pipeline and through the handler."""
    name, sample = f"{USER}/cpm-dcase23", shared / "data" / "tau22-sample"
    convert_checkpoint(shared / "checkpoints" / "cpm_student_dcase23.ckpt", tmp_path / "cpm")
    assert client("client_calls:publish_measured", tmp_path / "cpm", name, data=sample) == 62 / 80
    card = hub.head(name).files["README.md"].decode()
    assert "CP-Mobile (128K)" in card and re.search(r"value: 0\.775\n", card)
    environment = client_environment(hub, tmp_path / "fresh", PYTHONPATH="")
    command = [sys.executable, str(SCORE_JOB), name, str(sample)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"clips": 80, "pipeline": 62, "handler": 62}
    assert TOKEN not in client.output() + result.stdout + result.stderr


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_half_a_run_is_never_pushed(tmp_path, strategy):
    with pytest.raises(ValueError, match=f"hub_strategy is '{strategy}'; expected 'end'"):
        DistillationTrainingArguments(output_dir=str(tmp_path), hub_strategy=strategy)
