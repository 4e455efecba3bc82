"""The demo and the study run the recipes one after the other and end in a table; here tiny, and in one process."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_corpus import tiny_corpus

from hf_ascdistill import load_tau22, prepare, write_synthetic_corpus
from hf_ascdistill.data.synthetic import SyntheticSettings


@pytest.fixture
def calls_of(run_recipe, monkeypatch):
    """Lets a recipe call the others in this process; returns the list of its calls."""

    def patch(module):
        calls = []

        def run(name, *arguments):
            calls.append([name, *map(str, arguments)])
            run_recipe(Path(name).stem, *arguments)

        monkeypatch.setattr(module, "run", run)
        return calls

    return patch


def table_of(report: Path) -> list[list[str]]:
    """The cells of a report's table, without its head."""
    lines = [line for line in report.read_text().splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def linked_files(report: Path) -> list[Path]:
    lines = [line for line in report.read_text().splitlines() if line.startswith("![")]
    return [report.parent / line.split("](")[1].rstrip(")") for line in lines]


def test_demo_ends_in_a_report_and_works_a_second_time(recipe, calls_of, monkeypatch, tmp_path, capsys):
    demo = recipe("demo")
    tiny = partial(write_synthetic_corpus, settings=SyntheticSettings.from_preset("tiny"))
    monkeypatch.setattr(demo, "write_synthetic_corpus", tiny)
    calls = calls_of(demo)
    for _ in range(2):
        demo.main(["--output_dir", str(tmp_path), "--num_train_epochs", "1"])
    order = ["prepare_data.py", "train_teacher.py", "cache_logits.py", "distill.py", "train_teacher.py"]
    assert [name for name, *_ in calls] == 2 * order
    report = tmp_path / "report.md"
    assert report.read_text().split("\n\n")[2] in capsys.readouterr().out
    table = table_of(report)
    assert [cells[0] for cells in table] == ["teacher CP-ResNet", "student with KD", "student without KD"]
    assert [cells[5] for cells in table] == ["127,684", "126,952", "126,952"]
    assert all(len(cells) == 8 and "fits" in cells[7] for cells in table)
    assert len(linked_files(report)) == 4 and all(path.exists() for path in linked_files(report))


@pytest.fixture
def few_clips(tmp_path, tmp_path_factory):
    """A store of 20 training and 12 evaluation clips."""
    clips = load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()))
    few = {"train": clips["train"].select(range(20)), "evaluate": clips["evaluate"].select(range(12))}
    prepare(few, tmp_path / "prepared", num_proc=1)
    return tmp_path / "prepared"


def test_study_ends_in_means_and_spreads_over_the_seeds(recipe, calls_of, few_clips, tmp_path):
    responses, config = tmp_path / "ir", tmp_path / "tiny.yaml"
    responses.mkdir()
    soundfile.write(responses / "one.wav", np.eye(1, 96)[0], 48_000, subtype="FLOAT")
    config.write_text("num_train_epochs: 1\nper_device_train_batch_size: 16\nsave_strategy: 'no'\npictures: false\n")
    study = recipe("study")
    calls_of(study)
    arguments = ["--data", few_clips, "--impulse_responses", responses]
    arguments += ["--output_dir", tmp_path / "study", "--train_with", config, "--seeds", 0, 1]
    study.main([str(argument) for argument in arguments])
    table = table_of(tmp_path / "study" / "report.md")
    folders = ["cpr-128k-none", "cpr-128k-dirfms", "cpm-128k-dirfms", "student-cpr-128k-dirfms"]
    assert len(table) == len(folders)
    for cells, folder in zip(table, folders, strict=True):
        runs = [json.loads((tmp_path / "study" / f"{folder}-s{seed}" / "results.json").read_text()) for seed in (0, 1)]
        values = [100 * run["last_epochs"]["accuracy"] for run in runs]
        assert cells[1] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert linked_files(tmp_path / "study" / "report.md")[0].exists()
