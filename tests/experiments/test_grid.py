"""The tables' YAML files: what they hold, and what is refused."""

from pathlib import Path

import pytest
import yaml

from hf_ascdistill.experiments.grid import SIZES, TeacherKind, load_table, student_name, table_path

TABLES = Path(__file__).resolve().parents[2] / "recipes" / "tables"
CELL = {"row": "r", "column": "c", "teachers": ["cpr-128k-dirfms"], "runs": "own"}
TABLE = {"title": "t", "rows": ["r"], "columns": ["c"], "metrics": ["accuracy"], "cells": [CELL]}


@pytest.fixture
def load(tmp_path):
    """Loads a table with some changes to a valid one; `cell` changes its only cell."""

    def build(cell=None, **changes):
        content = {**TABLE, "cells": [{**CELL, **(cell or {})}], **changes}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_table(path)

    return build


def paper_tables():
    return [load_table(table_path(str(number), TABLES)) for number in (1, 2, 3, 4)]


def test_paper_has_22_kinds_of_teachers_and_49_students():
    cells = [cell for table in paper_tables() for cell in table.cells]
    assert len({kind for cell in cells for kind in cell.teachers}) == 22
    assert [len(table.cells) for table in paper_tables()] == [11, 12, 10, 27]
    assert len({student_name(cell) for cell in cells}) == 11 + 9 + 5 + 24


def test_tables_agree_on_the_students_that_they_share():
    numbers = {}
    for cell in [cell for table in paper_tables() for cell in table.cells]:
        for role, number in cell.paper["accuracy"].items():
            assert numbers.setdefault((student_name(cell), role), number) == number, student_name(cell)


@pytest.mark.parametrize(
    ("table", "row", "column", "expected"),
    [
        ("1", "8M", "CPM", {"accuracy": {"teacher": 64.62, "student": 62.83}}),
        ("1", "85M", "PaSST", {"accuracy": {"teacher": 62.20, "student": 64.65}}),
        ("3", "3 teachers", "CPM 450K", {"accuracy": {"student": 62.77}}),
        ("4", "DIRFMS + FMS", "CPR + PaSST", {"accuracy": {"student": 65.81}}),
        ("4", "DIRFMS + DIR + FMS", "CPR + CPM", {"accuracy": {"student": 64.03}}),
    ],
)
def test_paper_numbers_stand_in_their_cells(table, row, column, expected):
    cells = {(cell.row, cell.column): cell for cell in load_table(table_path(table, TABLES)).cells}
    assert cells[row, column].paper == expected


def test_table_2_holds_unseen_accuracy_of_teachers_without_device_generalisation():
    cells = {(cell.row, cell.column): cell for cell in load_table(TABLES / "table2.yaml").cells}
    assert cells["no DG", "CPM"].teachers == (TeacherKind("cpm", "128k", "none"),)
    assert cells["no DG", "CPM"].paper["accuracy_unseen"] == {"teacher": 43.94, "student": 56.21}


def test_table_4_ensembles_every_architecture_with_every_dg_of_its_row():
    for cell in load_table(TABLES / "table4.yaml").cells:
        dgs = set(cell.row.lower().split(" + "))
        architectures = {{"CPR": "cpr", "CPM": "cpm", "PaSST": "passt"}[name] for name in cell.column.split(" + ")}
        expected = {(architecture, dg) for architecture in architectures for dg in dgs}
        assert {(kind.architecture, kind.device_generalization) for kind in cell.teachers} == expected
        assert {kind.size for kind in cell.teachers} <= {"128k", "s"}


def test_every_table_of_the_recipes_loads():
    for path in TABLES.glob("*.yaml"):
        assert load_table(path).cells, path


def test_kind_survives_its_name():
    for architecture, sizes in SIZES.items():
        for size in sizes:
            kind = TeacherKind(architecture, size, "fms")
            assert TeacherKind.parse(kind.name) == kind


def test_student_is_named_after_its_sorted_teachers_and_their_runs(load):
    table = load({"teachers": ["passt-s-fms", "cpr-128k-dirfms"], "runs": "all"})
    assert student_name(table.cells[0], 3) == "cpr-128k-dirfms+passt-s-fms-x3"
    assert student_name(load().cells[0], 3) == "cpr-128k-dirfms-x1"


@pytest.mark.parametrize(
    "name", ["cpr-128k", "cpr-2m-dirfms", "cpx-128k-dirfms", "passt-128k-dir", "cpr-128k-DIR", "", "cpr-128k-dir-s0"]
)
def test_unknown_teacher_is_named_with_its_file_cell_and_what_is_allowed(load, name):
    with pytest.raises(ValueError) as error:
        load({"teachers": [name]} if name else {"teachers": ["x"]})
    for part in ("mine.yaml, cell 1 (r, c)", name or "x", "128k|450k|1m|4m|8m", "passt-{s}", "none, dir, fms, dirfms"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"row": "x"}, r"cell 1 \(x, c\): the table has no row 'x'; it has r"),
        ({"column": "x"}, "no column 'x'"),
        ({"runs": "each"}, "runs is 'each'; expected own or all"),
        ({"teachers": []}, "teachers is .*; expected a list"),
        ({"teachers": "cpr-128k-dir"}, "teachers is .*; expected a list"),
        ({"teachers": ["cpr-128k-dir", "cpr-128k-dir"]}, "each once"),
        ({"paper": {"accuracy": {"students": 1}}}, r"unknown field\(s\) students"),
        ({"paper": {"accuracy": {"student": 6394}}}, "student is 6394; expected a percentage"),
        ({"paper": {"accuracy": {"student": "63.9 %"}}}, "expected a percentage"),
        ({"paper": {"accuracy_unseen": {"student": 60}}}, r"unknown field\(s\) accuracy_unseen"),
        ({"seeds": 3}, r"unknown field\(s\) seeds"),
    ],
)
def test_wrong_cell_is_refused_with_its_place(load, cell, message):
    with pytest.raises(ValueError, match=message) as error:
        load(cell)
    assert "mine.yaml, cell 1" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": [CELL, CELL]}, r"cell 2 \(r, c\): cell 1 is in the same place"),
        ({"cells": []}, "cells is"),
        ({"cells": ["x"]}, "cell 1 holds str"),
        ({"rows": ["r", "r"]}, "rows is .* each once"),
        ({"rows": [1]}, "quote numbers"),
        ({"columns": "c"}, "columns is 'c'"),
        ({"metrics": ["loss"]}, "metrics holds loss; expected accuracy or accuracy_unseen"),
        ({"title": 1}, "title is 1"),
        ({"note": "x"}, r"unknown field\(s\) note"),
    ],
)
def test_wrong_table_is_refused(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load(**changes)


def test_missing_field_is_named(tmp_path):
    (tmp_path / "t.yaml").write_text("title: t\n")
    with pytest.raises(ValueError, match=r"missing field\(s\) rows, columns, metrics, cells"):
        load_table(tmp_path / "t.yaml")


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\udcff"])
def test_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"t\.yaml"):
        load_table(tmp_path / "t.yaml")


def test_absent_table_is_named():
    with pytest.raises(FileNotFoundError, match=r"table9\.yaml"):
        load_table(table_path("9", TABLES))
