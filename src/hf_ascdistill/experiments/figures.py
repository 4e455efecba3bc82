"""Figures of the paper's tables: accuracy against teacher size, students per device, students of ensembles."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from ..pictures import require_matplotlib
from .tables import ENSEMBLE, STUDENT, TEACHER, CollectedCell, CollectedTable, Entry, RunResult, Runs

ARCHITECTURES = {"cpr": "CPR", "cpm": "CPM", "passt": "PaSST"}
COLOURS = {"cpr": "#2a6f97", "cpm": "#e07a5f", "passt": "#4c956c"}
BAR_COLOURS = (  # of a bar, and of the number in it
    ("#2a6f97", "white"),
    ("#e07a5f", "black"),
    ("#4c956c", "white"),
    ("#e9b44c", "black"),
    ("#a5afc0", "black"),
    ("#85568a", "white"),
)
MARKERS, DASHES = {TEACHER: "s", STUDENT: "o"}, {TEACHER: "--", STUDENT: "-"}
# parameters of the paper's networks: 32, 56, 88, 168, 232 (CPR) and 32, 64, 96, 184, 264 (CPM) base channels
PARAMETERS = {
    "cpr": {"128k": 127_684, "450k": 427_180, "1m": 1_098_892, "4m": 4_140_092, "8m": 7_973_884},
    "cpm": {"128k": 126_952, "450k": 481_200, "1m": 1_109_512, "4m": 3_957_850, "8m": 8_093_254},
    "passt": {"s": 85_358_612},
}
ACCURACY, DPI = "accuracy", 130
DEVICE_INCHES = 0.95  # width of a device's place
WIDEST_BAR = 0.3  # share of that place
LABEL_HEIGHT = 0.18  # share of a part's height that a number takes


def figure_names(collected: CollectedTable) -> dict[str, str]:
    """Names the figures that a table has once its runs are finished.

    Args:
        collected ([`CollectedTable`]): what [`collect_table`] returns.

    Returns:
        `dict[str, str]`: file name to caption.
    """
    name, names = collected.table.name, {}
    if shows_sizes(collected):
        names[f"{name}_sizes.png"] = "accuracy of teachers and students against the size of the teacher"
    if shows_ensembles(collected):
        names[f"{name}_ensembles.png"] = "accuracy of the students of ensembles, ours and the paper's"
    return names | {f"{name}_devices.png": "accuracy of the students per device"}


def shows_sizes(collected: CollectedTable) -> bool:
    """Returns whether a table compares single teachers of one architecture and different sizes."""
    kinds = [cell.cell.teachers for cell in collected.cells]
    is_single = all(len(teachers) == 1 for teachers in kinds) and not any(
        ENSEMBLE in cell.runs for cell in collected.cells
    )
    sizes = {(cell.cell.column, cell.cell.teachers[0].size) for cell in collected.cells}
    return is_single and len(sizes) > len(collected.table.columns)


def shows_ensembles(collected: CollectedTable) -> bool:
    """Returns whether a table compares ensembles in two directions."""
    table = collected.table
    return all(ENSEMBLE in cell.runs for cell in collected.cells) and min(len(table.rows), len(table.columns)) > 1


def draw_figures(collected: CollectedTable) -> dict[str, bytes]:
    """Draws the figures of a table, without those of which no cell is complete.

    Args:
        collected ([`CollectedTable`]): what [`collect_table`] returns.

    Returns:
        `dict[str, bytes]`: file name to the picture, png.

    Raises:
        ImportError: matplotlib is absent.
    """
    require_matplotlib()
    draw = {"sizes": draw_teacher_sizes, "ensembles": draw_ensemble_map, "devices": draw_student_devices}
    pictures = {}
    for name in figure_names(collected):
        picture = io.BytesIO()
        if draw[name.removesuffix(".png").rpartition("_")[2]](collected, picture):
            pictures[name] = picture.getvalue()
    return pictures


def draw_teacher_sizes(collected: CollectedTable, path: str | Path | BinaryIO) -> bool:
    """Draws the accuracy of teachers (dashed) and their students (solid) against the teachers' parameters.

    Ours is filled with the standard deviation over runs as bars, the paper's is hollow (Table 1).

    Args:
        collected ([`CollectedTable`]): a table of single teachers.
        path (`str | Path | BinaryIO`): the picture, png.

    Returns:
        `bool`: whether it was drawn; a table without a complete cell is not.
    """
    entries = [entry for entry in collected.entries() if entry.metric == ACCURACY]
    if not any(entry.runs.is_complete for entry in entries):
        return False
    pyplot = require_matplotlib()
    cells = {(cell.cell.row, cell.cell.column): cell for cell in collected.cells}
    figure, axes = pyplot.subplots(figsize=(8.6, 4.6), layout="constrained")
    for column in collected.table.columns:
        for role in (TEACHER, STUDENT):
            line = [entry for entry in entries if (entry.column, entry.role) == (column, role)]
            _draw_size_line(axes, [(cells[entry.row, column], entry) for entry in line], role)
    axes.set(xscale="log", xlabel="parameters of the teacher", ylabel="accuracy on the evaluate list (%)")
    axes.margins(0.06, 0.08)
    _name_powers(axes)
    axes.grid(alpha=0.3)
    architectures = dict.fromkeys(cell.cell.teachers[0].architecture for cell in collected.cells)
    figure.legend(
        handles=_size_handles(list(architectures)), loc="outside right upper", frameon=False, handlelength=3.6
    )
    _save(figure, path)
    return True


def _draw_size_line(axes, points: Sequence[tuple[CollectedCell, Entry]], role: str) -> None:
    """Draws one architecture's teachers or students: the paper's behind ours."""
    placed = sorted(((known_parameters(cell), entry.paper) for cell, entry in points if entry.paper is not None))
    colour = COLOURS[points[0][0].cell.teachers[0].architecture]
    style = {"color": colour, "marker": MARKERS[role], "linestyle": DASHES[role]}
    if placed:
        axes.plot(*zip(*placed, strict=True), **style, markersize=8, markerfacecolor="none", linewidth=0.8, alpha=0.55)
    if any(entry.runs.is_complete for _, entry in points):  # a gap in the line where one is not
        ours = sorted((own_parameters(cell), *_percent(entry.runs, ACCURACY)) for cell, entry in points)
        sizes, means, deviations = zip(*ours, strict=True)
        axes.errorbar(sizes, means, yerr=deviations, **style, markersize=5, linewidth=1.7, elinewidth=1, capsize=3)


def _percent(runs: Runs, metric: str) -> tuple[float, float]:
    """Returns mean and standard deviation in percent, not a number while a run is missing."""
    mean, deviation = runs.summary(metric)
    if not runs.is_complete or mean is None:
        return math.nan, math.nan
    return 100 * mean, 100 * (deviation or 0)


def known_parameters(cell: CollectedCell) -> int:
    """Returns the parameters of the paper's teacher."""
    kind = cell.cell.teachers[0]
    return PARAMETERS[kind.architecture][kind.size]


