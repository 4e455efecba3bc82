"""The paper's tables as a plan: every teacher, logits set and student once, in an order that works.

Without --run it prints the commands, with their number, GPU hours and disk. --run executes what is not finished and
can be stopped and started again; --slurm writes array jobs instead. collect_tables.py makes the tables.

python recipes/plan.py --tables 1 2 3 4 --data /data/TAU-urban-acoustic-scenes-2022-mobile-development \
    --impulse_responses /data/micirp --resample_impulse_responses --passt_weights models/passt-s \
    --output_dir runs/tables --run --jobs 4
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hf_ascdistill import (
    Plan,
    PlanSettings,
    SpeedModel,
    load_preset,
    load_table,
    parse_recipe,
    preset_path,
    table_path,
)

RECIPES = Path(__file__).resolve().parent
TABLES = RECIPES / "tables"
SIGNAL_STATUS = 128  # of a shell, plus the signal's number


@dataclass
class PlanArguments:
    """Parameters that control which tables are made, of what, where, and whether they are run."""

    tables: list[str] = field(metadata={"help": "1, 2, 3, 4, or YAML files of tables"})
    output_dir: str = field(metadata={"help": "folder of everything that the plan makes"})
    data: str | None = field(default=None, metadata={"help": "corpus in TAU22's layout, or a store"})
    preset: str = field(default="paper", metadata={"help": "paper, toy, esc10, or a YAML file of a preset"})
    impulse_responses: str | None = field(default=None, metadata={"help": "folder of impulse responses for DIR"})
    resample_impulse_responses: bool = field(default=False, metadata={"help": "resample them to 32 kHz"})
    passt_weights: str | None = field(default=None, metadata={"help": "folder of converted AudioSet weights"})
    run: bool = field(default=False, metadata={"help": "execute the plan"})
    jobs: int | None = field(default=None, metadata={"help": "jobs at a time; unset: one per GPU, or one"})
    gpus: list[str] | None = field(default=None, metadata={"help": "numbers of the GPUs; unset: all visible"})
    slurm: str | None = field(default=None, metadata={"help": "write SLURM scripts into this folder"})
    slurm_options: str = field(
        default="", metadata={"help": "of sbatch: --slurm_options='--partition=gpu --time=8:00:00'"}
    )


def build(arguments: PlanArguments) -> Plan:
    """Builds the plan; paths are kept as they were typed."""
    here = Path.cwd()
    paths = (arguments.data, arguments.impulse_responses, arguments.passt_weights, arguments.output_dir)
    data, responses, weights, root = (None if path is None else os.path.normpath(path) for path in paths)
    settings = PlanSettings(
        root=root,
        preset=load_preset(preset_path(arguments.preset, TABLES / "presets")),
        data=data,
        impulse_responses=responses,
        resample_impulse_responses=arguments.resample_impulse_responses,
        weights={"passt": weights} if weights else {},
    )
    recipes = RECIPES.relative_to(here) if RECIPES.is_relative_to(here) else RECIPES
    return Plan.of([load_table(table_path(name, TABLES)) for name in arguments.tables], settings, recipes=str(recipes))


def main(argv: list[str] | None = None) -> None:
    arguments, speed = parse_recipe(PlanArguments, SpeedModel, argv=argv, description=__doc__)
    plan = build(arguments)
    if arguments.slurm:
        script = plan.write_slurm(arguments.slurm, options=arguments.slurm_options)
        print(f"{plan.summary(speed)}\nsubmit with: bash {script}")
    elif arguments.run:
        outcome = plan.run(jobs=arguments.jobs, gpus=arguments.gpus, speed=speed, report=report)
        print(plan.describe(outcome))
        if outcome.signal is not None or outcome.failed:
            sys.exit(1 if outcome.signal is None else SIGNAL_STATUS + outcome.signal)
        collect = os.path.join(plan.recipes, "collect_tables.py")
        print(f"tables: python {collect} --tables {' '.join(arguments.tables)} --runs {plan.settings.root}")
    else:
        print(f"{plan.commands()}\n\n{plan.summary(speed)}")


def report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
