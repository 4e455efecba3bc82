"""The grid of a table: which student learns from which teachers, and what the paper measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CONVOLUTIONAL_SIZES = ("128k", "450k", "1m", "4m", "8m")
SIZES = {"cpr": CONVOLUTIONAL_SIZES, "cpm": CONVOLUTIONAL_SIZES, "passt": ("s",)}
DEVICE_GENERALIZATIONS = ("none", "dir", "fms", "dirfms")
OWN, ALL = "own", "all"
METRICS = ("accuracy", "accuracy_unseen")
ROLES = ("teacher", "student")
TABLE_FIELDS = ("title", "rows", "columns", "metrics", "cells")
CELL_FIELDS = ("row", "column", "teachers", "runs", "paper")
LARGEST_PERCENTAGE = 100.0


@dataclass(frozen=True, order=True)
class TeacherKind:
    """A teacher without its seed.

    Args:
        architecture (`str`): `cpr` (CP-ResNet), `cpm` (CP-Mobile) or `passt`.
        size (`str`): `128k`, `450k`, `1m`, `4m` or `8m`; of `passt`: `s`.
        device_generalization (`str`): the DG switch of Table 2: `none`, `dir`, `fms` or `dirfms`.

    Raises:
        ValueError: there is no such teacher; what there is, is named.
    """

    architecture: str
    size: str
    device_generalization: str

    def __post_init__(self) -> None:
        sizes = SIZES.get(self.architecture, ())
        if self.size not in sizes or self.device_generalization not in DEVICE_GENERALIZATIONS:
            kinds = ", ".join(f"{name}-{{{'|'.join(sizes)}}}" for name, sizes in SIZES.items())
            raise ValueError(
                f"there is no teacher {self.name!r}; expected ARCHITECTURE-SIZE-DG as cpr-128k-dirfms: {kinds}, "
                f"and DG one of {', '.join(DEVICE_GENERALIZATIONS)}."
            )

    @property
    def name(self) -> str:
        """`str`: as tables and folders spell it, `cpr-128k-dirfms`."""
        return f"{self.architecture}-{self.size}-{self.device_generalization}"

    @classmethod
    def parse(cls, name: str) -> "TeacherKind":
        """Reads `cpr-128k-dirfms`.

        Args:
            name (`str`): architecture, size and device generalisation.

        Raises:
            ValueError: there is no such teacher; what there is, is named.
        """
        parts = name.split("-")
        return cls(*parts) if len(parts) == 3 else cls(name, "?", "?")


@dataclass(frozen=True)
class Cell:
    """A student of a table.

    Args:
        row (`str`): row of the table.
        column (`str`): column of the table.
        teachers (`tuple[TeacherKind, ...]`): kinds that it learns from, in sorted order.
        runs (`str`): `own`: the student of seed i learns from run i of each kind; `all`: every student learns from the
            mean over all runs of all kinds.
        paper (`dict`): metric to `{"teacher": percent, "student": percent}`, without what the paper lacks.
    """

    row: str
    column: str
    teachers: tuple[TeacherKind, ...]
    runs: str
    paper: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of students.

    Args:
        name (`str`): name of its file, without the ending.
        title (`str`): what it shows.
        rows (`tuple[str, ...]`): names of the rows, in order.
        columns (`tuple[str, ...]`): names of the columns, in order.
        metrics (`tuple[str, ...]`): `accuracy`, perhaps `accuracy_unseen`.
        cells (`tuple[Cell, ...]`): the students; where a row and a column have none, the table is blank.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: tuple[Cell, ...]


def student_name(cell: Cell, runs: int = 3) -> str:
    """Names the student of a cell, without its seed: the same teachers give the same name in any table.

    Args:
        cell ([`Cell`]): the student.
        runs (`int`, *optional*, defaults to 3): runs of each teacher kind, the number of seeds.

    Returns:
        `str`: `cpr-128k-dirfms-x1` on its own run, `cpr-128k-dirfms+passt-s-fms-x3` on all runs.
    """
    kinds = "+".join(sorted(kind.name for kind in cell.teachers))
    return f"{kinds}-x{runs if cell.runs == ALL else 1}"


def table_path(name: str, folder: str | Path) -> Path:
    """Returns the file of a table: of its number, or the path itself.

    Args:
        name (`str`): `1` for `table1.yaml`, or the path of a YAML file.
        folder (`str | Path`): where the numbered tables are.
    """
    return Path(folder) / f"table{name}.yaml" if re.fullmatch(r"\d+", name) else Path(name)


def load_table(path: str | Path) -> Table:
    """Reads a table's YAML file.

    Args:
        path (`str | Path`): a mapping of title, rows, columns, metrics and cells; each cell is a mapping of row,
            column, teachers, runs and perhaps paper.

    Returns:
        [`Table`]: the table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, a field is missing, unknown or of another type, a cell lies outside the table or
            twice in one place, or a teacher is unknown. File and cell are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected a table's number or its YAML file.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    fields = _fields(content, TABLE_FIELDS, TABLE_FIELDS, where=str(path))
    if not isinstance(fields["title"], str):
        raise ValueError(f"{path}: title is {fields['title']!r}; expected text.")
    names = {name: _names(fields[name], where=f"{path}: {name}") for name in ("rows", "columns", "metrics")}
    unknown = sorted(set(names["metrics"]) - set(METRICS))
    if unknown:
        raise ValueError(f"{path}: metrics holds {', '.join(unknown)}; expected {' or '.join(METRICS)}.")
    if not isinstance(fields["cells"], list) or not fields["cells"]:
        raise ValueError(f"{path}: cells is {fields['cells']!r}; expected a list with a mapping for each student.")
    cells = tuple(
        _cell(cell, names, where=f"{path}, cell {number}") for number, cell in enumerate(fields["cells"], start=1)
    )
    _check_places(path, cells)
    return Table(path.stem, fields["title"], **names, cells=cells)