def own_parameters(cell: CollectedCell) -> int:
    """Returns the parameters of our teacher, which differ from the paper's where a plan shrinks the models."""
    found = [run.parameters for run in cell.runs[TEACHER].finished if run.parameters is not None]
    return found[0] if found else known_parameters(cell)


def _name_powers(axes) -> None:
    """Names 100K, 200K, 500K, 1M ... on a logarithmic axis."""
    from matplotlib import ticker

    def name(value: float, _) -> str:
        unit, letter = (1e6, "M") if value >= 1e6 else (1e3, "K")
        return f"{value / unit:g}{letter}"

    low, high = axes.get_xlim()
    is_wide = math.log10(high / low) > 2
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0) if is_wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(name)
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _size_handles(architectures: Sequence[str]) -> list:
    from matplotlib.lines import Line2D

    black = {"color": "#333333"}
    return [
        *(Line2D([], [], color=COLOURS[name], linewidth=3, label=ARCHITECTURES[name]) for name in architectures),
        Line2D([], [], **black, linestyle=DASHES[TEACHER], marker=MARKERS[TEACHER], markersize=5, label="teacher"),
        Line2D([], [], **black, linestyle=DASHES[STUDENT], marker=MARKERS[STUDENT], markersize=5, label="student"),
        Line2D([], [], **black, linestyle="", marker="o", markersize=5, label="ours"),
        Line2D([], [], **black, linestyle="", marker="o", markersize=8, markerfacecolor="none", label="paper"),
    ]


