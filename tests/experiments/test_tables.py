"""Accuracies are gathered from the runs that are there; what is not there, damaged or foreign is named."""

import dataclasses
import json
import statistics

import pytest
from finished_plan import DEVICES, entry_of, paper_table, write_ensemble, write_plan, write_results, write_run

from hf_ascdistill import collect_table
from hf_ascdistill.experiments.tables import ENSEMBLE, STUDENT, TEACHER, planned_seeds


def one_cell(number: int, row: str, column: str):
    """A table of the paper without all cells but one."""
    table = paper_table(number)
    return dataclasses.replace(table, cells=tuple(c for c in table.cells if (c.row, c.column) == (row, column)))


@pytest.fixture
def single(tmp_path):
    """A student per teacher: runs with known accuracies."""
    for seed, (teacher, student) in enumerate([(0.60, 0.63), (0.61, 0.64), (0.62, 0.66)]):
        write_run(tmp_path / "teachers" / f"cpr-450k-dirfms-s{seed}", teacher, parameters=427_180)
        write_run(tmp_path / "students" / f"cpr-450k-dirfms-x1-s{seed}", student)
    return one_cell(2, "DIRFMS", "CPR")


@pytest.fixture
def ensemble(tmp_path):
    """Students of two kinds, three runs each."""
    table = one_cell(4, "DIR + FMS", "CPR")
    write_plan(tmp_path, (table,), teacher=lambda kind: {"dir": 0.57, "fms": 0.61}[kind.device_generalization],
               student=lambda cell: 0.64)  # fmt: skip
    return table


def test_mean_and_sample_deviation_over_runs(tmp_path, single):
    collected = collect_table(single, tmp_path)
    student = entry_of(collected, "DIRFMS", "CPR", role=STUDENT)
    assert student.mean == pytest.approx((0.63 + 0.64 + 0.66) / 3)
    assert student.std == pytest.approx(statistics.stdev([0.63, 0.64, 0.66]))
    teacher = entry_of(collected, "DIRFMS", "CPR", role=TEACHER)
    assert (teacher.mean, teacher.std) == (pytest.approx(0.61), pytest.approx(0.01))
    assert collected.cells[0].is_complete and collected.cells[0].missing == ()


def test_papers_numbers_stand_beside_ours(tmp_path, single):
    collected = collect_table(single, tmp_path)
    numbers = {(e.role, e.metric): (e.paper, e.difference) for e in collected.entries()}
    assert numbers == {
        (TEACHER, "accuracy"): (62.05, -1.05),
        (STUDENT, "accuracy"): (64.60, -0.27),  # 64.33 as shown
        (TEACHER, "accuracy_unseen"): (56.95, -0.95),
        (STUDENT, "accuracy_unseen"): (60.43, -1.10),
    }


def test_one_seed_has_no_deviation(tmp_path, single):
    student = entry_of(collect_table(single, tmp_path, seeds=(2,)), "DIRFMS", "CPR", role=STUDENT)
    assert (student.mean, student.std, student.runs.expected) == (0.66, None, 1)


def test_a_run_without_results_is_missing_and_has_no_difference(tmp_path, single):
    (tmp_path / "students" / "cpr-450k-dirfms-x1-s1" / "results.json").unlink()
    collected = collect_table(single, tmp_path)
    student = entry_of(collected, "DIRFMS", "CPR", role=STUDENT)
    assert student.mean == pytest.approx(0.645)  # of the two that are there
    assert (len(student.runs.finished), student.runs.expected, student.difference) == (2, 3, None)
    assert not collected.cells[0].is_complete
    assert collected.cells[0].missing == ("students/cpr-450k-dirfms-x1-s1",)


def test_nothing_there_is_all_missing(tmp_path):
    collected = collect_table(paper_table(2), tmp_path)
    assert all(entry.mean is None and entry.difference is None for entry in collected.entries())
    assert sum(len(cell.missing) for cell in collected.cells) == 12 * 6


def test_cells_come_by_row_and_column_and_blanks_stay_blank(tmp_path):
    places = [(cell.cell.row, cell.cell.column) for cell in collect_table(paper_table(1), tmp_path).cells]
    assert places[:3] == [("128K", "CPR"), ("128K", "CPM"), ("450K", "CPR")]
    assert len(places) == 11 and ("128K", "PaSST") not in places


