"""Reads the tab-separated tables of a corpus, meta.csv and the split lists, and refuses rows that cannot be right."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from .index import CROP_SUFFIX, is_repeated

FILENAME, SCENE, IDENTIFIER, DEVICE = "filename", "scene_label", "identifier", "source_label"
FIRST_LINE = 2  # of the rows, below the header
OUTSIDE_THE_CORPUS = r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)"


@dataclass(frozen=True)
class CsvTable:
    """Columns of a table, each a `pa.StringArray` of one value per row, with the path that errors name."""

    path: Path
    columns: dict[str, pa.Array]

    def __getitem__(self, name: str) -> pa.Array:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(self[FILENAME])

    def refuse(self, bad: pa.Array | np.ndarray, problem: str, **values: object) -> None:
        """Raises where a row is bad.

        Args:
            bad (`pa.Array | np.ndarray`): one boolean per row.
            problem (`str`): what is wrong with the first bad row; its fields and `values` are filled in.

        Raises:
            ValueError: a row is bad; file, line and problem are named.
        """
        rows = np.flatnonzero(np.asarray(bad))
        if len(rows):
            fields = {name: column[int(rows[0])].as_py() for name, column in self.columns.items()}
            raise ValueError(f"{self.path}, line {rows[0] + FIRST_LINE}: {problem.format(**fields, **values)}")


def read_table(path: str | Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> CsvTable:
    """Reads a tab-separated table with a header and checks that its rows name different clips inside the corpus.

    Args:
        path (`str | Path`): the file.
        required (`tuple[str, ...]`): columns that must be there; `filename` is one of them.
        optional (`tuple[str, ...]`, *optional*): columns that are read where they are there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or not such a table, a column is missing, a field is empty, a file name is an
            absolute path or holds `..`, or two rows name the same clip.
    """
    path = Path(path)
    wanted = (*required, *optional)
    try:
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter="\t"),
            convert_options=csv.ConvertOptions(column_types={name: pa.string() for name in wanted}),
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing; expected a table with the columns {', '.join(required)}."
        ) from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is empty or not a tab-separated table of UTF-8 text: {error}.") from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the column(s) {', '.join(missing)}: it has {', '.join(table.column_names)}; expected "
            f"{', '.join(required)}, separated by tabs."
        )
    if table.num_rows == 0:
        raise ValueError(f"{path} holds no rows below its header; expected one per clip.")
    there = [name for name in wanted if name in table.column_names]
    result = CsvTable(path, {name: table[name].combine_chunks() for name in there})
    _check_fields(result)
    return result


def _check_fields(table: CsvTable) -> None:
    for name, column in table.columns.items():
        table.refuse(pc.equal(column, ""), "its {field} is empty.", field=name)
    outside = pc.match_substring_regex(table[FILENAME], OUTSIDE_THE_CORPUS)
    table.refuse(outside, "{filename} leads out of the corpus; expected a path below its folder, as audio/NAME.wav.")
    stems = clip_names(table)
    reserved = pc.match_substring_regex(stems, CROP_SUFFIX)
    table.refuse(reserved, "{filename} ends like the name of a shifted crop (+500ms); rename the file.")
    table.refuse(is_repeated(stems), "{filename} has been named in a row above; each clip must stand once.")


def clip_names(table: CsvTable) -> pa.Array:
    """Returns the file names without folders and extension: the `example_id` of each row."""
    return pc.replace_substring_regex(pc.replace_substring_regex(table[FILENAME], r"^.*/", ""), r"\.[^.]*$", "")


__all__ = ["DEVICE", "FILENAME", "IDENTIFIER", "SCENE", "CsvTable", "clip_names", "read_table"]