def _fields(content: Any, known: Sequence[str], required: Sequence[str], *, where: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {type(content).__name__}; expected a mapping of {', '.join(known)}.")
    unknown = sorted(map(str, content.keys() - set(known)))
    missing = [name for name in required if name not in content]
    if unknown or missing:
        problems = {"unknown field(s)": unknown, "missing field(s)": missing}
        text = "; ".join(f"{problem} {', '.join(names)}" for problem, names in problems.items() if names)
        raise ValueError(f"{where}: {text}; expected {', '.join(known)}.")
    return content


def _names(value: Any, *, where: str) -> tuple[str, ...]:
    """Reads a list of different texts."""
    is_list = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    if not is_list or len(set(value)) < len(value):
        raise ValueError(f"{where} is {value!r}; expected a list of texts, each once (quote numbers).")
    return tuple(value)


def _cell(content: Any, names: Mapping[str, tuple[str, ...]], *, where: str) -> Cell:
    """Reads a cell; its place is part of errors as soon as it is known."""
    fields = _fields(content, CELL_FIELDS, CELL_FIELDS[:-1], where=where)
    where = f"{where} ({fields['row']}, {fields['column']})"
    for place, known in (("row", names["rows"]), ("column", names["columns"])):
        if fields[place] not in known:
            raise ValueError(f"{where}: the table has no {place} {fields[place]!r}; it has {', '.join(known)}.")
    if fields["runs"] not in (OWN, ALL):
        raise ValueError(f"{where}: runs is {fields['runs']!r}; expected {OWN} or {ALL}.")
    kinds = []
    for name in _names(fields["teachers"], where=f"{where}: teachers"):
        try:
            kinds.append(TeacherKind.parse(name))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    paper = _paper(fields.get("paper") or {}, names["metrics"], where=f"{where}: paper")
    return Cell(fields["row"], fields["column"], tuple(sorted(kinds)), fields["runs"], paper)


def _paper(content: Any, metrics: Sequence[str], *, where: str) -> dict[str, dict[str, float]]:
    """Reads the paper's numbers, percent."""
    paper = {}
    for metric, numbers in _fields(content, metrics, (), where=where).items():
        for role, number in _fields(numbers, ROLES, (), where=f"{where}.{metric}").items():
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if not is_number or not 0 <= number <= LARGEST_PERCENTAGE:
                raise ValueError(f"{where}.{metric}.{role} is {number!r}; expected a percentage.")
        paper[metric] = {role: float(number) for role, number in numbers.items()}
    return paper


def _check_places(path: Path, cells: Sequence[Cell]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, cell in enumerate(cells, start=1):
        first = seen.setdefault((cell.row, cell.column), number)
        if first != number:
            raise ValueError(
                f"{path}, cell {number} ({cell.row}, {cell.column}): cell {first} is in the same place; expected one."
            )


__all__ = [
    "ALL",
    "DEVICE_GENERALIZATIONS",
    "METRICS",
    "OWN",
    "SIZES",
    "Cell",
    "Table",
    "TeacherKind",
    "load_table",
    "student_name",
    "table_path",
]
