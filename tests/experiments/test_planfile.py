"""plan.json: one root holds one plan, which may grow by tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_ascdistill.experiments.grid import load_table, table_path
from hf_ascdistill.experiments.jobs import PlanSettings
from hf_ascdistill.experiments.plan import Plan
from hf_ascdistill.experiments.presets import load_preset

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Writes the plan of some tables; returns what plan.json holds then."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    def write(*names, jobs=2, preset=None, **changes):
        settings = PlanSettings(str(tmp_path), preset or load_preset(RECIPES / "tables/presets/toy.yaml"), **changes)
        tables = [load_table(table_path(str(name), RECIPES / "tables")) for name in names]
        Plan.of(tables, settings, recipes="recipes").save(jobs)
        return json.loads((tmp_path / "plan.json").read_text())

    return write


def test_plan_holds_seeds_settings_and_command_lines(save):
    plan = save(1)
    assert (plan["seeds"], plan["threads"], plan["tables"]) == ([0, 1, 2], 4, ["table1"])
    job = plan["jobs"]["teachers/cpr-450k-dirfms-s1"]
    assert (job["recipe"], job["config"]) == ("train_teacher.py", ["configs/cpr_450k.yaml", "configs/toy.yaml"])
    assert job["options"][2:4] == ["--seed", "1"]
    assert plan["config_files"]["configs/toy.yaml"]["num_train_epochs"] == 2


def test_new_tables_extend_a_plan(save):
    first = save(1)
    both = save(1, 2)
    assert both["tables"] == ["table1", "table2"]
    assert first["jobs"].items() <= both["jobs"].items()
    assert save(2) == {**both, "tables": ["table1", "table2"]}  # fewer tables take nothing away


def test_threads_are_chosen_once(save):
    assert save(1, jobs=2)["threads"] == 4
    assert save(1, jobs=8)["threads"] == 4


def test_other_number_of_threads_is_refused(save, monkeypatch):
    save(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with pytest.raises(ValueError, match="threads was 4, now 3"):
        save(1)


def test_what_differs_is_named(save, tmp_path):
    preset = load_preset(RECIPES / "tables/presets/toy.yaml")
    save(1)
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(ValueError, match=r"preset.crop_hop was 0.5, now 0.25") as error:
        save(1, preset=replace(preset, crop_hop=0.25))
    assert "holds another plan" in str(error.value) and "jobs" not in str(error.value)
    with pytest.raises(ValueError, match=r"seeds was '2', now|seeds was '1 2', now"):
        save(1, preset=replace(preset, seeds=(0, 1)))
    with pytest.raises(ValueError, match="data was None, now '.*corpus'"):
        save(1, data=str(tmp_path / "corpus"))
    with pytest.raises(ValueError, match="impulse_responses was None, now 'irs'"):
        save(1, impulse_responses="irs")
    assert (tmp_path / "plan.json").read_bytes() == before


def test_edited_config_is_noticed(save, tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    preset = load_preset(RECIPES / "tables/presets/toy.yaml")
    (folder / "mine.yaml").write_text("fms_p: 0.1\n")
    preset = replace(preset, configs={**preset.configs, "student": (str(folder / "mine.yaml"),)})
    save(1, preset=preset)
    (folder / "mine.yaml").write_text("fms_p: 0.2\n")
    with pytest.raises(ValueError, match=r"config_files.configs/mine.yaml.fms_p was 0.1, now 0.2"):
        save(1, preset=preset)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 0}'])
def test_damaged_plan_is_named(save, tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json"):
        save(1)
