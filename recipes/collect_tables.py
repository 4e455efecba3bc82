"""Writes the paper's tables from finished runs: Markdown, CSV and figures, ours beside the paper's.

python recipes/collect_tables.py --tables 1 2 3 4 --runs runs/paper
"""

from dataclasses import dataclass, field
from pathlib import Path

from hf_ascdistill import collect_table, load_table, parse_recipe, planned_seeds, table_path, write_tables

TABLES = Path(__file__).parent / "tables"


@dataclass
class CollectArguments:
    """Parameters that control which tables are made of which runs."""

    runs: str = field(metadata={"help": "folder that plan.py runs in"})
    tables: list[str] = field(
        default_factory=lambda: ["1", "2", "3", "4"], metadata={"help": "numbers of the paper's tables, or YAML files"}
    )
    output: str | None = field(default=None, metadata={"help": "folder of the tables; unset: RUNS/tables"})
    seeds: list[int] | None = field(default=None, metadata={"help": "unset: those of RUNS/plan.json, else 0 1 2"})
    pictures: bool = field(default=True, metadata={"help": "draw the figures; needs matplotlib"})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(CollectArguments, argv=argv, description=__doc__)
    root = Path(arguments.runs)
    output = Path(arguments.output) if arguments.output else root / "tables"
    seeds = arguments.seeds or planned_seeds(root)
    grids = [load_table(table_path(name, TABLES)) for name in arguments.tables]
    tables = [collect_table(grid, root, seeds=seeds) for grid in grids]
    print(write_tables(tables, output, pictures=arguments.pictures))


if __name__ == "__main__":
    main()
