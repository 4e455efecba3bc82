"""Recipes read YAML as defaults, let the command line win, and stop on what they do not know."""

import functools
import os
import platform
import subprocess
import sys

import pytest
import torch
from transformers import TrainingArguments

from hf_ascdistill import DataArguments, DistillationTrainingArguments, ModelArguments, TeacherArguments, parse_recipe


@pytest.fixture
def config(tmp_path):
    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_yaml_values_are_typed_like_command_line_values(config, tmp_path):
    path = config("learning_rate: 1e-3\nnum_train_epochs: 3\nfp16: false\n")
    (training,) = parse_recipe(
        DistillationTrainingArguments, argv=["--config", path, "--output_dir", str(tmp_path), "--use_cpu", "true"]
    )
    assert training.learning_rate == 1e-3
    assert training.num_train_epochs == 3
    assert training.fp16 is False


def test_command_line_wins_over_later_yaml_over_earlier_yaml(config):
    first = config("architecture: cp-resnet\nsize: 1m\ninitial_weights: a\n", "first.yaml")
    second = config("size: 4m\ninitial_weights: b\n", "second.yaml")
    (model,) = parse_recipe(ModelArguments, argv=["--config", first, second, "--initial_weights", "c"])
    assert (model.architecture, model.size, model.initial_weights) == ("cp-resnet", "4m", "c")


def test_required_argument_may_come_from_yaml(config):
    (data,) = parse_recipe(DataArguments, argv=["--config", config("data: corpus\n")])
    assert data.data == "corpus"


def test_unknown_yaml_key_raises_and_is_named(config):
    path = config("architecure: cp-resnet\n")
    with pytest.raises(ValueError, match=r"unknown argument\(s\) architecure in .*config.yaml"):
        parse_recipe(ModelArguments, argv=["--config", path])


def test_unknown_command_line_flag_stops(capsys):
    with pytest.raises((SystemExit, ValueError)):
        parse_recipe(ModelArguments, argv=["--architecure", "cp-resnet"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", ""])
def test_yaml_without_a_mapping_raises(config, text):
    with pytest.raises(ValueError, match="expected a mapping"):
        parse_recipe(ModelArguments, argv=["--config", config(text)])


def test_broken_yaml_raises_with_its_name(config):
    with pytest.raises(ValueError, match="config.yaml is not valid YAML"):
        parse_recipe(ModelArguments, argv=["--config", config("a: [1\n")])


def test_launcher_with_another_world_size_stops_the_recipe(monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "LOCAL_RANK": "-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    from hf_ascdistill import check_world_size

    with pytest.raises(ValueError, match="started 2 processes, but the training sees 1"):
        check_world_size(1)


def test_paper_schedule_keeps_its_proportions_in_a_short_run(tmp_path):
    arguments = DistillationTrainingArguments(output_dir=str(tmp_path), num_train_epochs=15, use_cpu=True)
    assert arguments.schedule.factor(5) == 1.0
    assert arguments.schedule.factor(14) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("settings", "is_non_blocking"),
    [
        ({"dataloader_pin_memory": True}, True),
        ({"dataloader_pin_memory": False}, False),
        ({"dataloader_pin_memory": True, "accelerator_config": {"non_blocking": False}}, False),
    ],
)
def test_pinned_batches_are_copied_without_waiting_unless_told_otherwise(tmp_path, settings, is_non_blocking):
    arguments = DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    assert arguments.accelerator_config.non_blocking is is_non_blocking


def test_paper_length_is_the_paper_schedule(tmp_path, golden):
    arguments = DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    factors = [arguments.schedule.factor(epoch) for epoch in range(150)]
    assert factors == pytest.approx(golden("lr")["cpm_factor"].tolist(), abs=1e-9)


def test_a_process_works_on_one_device_where_there_are_several(tmp_path, monkeypatch):
    def find_four(self):
        self._n_gpu = 4
        return torch.device("cpu")

    found = functools.cached_property(find_four)
    found.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", found)
    arguments = DistillationTrainingArguments(str(tmp_path), per_device_train_batch_size=256)
    assert (arguments.n_gpu, arguments.train_batch_size, arguments.eval_batch_size) == (1, 256, 256)


def test_checkpoints_without_the_optimiser_are_refused(tmp_path):
    with pytest.raises(ValueError, match="save_only_model must be False"):
        DistillationTrainingArguments(str(tmp_path), use_cpu=True, save_only_model=True)


@pytest.mark.parametrize("setting", [{"frontend_seat": "moon"}, {"remove_unused_columns": True}])
def test_setting_that_would_break_the_front_end_raises(tmp_path, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **setting)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--teacher_mode", "offline"], "teacher_mode is 'offline'; expected one of cached, online"),
        (["--teacher_mode", "online"], "no teachers are named: pass --teachers"),
        (["--teachers", "run-a", "run-b"], r"teachers are named \(run-a, run-b\), but teacher_mode is cached"),
        (
            ["--teacher_mode", "online", "--teachers", "run", "--teacher_logits", "set"],
            r"teacher_logits are named \(set\), but teacher_mode is online",
        ),
    ],
)
def test_teachers_that_are_named_in_the_other_mode_s_way_raise(argv, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(TeacherArguments, argv=argv)


def test_teachers_are_cached_or_online():
    (cached,) = parse_recipe(TeacherArguments, argv=["--teacher_logits", "a", "b"])
    (online,) = parse_recipe(TeacherArguments, argv=["--teacher_mode", "online", "--teachers", "a", "b"])
    assert (cached.teacher_mode, cached.teacher_logits, cached.teachers) == ("cached", ["a", "b"], None)
    assert (online.teacher_mode, online.teacher_logits, online.teachers) == ("online", None, ["a", "b"])


THREADS_SEE_DENORMALS = """\
import sys
import torch
from hf_ascdistill import DistillationTrainingArguments, parse_recipe

torch.set_num_threads(2)
parse_recipe(DistillationTrainingArguments, argv=["--output_dir", sys.argv[1], "--use_cpu", "true", *sys.argv[2:]])
numbers = torch.full((1 << 22,), 1, dtype=torch.int32).view(torch.float32)  # 1.4e-45, long enough for two threads
halves = (numbers * 1.0).view(torch.int32).chunk(2)
print([bool(half.any()) for half in halves])
"""


@pytest.mark.parametrize(("flag", "seen"), [("true", "[False, False]"), ("false", "[True, True]")])
def test_recipe_ends_denormal_numbers_on_every_thread_unless_told_otherwise(tmp_path, flag, seen):
    command = [sys.executable, "-c", THREADS_SEE_DENORMALS, str(tmp_path), "--flush_denormals", flag]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == seen


FAULTS_OF_A_STEP = """\
import resource
import sys
import torch
from hf_ascdistill import DistillationTrainingArguments, parse_recipe

parse_recipe(DistillationTrainingArguments, argv=["--output_dir", sys.argv[1], "--use_cpu", "true", *sys.argv[2:]])
faults = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[7])  # the first ones still find their places
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc takes the setting")
@pytest.mark.parametrize(("flag", "is_kept"), [("true", True), ("false", False)])
def test_recipe_keeps_freed_memory_unless_told_otherwise(tmp_path, flag, is_kept):
    command = [sys.executable, "-c", FAULTS_OF_A_STEP, str(tmp_path), "--keep_freed_memory", flag]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 16) is is_kept  # pages of 4 KiB or of 2 MiB
