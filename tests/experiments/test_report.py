"""Tables are written whole, the same for the same runs, in the paper's layout, with what is missing named."""

import csv
import dataclasses
import errno
from pathlib import Path

import pytest
from finished_plan import paper_table, seed_offset, write_plan

from hf_ascdistill import collect_table, write_tables
from hf_ascdistill.experiments.report import INDEX_TITLE, joined_seeds

STUDENTS_OF_THREE = 0.62


def some_cells(number: int, *places):
    table = paper_table(number)
    return dataclasses.replace(table, cells=tuple(c for c in table.cells if (c.row, c.column) in places))


@pytest.fixture
def tables():
    """Parts of Tables 2 and 3: one student per teacher, and one of three."""
    return (
        some_cells(2, ("DIRFMS", "CPM"), ("DIR", "CPM"), ("DIR", "PaSST")),
        some_cells(3, ("1 teacher", "CPM 128K"), ("3 teachers", "CPM 128K")),
    )


@pytest.fixture
def root(tmp_path, tables):
    """A finished plan: teachers 60 and 55 %, students 63 %, and 62 % where three teach."""
    write_plan(
        tmp_path / "plan",
        tables,
        teacher=lambda kind: 0.60 if kind.device_generalization == "dirfms" else 0.55,
        student=lambda cell: 0.63 if cell.runs == "own" else STUDENTS_OF_THREE,
    )
    return tmp_path / "plan"