def test_an_ensemble_stands_beside_its_members(tmp_path, ensemble):
    collected = collect_table(ensemble, tmp_path)
    place = ("DIR + FMS", "CPR")
    members = [0.566, 0.57, 0.574, 0.606, 0.61, 0.614]
    assert entry_of(collected, *place, role=ENSEMBLE).mean == pytest.approx(0.634)
    single = entry_of(collected, *place, role=TEACHER)
    assert single.mean == pytest.approx(0.59) and single.std == pytest.approx(statistics.stdev(members))
    assert (single.runs.expected, single.paper) == (6, None)
    assert entry_of(collected, *place, role=STUDENT).paper == 64.25
    assert collected.cells[0].is_complete


def test_an_ensemble_that_is_not_evaluated_yet_is_missing(tmp_path, ensemble):
    folder = "ensembles/cpr-128k-dir+cpr-128k-fms-x3"
    (tmp_path / folder / "results.json").unlink()
    collected = collect_table(ensemble, tmp_path)
    assert collected.cells[0].missing == (folder,)
    assert entry_of(collected, "DIR + FMS", "CPR", role=STUDENT).mean == pytest.approx(0.64)
    assert entry_of(collected, "DIR + FMS", "CPR", role=TEACHER).runs.expected == 6


def test_an_ensemble_of_other_members_raises(tmp_path, ensemble):
    folder = tmp_path / "ensembles" / "cpr-128k-dir+cpr-128k-fms-x3"
    (folder / "results.json").unlink()
    folder.rmdir()
    write_ensemble(folder, {"cpr-128k-dir-s0": 0.5}, 0.5)
    with pytest.raises(ValueError, match=r"x3/results.json has the members \['cpr-128k-dir-s0'\], expected .*fms-s2"):
        collect_table(ensemble, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"last_epochs": {"accur', r"is damaged: .*Remove the file and run the plan again"),
        ("\x00\x01", r"is damaged"),
        ("", r"is damaged"),
        ("[1, 2]", r"holds a list, expected an object"),
        ("{}", r"holds no last_epochs, so it is not the result of such a run"),
        ('{"last_epochs": 3}', r"holds no last_epochs"),
        ('{"last_epochs": {"accuracy_unseen": 0.5}}', r"holds no accuracy in last_epochs"),
        ('{"last_epochs": {"accuracy": 0.5}}', r"holds no accuracy_unseen in last_epochs.*Leave out the tables"),
        ('{"last_epochs": {"accuracy": 63.1}}', r"holds last_epochs.accuracy = 63.1, expected a share from 0 to 1"),
        ('{"last_epochs": {"accuracy": NaN}}', r"holds last_epochs.accuracy = nan, expected a share"),
        ('{"last_epochs": {"accuracy": "0.5"}}', r"holds last_epochs.accuracy = '0.5', expected a share"),
        ('{"last_epochs": {"accuracy": 0.5, "accuracy_unseen": 0.5}}', r"does not say its devices and groups"),
    ],
)
def test_damaged_or_foreign_results_are_named(tmp_path, single, text, message):
    path = tmp_path / "students" / "cpr-450k-dirfms-x1-s1" / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"cpr-450k-dirfms-x1-s1/results.json {message}"):
        collect_table(single, tmp_path)


def test_binary_results_are_named(tmp_path, single):
    path = tmp_path / "students" / "cpr-450k-dirfms-x1-s1" / "results.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"x1-s1/results.json is damaged"):
        collect_table(single, tmp_path)


def test_runs_of_different_corpora_raise(tmp_path, single):
    folder = tmp_path / "students" / "cpr-450k-dirfms-x1-s2"
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "devices": DEVICES[:6]}))
    with pytest.raises(ValueError, match=r"teachers/cpr-450k-dirfms-s0.*x1-s2.*one table takes runs of one corpus"):
        collect_table(single, tmp_path)


def test_missing_root_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        collect_table(paper_table(1), tmp_path / "nowhere")


def test_seeds_are_the_plans_else_the_papers(tmp_path):
    assert planned_seeds(tmp_path) == (0, 1, 2)
    (tmp_path / "plan.json").write_text('{"seeds": [4, 7]}')
    assert planned_seeds(tmp_path) == (4, 7)


@pytest.mark.parametrize("text", ["{}", '{"seeds": []}', '{"seeds": ["0"]}', '{"seeds": 3}', '{"seeds'])
def test_plan_without_seeds_raises(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan.json (holds the seeds|is damaged)"):
        planned_seeds(tmp_path)


def test_results_without_complexity_are_taken(tmp_path, single):
    folder = tmp_path / "teachers" / "cpr-450k-dirfms-s1"
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").unlink()
    folder.rmdir()
    write_results(folder, {"last_epochs": results["last_epochs"]})
    runs = collect_table(single, tmp_path).cells[0].runs[TEACHER]
    assert [run.parameters for run in runs.finished] == [427_180, None, 427_180]
