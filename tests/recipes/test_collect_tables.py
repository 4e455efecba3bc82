"""The recipe collects what is there, prints it briefly and stops at what it cannot read."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

HELPER = Path(__file__).resolve().parents[1] / "experiments" / "finished_plan.py"


@pytest.fixture(scope="module")
def plans():
    """The helper that makes up finished plans."""
    spec = importlib.util.spec_from_file_location("made_up_plans", HELPER)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(plans, tmp_path) -> Path:
    """All runs of the paper's four tables."""
    tables = tuple(plans.paper_table(number) for number in (1, 2, 3, 4))
    plans.write_plan(tmp_path / "plan", tables, teacher=lambda kind: 0.6, student=lambda cell: 0.64)
    return tmp_path / "plan"


def test_all_tables_are_collected_into_the_plans_folder(root, run_recipe, capsys):
    run_recipe("collect_tables", "--tables", 1, 2, 3, 4, "--runs", root)
    printed = capsys.readouterr().out
    assert "60 of 60 cells are complete, 0 missing or incomplete" in printed
    assert f"tables, figures and what is missing: {root / 'tables' / 'README.md'}" in printed
    kinds = {".csv": 4, ".md": 5, ".png": 6}
    found = [path.suffix for path in (root / "tables").iterdir()]
    assert {suffix: found.count(suffix) for suffix in found} == kinds


def test_seeds_come_from_the_plan_and_the_command_line(root, run_recipe, tmp_path, capsys):
    (root / "plan.json").write_text(json.dumps({"seeds": [1]}))
    common = ("collect_tables", "--tables", 1, "--runs", root, "--pictures", "false")
    run_recipe(*common, "--output", tmp_path / "one")
    assert "11 of 11 cells are complete" in capsys.readouterr().out
    assert "±" not in (tmp_path / "one" / "table1.md").read_text()
    run_recipe(*common, "--output", tmp_path / "four", "--seeds", 0, 1, 2, 3)
    assert "0 of 11 cells are complete, 11 missing" in capsys.readouterr().out
    assert "64.00 ± 0.40 (3 of 4 runs)" in (tmp_path / "four" / "table1.md").read_text()
    assert not list(tmp_path.glob("*/*.png"))


def test_a_table_of_ones_own_is_collected(plans, root, run_recipe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: One student\nrows: [a]\ncolumns: [b]\nmetrics: [accuracy]\n"
        "cells: [{row: a, column: b, teachers: [cpr-128k-dirfms], runs: all}]\n"
    )
    run_recipe("collect_tables", "--tables", path, "--runs", root, "--output", tmp_path / "out")
    text = (tmp_path / "out" / "mine.md").read_text()
    assert text.startswith("# mine: One student") and "64.00 ± 0.40" in text and "paper" not in text
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md", "mine.csv", "mine.md", "mine_devices.png"
    ]  # fmt: skip


def test_an_unknown_teacher_stops_before_anything_is_written(root, run_recipe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: t\nrows: [a]\ncolumns: [b]\nmetrics: [accuracy]\n"
        "cells: [{row: a, column: b, teachers: [vgg-16-dirfms], runs: own}]\n"
    )
    with pytest.raises(ValueError, match=r"mine.yaml.*vgg-16-dirfms"):
        run_recipe("collect_tables", "--tables", path, "--runs", root)
    assert not (root / "tables").exists()


def test_damaged_results_stop_and_keep_the_tables_of_before(root, run_recipe):
    run_recipe("collect_tables", "--tables", 2, "--runs", root, "--pictures", "false")
    before = {path.name: path.read_bytes() for path in (root / "tables").iterdir()}
    path = root / "teachers" / "cpm-128k-fms-s2" / "results.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"teachers/cpm-128k-fms-s2/results.json is damaged.*run the plan again"):
        run_recipe("collect_tables", "--tables", 2, "--runs", root)
    assert {path.name: path.read_bytes() for path in (root / "tables").iterdir()} == before


def test_a_root_that_is_not_there_is_named(run_recipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; give the folder that the plan runs in"):
        run_recipe("collect_tables", "--tables", 1, "--runs", tmp_path / "nowhere")
