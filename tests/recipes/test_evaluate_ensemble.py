"""Many runs are cached at once, and an ensemble is judged beside its members, from logits or from runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import tiny_model, tiny_store
from tiny_teachers import front_end, save_runs, tiny_teachers

from hf_ascdistill import average_logits, load_logits, load_prepared
from hf_ascdistill.data.store_reader import Store

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TWO = "-m accelerate.commands.launch --num_machines 1 --mixed_precision no --dynamo_backend no --multi_gpu"
FEW = ["--batch_size", 8, "--clips_per_file", 8, "--use_cpu"]
NAMES = ["cpm-s0", "cpm-s1", "cpr-s0", "passt-s0"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def scenes(corpus) -> list[str]:
    return load_prepared(corpus)["train"].features["labels"].names


@pytest.fixture(scope="module")
def runs(scenes, tmp_path_factory) -> list[Path]:
    """Folders of saved teachers with three front-ends."""
    return list(save_runs(tiny_teachers(scenes), tmp_path_factory.mktemp("runs")).values())


@pytest.fixture(scope="module")
def logits(run_recipe, corpus, runs, tmp_path_factory) -> Path:
    """Folder of their logits of the evaluation clips."""
    folder = tmp_path_factory.mktemp("logits")
    run_recipe("cache_logits", "--data", corpus, "--split", "evaluate", *FEW, "--model", *runs, "--output", folder)
    return folder


@pytest.fixture
def evaluate(run_recipe, corpus, capsys):
    """Evaluates an ensemble; returns what is printed."""

    def run(*arguments) -> str:
        capsys.readouterr()
        run_recipe("evaluate_ensemble", "--data", corpus, *arguments)
        return capsys.readouterr().out

    return run


def sets_of(folder: Path) -> list[Path]:
    return [folder / name for name in NAMES]


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_of_many_runs_gets_the_set_that_it_would_get_alone(run_recipe, corpus, runs, logits, tmp_path, capsys):
    for run in runs:
        alone = tmp_path / run.name
        run_recipe("cache_logits", "--data", corpus, "--split", "evaluate", *FEW, "--model", run, "--output", alone)
        assert capsys.readouterr().out == f"30 clips x 10 scenes: {alone}\n"
    assert files_of(tmp_path) == files_of(logits)


def test_run_that_comes_later_joins_and_finished_ones_rest(run_recipe, corpus, runs, logits, tmp_path):
    shutil.copytree(logits, tmp_path / "logits")
    shutil.rmtree(tmp_path / "logits" / "cpr-s0")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    caching = ["--data", corpus, "--split", "evaluate", *FEW, "--model", *runs]
    run_recipe("cache_logits", *caching, "--output", tmp_path / "logits")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files_of(tmp_path / "logits") == files_of(logits)


def test_two_runs_of_one_name_raise_and_both_are_named(run_recipe, corpus, runs, tmp_path):
    twin = shutil.copytree(runs[0], tmp_path / "other" / runs[0].name)
    with pytest.raises(ValueError, match=f"{runs[0]} and {twin} are both named cpm-s0"):
        run_recipe("cache_logits", "--data", corpus, "--model", runs[0], twin, "--output", tmp_path / "logits")
    assert not (tmp_path / "logits").exists()


def test_run_of_other_classes_raises_before_anything_is_predicted(run_recipe, corpus, runs, tmp_path):
    odd = save_runs({"odd": (tiny_model(["indoor", "outdoor"]), front_end("cp-mobile"))}, tmp_path)["odd"]
    with pytest.raises(ValueError, match=f"{odd}'s 2 classes are indoor, outdoor; the data's 10"):
        run_recipe("cache_logits", "--data", corpus, "--model", *runs, odd, "--output", tmp_path / "logits")
    assert not (tmp_path / "logits").exists()


@pytest.mark.parametrize("recipe_name", ["cache_logits", "evaluate_ensemble"])
def test_unknown_and_unfinished_runs_raise(run_recipe, corpus, runs, tmp_path, recipe_name):
    arguments = ["--data", corpus, "--output", tmp_path / "output", "--model", runs[0]]
    with pytest.raises(FileNotFoundError, match="no-such-run is neither the folder of a run nor a model of the Hub"):
        run_recipe(recipe_name, *arguments, tmp_path / "no-such-run")
    (tmp_path / "begun" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"begun is no finished run \(config.json is missing\)"):
        run_recipe(recipe_name, *arguments, tmp_path / "begun")
    assert not (tmp_path / "output").exists()


def test_single_run_may_come_from_yaml(run_recipe, corpus, runs, logits, tmp_path):
    config = tmp_path / "cache.yaml"
    config.write_text(f"model: {runs[2]}\nsplit: evaluate\nbatch_size: 8\nclips_per_file: 8\n")
    run_recipe("cache_logits", "--config", config, "--data", corpus, "--output", tmp_path / "set")
    assert files_of(tmp_path / "set") == files_of(logits / "cpr-s0")


def test_ensemble_is_judged_beside_its_members(evaluate, corpus, logits, tmp_path):
    printed = evaluate("--teacher_logits", *sets_of(logits), "--output", tmp_path)
    results = results_of(tmp_path)
    assert list(results["members"]) == NAMES
    labels = np.array(load_prepared(corpus)["evaluate"].with_format(None)["labels"][:])
    mean = average_logits(map(load_logits, sets_of(logits))).logits
    assert results["ensemble"]["correct"] == (mean.argmax(1) == labels).sum()
    assert results["ensemble"]["accuracy"] == results["ensemble"]["correct"] / 30
    assert results["groups"] == {"real": ["a", "b", "c"], "seen": ["s1", "s2", "s3"], "unseen": ["s4", "s5", "s6"]}
    assert len(results["scenes"]) == 10 and results["devices"][0] == "a"
    row = printed.splitlines()[-2].split("|")[1:-1]
    wanted = [results["ensemble"][name] for name in ("accuracy", "accuracy_real", "accuracy_seen", "accuracy_unseen")]
    assert [cell.strip() for cell in row] == [
        "ensemble (mean of raw logits)",
        *(f"{100 * value:.2f}" for value in wanted),
    ]
    assert printed.splitlines()[-1] == f"results: {tmp_path / 'results.json'}"
    assert (tmp_path / "devices.png").exists()


def test_order_of_the_members_does_not_change_the_ensemble(evaluate, logits, tmp_path):
    evaluate("--teacher_logits", *sets_of(logits), "--output", tmp_path / "one", "--pictures", "false")
    evaluate("--teacher_logits", *sets_of(logits)[::-1], "--output", tmp_path / "two", "--pictures", "false")
    assert results_of(tmp_path / "one")["ensemble"] == results_of(tmp_path / "two")["ensemble"]


def test_finished_ensemble_is_only_printed(evaluate, logits, tmp_path, monkeypatch):
    arguments = ["--teacher_logits", *sets_of(logits), "--output", tmp_path]
    first, before = evaluate(*arguments), files_of(tmp_path)
    monkeypatch.setattr("hf_ascdistill.load_training_data", lambda *_: pytest.fail("evaluated again"))
    assert evaluate(*arguments) == first
    assert files_of(tmp_path) == before
    with pytest.raises(ValueError, match=r"another ensemble: members was \['cpm-s0', .*now \['cpm-s0'\]"):
        evaluate("--teacher_logits", logits / "cpm-s0", "--output", tmp_path)


def test_runs_give_what_their_logits_give_and_audio_is_read_once(evaluate, runs, logits, tmp_path, monkeypatch):
    evaluate("--teacher_logits", *sets_of(logits), "--output", tmp_path / "of-logits")
    reads, read = [], Store.read
    monkeypatch.setattr(Store, "read", lambda self, *place: reads.append(place) or read(self, *place))
    evaluate("--model", *runs, "--batch_size", 8, "--output", tmp_path / "of-runs")
    assert len(reads) == 30
    assert results_of(tmp_path / "of-runs")["ensemble"] == results_of(tmp_path / "of-logits")["ensemble"]
    assert sorted(path.name for path in (tmp_path / "of-runs" / "logits").iterdir()) == NAMES
    evaluate("--teacher_logits", *sets_of(logits)[:2], "--model", *runs[2:], "--output", tmp_path / "of-both")
    assert results_of(tmp_path / "of-both")["members"].keys() == results_of(tmp_path / "of-runs")["members"].keys()


def test_no_members_raise(evaluate, tmp_path):
    with pytest.raises(ValueError, match="at least one logits set"):
        evaluate("--output", tmp_path)


def test_unknown_split_raises(evaluate, logits, tmp_path):
    with pytest.raises(ValueError, match="no split 'all'; expected one of train, evaluate"):
        evaluate("--teacher_logits", logits / "cpm-s0", "--split", "all", "--output", tmp_path)


def test_unfinished_set_raises_before_any_run_is_predicted(evaluate, runs, logits, tmp_path):
    begun = shutil.copytree(logits / "cpm-s1", tmp_path / "begun")
    (begun / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="begun holds no finished logits set"):
        evaluate("--teacher_logits", begun, "--model", runs[0], "--output", tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_damaged_set_raises_and_nothing_is_written(evaluate, logits, tmp_path):
    damaged = shutil.copytree(logits / "cpm-s1", tmp_path / "damaged")
    os.truncate(damaged / "logits-00002.arrow", 200)
    with pytest.raises(ValueError, match="logits-00002.arrow is missing or damaged"):
        evaluate("--teacher_logits", logits / "cpm-s0", damaged, "--output", tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_set_of_another_split_raises(run_recipe, evaluate, corpus, runs, logits, tmp_path):
    run_recipe("cache_logits", "--data", corpus, "--model", runs[0], "--output", tmp_path / "of-training")
    with pytest.raises(ValueError, match="30 of 30 clips have no logits.*cpm-s0 holds 60 clips"):
        evaluate("--teacher_logits", logits / "cpr-s0", tmp_path / "of-training", "--output", tmp_path / "output")


def launch_two(recipe: str, *arguments) -> str:
    launcher = [*TWO.split(), "--num_processes", "2", "--main_process_port", "0"]
    command = [sys.executable, *launcher, str(RECIPES / f"{recipe}.py"), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-12_000:]
    return done.stdout


@pytest.mark.dist
def test_two_processes_share_the_work_on_many_runs(corpus, runs, logits, tmp_path):
    caching = ["--data", corpus, "--split", "evaluate", *FEW, "--model", *runs]
    (tmp_path / "logits").mkdir()
    shutil.copytree(logits / "cpm-s1", tmp_path / "logits" / "cpm-s1")  # one is finished
    printed = launch_two("cache_logits", *caching, "--output", tmp_path / "logits")
    assert printed.count("30 clips x 10 scenes") == len(runs)  # the main process alone reports
    assert files_of(tmp_path / "logits").keys() == files_of(logits).keys()
    for name in NAMES:
        two, one = (load_logits(folder / name) for folder in (tmp_path / "logits", logits))
        assert two.example_ids.tolist() == one.example_ids.tolist()
        np.testing.assert_allclose(two.logits, one.logits, atol=1e-4)  # the number of threads may differ
