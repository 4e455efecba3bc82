"""Collected tables as Markdown, CSV and one page with figures, written all together or not at all."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..files import written_whole
from .figures import draw_figures, figure_names
from .tables import ENSEMBLE, STUDENT, TEACHER, CollectedTable, Entry

INDEX_NAME = "README.md"
INDEX_TITLE = "# The paper's tables, ours beside the paper's"
CSV_FIELDS = (
    "table",
    "row",
    "column",
    "role",
    "metric",
    "mean",
    "std",
    "runs",
    "expected_runs",
    "paper",
    "difference",
    "mean_share",
    "std_share",
)
METRIC_TITLES = {"accuracy": "Accuracy, all devices", "accuracy_unseen": "Accuracy, unseen devices"}
MEMBERS = "members"
LINES = ("ours", "paper", "difference", TEACHER, ENSEMBLE, MEMBERS)  # of one row of the paper's table


def write_tables(tables: Sequence[CollectedTable], output: str | Path, *, pictures: bool = True) -> str:
    """Writes each table as Markdown and CSV, their figures, and `README.md` with all of it and what is missing.

    The same runs give the same bytes. Nothing is replaced before everything is written.

    Args:
        tables (`Sequence[CollectedTable]`): what [`collect_table`] returns.
        output (`str | Path`): folder of the files.
        pictures (`bool`, *optional*, defaults to `True`): draw the figures; those that can no longer be drawn are
            removed.

    Returns:
        `str`: the students of each table, how much is missing and where everything is, to be printed.

    Raises:
        ValueError: two tables have one name, or another `README.md` is in the folder.
        OSError: the files could not be written, such as on a full disk; those of before are as they were.
        ImportError: figures are wanted and matplotlib is absent.
    """
    output = Path(output)
    check_output(tables, output)
    figures = {}
    for table in tables if pictures else ():
        figures |= draw_figures(table)
    files = {INDEX_NAME: index_text(tables, figures, pictures=pictures).encode(), **figures}
    for table in tables:
        name = table.table.name
        files[f"{name}.csv"] = csv_text(table).encode()
        files[f"{name}.md"] = f"# {heading(table)}\n\n{markdown(table)}\n".encode()
    write_together(files, output)
    left_out = [name for table in tables for name in figure_names(table) if name not in files] if pictures else []
    for name in left_out:
        (output / name).unlink(missing_ok=True)  # of runs that are no longer there
    return brief(tables, output, left_out=left_out)


def check_output(tables: Sequence[CollectedTable], output: Path) -> None:
    """Raises where the files of one table, or of somebody else, would be overwritten."""
    names = [table.table.name for table in tables]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the tables {', '.join(twice)} are named twice; name each once.")
    index = output / INDEX_NAME
    if index.exists() and not index.read_text(encoding="utf-8", errors="replace").startswith(INDEX_TITLE):
        raise ValueError(f"{index} is not of such tables and would be overwritten; choose another --output.")


def write_together(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes files beside those that are there, then renames all of them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for name, content in files.items():  # the index, first here, is renamed last
                stack.enter_context(written_whole(folder / name)).write_bytes(content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the tables could not be written to {folder}: {error.strerror}. The tables of before are still "
            "there; make room or choose another --output, then collect again",
        ) from None


def csv_text(collected: CollectedTable) -> str:
    """Returns a line per accuracy: percent with two digits, and ours as exact shares besides."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for entry in collected.entries():
        writer.writerow(
            {
                "table": collected.table.name,
                **{name: getattr(entry, name) for name in ("row", "column", "role", "metric")},
                "mean": percent(entry.mean),
                "std": percent(entry.std),
                "runs": len(entry.runs.finished),
                "expected_runs": entry.runs.expected,
                "paper": "" if entry.paper is None else f"{entry.paper:.2f}",
                "difference": "" if entry.difference is None else f"{entry.difference:.2f}",
                "mean_share": entry.mean,
                "std_share": entry.std,
            }
        )
    return text.getvalue()


def percent(share: float | None) -> str:
    """Returns a share as percent with two digits, nothing for `None`."""
    return "" if share is None else f"{100 * share:.2f}"


def ours(entry: Entry, *, spread: bool = True) -> str:
    """Returns our accuracy as text that cannot be taken for the mean of all runs while one is missing."""
    if not entry.runs.finished:
        return "missing"
    text = percent(entry.mean) + (f" ± {percent(entry.std)}" if spread and entry.std is not None else "")
    count = f" ({len(entry.runs.finished)} of {entry.runs.expected} runs)"
    return text if entry.runs.is_complete else text + count