def draw_student_devices(collected: CollectedTable, path: str | Path | BinaryIO) -> bool:
    """Draws the students' accuracy per device: a part for each column of the table, a bar for each row.

    Args:
        collected ([`CollectedTable`]): any table.
        path (`str | Path | BinaryIO`): the picture, png.

    Returns:
        `bool`: whether it was drawn; a table without a complete student is not.
    """
    students = {(cell.cell.row, cell.cell.column): cell.runs[STUDENT] for cell in collected.cells}
    students = {place: runs for place, runs in students.items() if runs.is_complete}
    columns = [column for column in collected.table.columns if any(place[1] == column for place in students)]
    rows = [row for row in collected.table.rows if any(place[0] == row for place in students)]
    finished = [run for runs in students.values() for run in runs.finished]
    devices = _common_devices(finished)
    if not devices:
        return False
    pyplot = require_matplotlib()
    highest = max(sum(_percent(runs, f"accuracy_{device}")) for runs in students.values() for device in devices)
    top = min(100, 10 * math.ceil(0.102 * highest + 0.01))
    size = (1.6 + DEVICE_INCHES * len(devices), 0.9 + 2.0 * len(columns))
    figure, parts = pyplot.subplots(
        len(columns), figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axes, column in zip(parts[:, 0], columns, strict=True):
        part = {row: students.get((row, column)) for row in rows}
        _draw_device_part(axes, part, devices=devices, top=top)
        axes.set_title(column, fontsize=10, loc="left")
    group_of = {device: group for group, members in finished[0].groups.items() for device in members}
    axes.set_xticks(range(len(devices)), [f"{device}\n{group_of.get(device, '')}" for device in devices])
    axes.set(ylim=(0, top), xlim=(-0.6, len(devices) - 0.4))
    figure.supylabel("accuracy of the student (%)", fontsize=10)
    if len(rows) > 1:
        _device_legend(figure, rows)
    _save(figure, path)
    return True


def _common_devices(finished: Sequence[RunResult]) -> list[str]:
    """Returns the devices that every run was evaluated on."""
    devices = finished[0].devices if finished else ()
    return [device for device in devices if all(f"accuracy_{device}" in run.metrics for run in finished)]


def _draw_device_part(axes, students: Mapping[str, Runs | None], *, devices: Sequence[str], top: float) -> None:
    """Draws one column of a table; rows without a complete student there take no room."""
    present = {row: runs for row, runs in students.items() if runs is not None}
    width = min(0.86 / len(present), WIDEST_BAR)
    for index, (row, runs) in enumerate(present.items()):
        heights, errors = zip(*(_percent(runs, f"accuracy_{device}") for device in devices), strict=True)
        places = [place + (index - (len(present) - 1) / 2) * width for place in range(len(devices))]
        colour, ink = BAR_COLOURS[list(students).index(row) % len(BAR_COLOURS)]
        axes.bar(places, heights, width * 0.94, yerr=errors, color=colour, error_kw={"elinewidth": 0.8})
        for place, height in zip(places, heights, strict=True):
            inside = height > LABEL_HEIGHT * top
            style = {"ha": "center", "fontsize": 7, "rotation": 90, "color": ink if inside else "black"}
            axes.annotate(f"{height:.1f}", (place, 0), xytext=(0, 4), textcoords="offset points", **style)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _device_legend(figure, rows: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=BAR_COLOURS[index % len(BAR_COLOURS)][0], label=row) for index, row in enumerate(rows)]
    figure.legend(handles=handles, loc="outside upper center", frameon=False, fontsize=9, ncols=min(6, len(rows)))


def draw_ensemble_map(collected: CollectedTable, path: str | Path | BinaryIO) -> bool:
    """Draws the students' accuracy over rows and columns of a table, ours beside the paper's (Table 4).

    Each side has its own colours from its least to its highest accuracy, since the pattern is what compares.

    Args:
        collected ([`CollectedTable`]): a table of ensembles.
        path (`str | Path | BinaryIO`): the picture, png.

    Returns:
        `bool`: whether it was drawn; a table without a complete student is not.
    """
    entries = [entry for entry in collected.entries() if (entry.metric, entry.role) == (ACCURACY, STUDENT)]
    ours = {(e.row, e.column): 100 * e.mean for e in entries if e.runs.is_complete}
    paper = {(e.row, e.column): e.paper for e in entries if e.paper is not None}
    if not ours:
        return False
    sides = {"ours": ours, "paper": paper} if paper else {"ours": ours}
    rows, columns = collected.table.rows, collected.table.columns
    pyplot = require_matplotlib()
    size = (1.9 + len(sides) * (0.72 * len(columns) + 0.5), 1.5 + 0.5 * len(rows))
    figure, parts = pyplot.subplots(1, len(sides), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, (title, values) in zip(parts[0], sides.items(), strict=True):
        _draw_map(axes, values, rows, columns)
        axes.set_title(f"{title}, {min(values.values()):.2f} to {max(values.values()):.2f} %", fontsize=10)
    for entry in entries:
        if (entry.row, entry.column) not in ours:
            text = f"{len(entry.runs.finished)} of\n{entry.runs.expected} runs"
            place = (columns.index(entry.column), rows.index(entry.row))
            parts[0, 0].text(*place, text, ha="center", va="center", fontsize=7, color="#8d99ae")
    _save(figure, path)
    return True


def _draw_map(axes, values: Mapping[tuple[str, str], float], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draws accuracies as coloured and annotated cells; what `values` lacks stays blank."""
    grid = [[values.get((row, column), math.nan) for column in columns] for row in rows]
    image = axes.imshow(grid, cmap="YlGnBu", aspect="auto")
    low, high = image.get_clim()
    for line, row in enumerate(grid):
        for place, value in enumerate(row):
            if not math.isnan(value):
                colour = "white" if value > low + 0.6 * (high - low) else "black"
                axes.text(place, line, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), [column.replace(" + ", "\n+ ") for column in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _save(figure, path: str | Path | BinaryIO) -> None:
    """Saves a figure as bytes that depend on nothing but the figure, and closes it."""
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})
    require_matplotlib().close(figure)


__all__ = ["draw_ensemble_map", "draw_figures", "draw_student_devices", "draw_teacher_sizes", "figure_names"]