def collect(tables, root):
    return [collect_table(table, root) for table in tables]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def lines_of(text: str, start: str) -> list[list[str]]:
    """The cells of a Markdown row and of the lines that belong to it."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    first = next(index for index, row in enumerate(rows) if row[0] == start)
    last = next((index for index in range(first + 1, len(rows)) if rows[index][0] or not rows[index][1]), len(rows))
    return rows[first:last]


def test_markdown_has_the_papers_layout(tmp_path, tables, root):
    write_tables(collect(tables, root), tmp_path, pictures=False)
    text = (tmp_path / "table2.md").read_text()
    assert text.startswith("# Table 2: Teachers by their device generalisation")
    assert lines_of(text, "DIR") == [
        ["DIR", "ours", "", "", "55.00 ± 0.40", "**63.00 ± 0.40**", "55.00 ± 0.40", "63.00 ± 0.40"],
        ["", "paper", "", "", "57.23", "61.57", "61.64", "64.39"],
        ["", "difference", "", "", "-2.23", "+1.43", "-6.64", "-1.39"],
    ]
    assert lines_of(text, "DIRFMS")[0][4] == "**60.00 ± 0.40**"  # the better one of its column
    unseen = text.partition("**Accuracy, unseen devices**")[2]
    assert lines_of(unseen, "DIR")[1][2:] == ["", "", "48.62", "55.54", "57.91", "60.90"]


def test_students_of_ensembles_have_the_ensemble_and_its_members_below(tmp_path, tables, root):
    write_tables(collect(tables, root), tmp_path, pictures=False)
    text = (tmp_path / "table3.md").read_text()
    assert [line[1::3] for line in lines_of(text, "3 teachers")] == [
        ["ours", "62.00 ± 0.40"],
        ["paper", "**63.97**"],
        ["difference", "-1.97"],
        ["ensemble", "62.40"],  # its best member and two points
        ["members", "60.00 ± 0.40"],
    ]
    assert [line[1] for line in lines_of(text, "1 teacher")] == ["ours", "paper", "difference", "teacher"]


def test_every_line_of_a_table_is_equally_wide(tmp_path, tables, root):
    write_tables(collect(tables, root), tmp_path, pictures=False)
    for name in ("table2.md", "table3.md"):
        widths = {len(line) for line in (tmp_path / name).read_text().splitlines() if line[:1] == "|"}
        assert len(widths) == 1


def test_csv_holds_percent_and_exact_shares(tmp_path, tables, root):
    write_tables(collect(tables, root), tmp_path, pictures=False)
    with open(tmp_path / "table2.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2
    assert rows[1] == {
        "table": "table2",
        "row": "DIRFMS",
        "column": "CPM",
        "role": "student",
        "metric": "accuracy",
        "mean": "63.00",
        "std": "0.40",
        "runs": "3",
        "expected_runs": "3",
        "paper": "63.70",
        "difference": "-0.70",
        "mean_share": rows[1]["mean_share"],
        "std_share": rows[1]["std_share"],
    }
    assert float(rows[1]["mean_share"]) == pytest.approx(0.63, abs=1e-12)
    assert float(rows[1]["std_share"]) == pytest.approx(seed_offset(2), abs=1e-12)
    with open(tmp_path / "table3.csv", newline="") as file:
        roles = [row["role"] for row in csv.DictReader(file)]
    assert roles == ["teacher", "student", "teacher", "ensemble", "student"]


def test_a_cell_with_runs_missing_is_marked(tmp_path, tables, root):
    for seed in (0, 2):
        (root / "students" / f"cpm-128k-dir-x1-s{seed}" / "results.json").unlink()
    (root / "teachers" / "passt-s-dir-s1" / "results.json").unlink()
    for seed in range(3):
        (root / "students" / f"passt-s-dir-x1-s{seed}" / "results.json").unlink()
    printed = write_tables(collect(tables, root), tmp_path, pictures=False)
    ours, paper, difference = lines_of((tmp_path / "table2.md").read_text(), "DIR")
    assert ours[5:] == ["63.00 (1 of 3 runs)", "55.00 ± 0.57 (2 of 3 runs)", "missing"]
    assert paper[5:] == ["61.57", "61.64", "64.39"]
    assert difference[4:] == ["-2.23", "", "", ""]
    index = (tmp_path / "README.md").read_text()
    assert "- DIR, CPM: `students/cpm-128k-dir-x1-s{0,2}`\n" in index
    assert "- DIR, PaSST: `teachers/passt-s-dir-s1`, `students/passt-s-dir-x1-s{0,1,2}`\n" in index
    for text in (index, printed):
        assert "3 of 5 cells are complete, 2 missing or incomplete" in text


def test_no_row_is_called_best_while_one_is_missing(tmp_path, tables, root):
    (root / "teachers" / "cpm-128k-dir-s1" / "results.json").unlink()
    write_tables(collect(tables, root), tmp_path, pictures=False)
    text = (tmp_path / "table2.md").read_text().partition("**Accuracy, unseen devices**")[0]
    assert lines_of(text, "DIRFMS")[0][4:6] == ["60.00 ± 0.40", "**63.00 ± 0.40**"]


def test_index_holds_tables_figures_and_nothing_missing(tmp_path, tables, root):
    printed = write_tables(collect(tables, root), tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert index.startswith(INDEX_TITLE) and "## Missing" not in index and "left out" not in index
    assert "the mean of its last 4 epochs" in index and "seeds 0, 1, 2" in index
    for name in ("table2.md", "table2.csv", "table2_devices.png", "table3.md", "table3.csv", "table3_devices.png"):
        assert f"]({name})" in index and (tmp_path / name).is_file()
    assert "5 of 5 cells are complete, 0 missing or incomplete" in printed
    assert str(tmp_path / "README.md") in printed and "63.00 [63.70]" in printed


def test_figures_without_a_complete_cell_are_left_out_and_named(tmp_path, tables, root):
    write_tables(collect(tables, root), tmp_path)
    for path in (root / "students").glob("*-s1/results.json"):
        path.unlink()
    printed = write_tables(collect(tables, root), tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert "- `table2_devices.png`, " in index.partition("## Figures left out")[2]
    assert "figures left out, none of their cells is complete: table2_devices.png, table3_devices.png" in printed
    assert not list(tmp_path.glob("*.png"))  # those of before do not belong to these tables


def test_the_same_runs_give_the_same_bytes(tmp_path, tables, root):
    for output in ("one", "two", "two"):
        write_tables(collect(tables, root), tmp_path / output)
    root.rename(tmp_path / "elsewhere")
    write_tables(collect(tables, tmp_path / "elsewhere"), tmp_path / "three")
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two == three
    assert len(one) == 7 and not any(str(tmp_path).encode() in content for content in one.values())


@pytest.mark.parametrize("full_after", [0, 3])
def test_a_full_disk_keeps_the_tables_of_before(tmp_path, tables, root, monkeypatch, full_after):
    output = tmp_path / "out"
    write_tables(collect(tables, root), output, pictures=False)
    before = contents(output)
    (root / "students" / "cpm-128k-dir-x1-s1" / "results.json").unlink()
    write_bytes, written = Path.write_bytes, []

    def write_until_full(path: Path, content: bytes) -> int:
        if len(written) == full_after:
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(
        OSError, match=r"could not be written to .*out: No space left.*still there; make room"
    ) as error:
        write_tables(collect(tables, root), output)
    assert error.value.errno == errno.ENOSPC and error.value.__suppress_context__
    assert len(written) == full_after and contents(output) == before


def test_a_readme_of_somebody_else_is_kept(tmp_path, tables, root):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(ValueError, match=r"README.md is not of such tables.*another --output"):
        write_tables(collect(tables, root), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "plan"]


def test_a_table_named_twice_raises(tmp_path, tables, root):
    with pytest.raises(ValueError, match="table2 are named twice"):
        write_tables(collect([tables[0], tables[0]], root), tmp_path)


def test_seeds_of_one_run_are_joined():
    folders = ["ensembles/a+b-x3", "students/a-x1-s0", "students/a-x1-s12", "teachers/passt-s-dir-s1"]
    expected = ["ensembles/a+b-x3", "students/a-x1-s{0,12}", "teachers/passt-s-dir-s1"]
    assert joined_seeds(folders) == expected