def has_teacher_columns(collected: CollectedTable) -> bool:
    """Returns whether the paper's table gives the teachers' accuracies beside the students'."""
    return any(TEACHER in numbers for cell in collected.cells for numbers in cell.cell.paper.values())


def shown(cell: Mapping[str, Entry], role: str) -> Entry:
    """Returns what stands under a column of the paper's table: of several teachers the ensemble."""
    return cell[ENSEMBLE if role == TEACHER and ENSEMBLE in cell else role]


def cell_lines(cell: Mapping[str, Entry], role: str, *, has_teachers: bool) -> dict[str, str]:
    """Returns what a cell shows under one column: name of the line to its text."""
    if not cell:
        return {}
    entry, is_ensemble = shown(cell, role), ENSEMBLE in cell
    lines = {"ours": ours(entry)}
    if entry.paper is not None:
        lines["paper"] = f"{entry.paper:.2f}"
    if entry.difference is not None:
        lines["difference"] = f"{entry.difference:+.2f}"
    if is_ensemble and not has_teachers:
        lines[ENSEMBLE] = ours(cell[ENSEMBLE])
    if is_ensemble and (role == TEACHER or not has_teachers):
        lines[MEMBERS] = ours(cell[TEACHER])
    elif not has_teachers:
        lines[TEACHER] = ours(cell[TEACHER])
    return lines


def best_rows(column: Mapping[str, Entry], name: str) -> set[str]:
    """Returns the rows with the highest accuracy of a column, `ours` or `paper`; none while it is not complete."""
    if name == "ours":
        values = {row: round(100 * e.mean, 2) if e.runs.is_complete else None for row, e in column.items()}
    else:
        values = {row: entry.paper for row, entry in column.items()}
    if len(values) < 2 or None in values.values():
        return set()
    return {row for row, value in values.items() if value == max(values.values())}


def column_lines(collected: CollectedTable, metric: str, *, column: str, role: str) -> dict[str, dict[str, str]]:
    """Returns what stands under one column: row to the name of a line to its text; the best are bold."""
    cells: dict[str, dict[str, Entry]] = {}
    for entry in collected.entries():
        if (entry.metric, entry.column) == (metric, column):
            cells.setdefault(entry.row, {})[entry.role] = entry
    has_teachers = has_teacher_columns(collected)
    texts = {row: cell_lines(cell, role, has_teachers=has_teachers) for row, cell in cells.items()}
    for name in ("ours", "paper"):
        for row in best_rows({row: shown(cell, role) for row, cell in cells.items()}, name):
            texts[row][name] = f"**{texts[row][name]}**"
    return texts


def table_lines(collected: CollectedTable, metric: str) -> list[list[str]]:
    """Returns one metric in the layout of the paper's table: the header, then the lines of each row."""
    has_teachers = has_teacher_columns(collected)
    roles = (TEACHER, STUDENT) if has_teachers else (STUDENT,)
    lanes = [(column, role) for column in collected.table.columns for role in roles]
    texts = [column_lines(collected, metric, column=column, role=role) for column, role in lanes]
    lines = [["", "", *(f"{column} {role}" if has_teachers else column for column, role in lanes)]]
    for row in collected.table.rows:
        cells = [lane.get(row, {}) for lane in texts]
        names = [name for name in LINES if any(name in cell for cell in cells)]
        for name in names:
            lines.append([row if name == names[0] else "", name, *(cell.get(name, "") for cell in cells)])
    return lines


def markdown_table(lines: Sequence[Sequence[str]], *, labels: int = 2) -> str:
    """Returns a Markdown table with padded columns; the first `labels` are aligned left, the others right."""
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(lines[0]))]
    rules = ["-" * width if index < labels else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            text.ljust(width) if index < labels else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in (lines[0], rules, *lines[1:])
    )


def heading(collected: CollectedTable) -> str:
    """Returns `Table 1: ...`, or the title of a table of one's own."""
    table = collected.table
    return f"{re.sub(r'^table(?=[0-9]+$)', 'Table ', table.name)}: {table.title}"


def legend(tables: Sequence[CollectedTable]) -> str:
    """Returns what the numbers are."""
    epochs = sorted({run.metrics["epochs"] for table in tables for run in table.finished if "epochs" in run.metrics})
    last = f"last {' or '.join(map(str, epochs))} epochs" if epochs else "last epochs"
    seeds = ", ".join(map(str, tables[0].seeds))
    lines = [
        "Accuracy in percent on the evaluate list.",
        "",
        f"- *ours*: mean ± standard deviation over the runs with the seeds {seeds}, each the mean of its {last}",
        "- *paper*: Morocutti et al. 2023, *Creating a Good Teacher for Knowledge Distillation in Acoustic Scene "
        "Classification*; *difference*: ours minus the paper's, in points",
    ]
    if any(ENSEMBLE in cell.runs for table in tables for cell in table.cells):
        lines.append(
            "- *ensemble*: the mean of the logits of all teachers of a student; *members*: these teachers one by one, "
            "mean ± standard deviation; both with the weights after the last epoch"
        )
    lines.append("- bold: the best of a column, once all of it is complete; figures show complete cells only")
    return "\n".join(lines)


def markdown(collected: CollectedTable) -> str:
    """Returns a table in the paper's layout, a part for each metric."""
    parts = []
    for metric in collected.table.metrics:
        parts += [f"**{METRIC_TITLES[metric]}**", markdown_table(table_lines(collected, metric))]
    return "\n\n".join(parts)


def missing_lines(collected: CollectedTable) -> Iterator[str]:
    """Yields a line for each cell that is not complete, with the folders that hold no results."""
    for cell in collected.cells:
        if not cell.is_complete:
            folders = ", ".join(f"`{folder}`" for folder in joined_seeds(cell.missing))
            yield f"- {cell.cell.row}, {cell.cell.column}: {folders}"


def joined_seeds(folders: Sequence[str]) -> list[str]:
    """Joins folders that differ in their seed: `students/x-s0`, `students/x-s1` to `students/x-s{0,1}`."""
    seeds: dict[str, list[str]] = {}
    for folder in folders:
        stem, seed = re.fullmatch(r"(.*?)(?:-s([0-9]+))?", folder).groups()
        seeds.setdefault(stem, []).append(seed)
    joined = []
    for stem, found in seeds.items():
        if found == [None]:
            joined.append(stem)
        else:
            joined.append(f"{stem}-s{found[0] if len(found) == 1 else '{' + ','.join(found) + '}'}")
    return joined


def completeness(tables: Sequence[CollectedTable]) -> str:
    """Returns how many cells are complete."""
    cells = [cell for table in tables for cell in table.cells]
    complete = sum(cell.is_complete for cell in cells)
    return f"{complete} of {len(cells)} cells are complete, {len(cells) - complete} missing or incomplete"


def index_text(tables: Sequence[CollectedTable], drawn: Mapping[str, bytes], *, pictures: bool) -> str:
    """Returns the page with all tables, their figures and what is missing."""
    missing = {heading(table): "\n".join(missing_lines(table)) for table in tables}
    missing = {title: lines for title, lines in missing.items() if lines}
    where = " (listed [at the end](#missing))." if missing else "."
    parts = [INDEX_TITLE, legend(tables), f"{completeness(tables)}{where}"]
    left_out = []
    for table in tables:
        name = table.table.name
        parts += [f"## {heading(table)}", markdown(table)]
        for file, caption in figure_names(table).items():
            if file in drawn:
                parts.append(f"![{caption}]({file})")
            elif pictures:
                left_out.append(f"- `{file}`, {caption}")
        parts.append(f"As files: [{name}.md]({name}.md), [{name}.csv]({name}.csv)")
    if missing:
        parts += ["## Missing", "Folders that hold no `results.json` yet."]
        parts += [text for title, lines in missing.items() for text in (f"### {title}", lines)]
    if left_out:
        parts += ["## Figures left out", "None of their cells is complete.", "\n".join(left_out)]
    return "\n\n".join(parts) + "\n"


def brief(tables: Sequence[CollectedTable], output: Path, *, left_out: Sequence[str] = ()) -> str:
    """Returns the students of each table beside the paper's, how much is missing and where everything is."""
    parts = []
    for collected in tables:
        metric = collected.table.metrics[0]
        students = {
            (entry.row, entry.column): ours(entry, spread=False)
            + ("" if entry.paper is None else f" [{entry.paper:.2f}]")
            for entry in collected.entries()
            if entry.role == STUDENT and entry.metric == metric
        }
        columns, rows = collected.table.columns, collected.table.rows
        lines = [["", *columns], *([row, *(students.get((row, column), "") for column in columns)] for row in rows)]
        parts.append(f"{heading(collected)} (students; the paper's in brackets)\n{markdown_table(lines, labels=1)}")
    ending = [completeness(tables), f"tables, figures and what is missing: {output / INDEX_NAME}"]
    if left_out:
        ending.insert(1, f"figures left out, none of their cells is complete: {', '.join(left_out)}")
    return "\n\n".join([*parts, "\n".join(ending)])


__all__ = ["write_tables"]
