"""Teachers without and with device generalisation, students alone and distilled, over several seeds: one table.

python recipes/study.py --data prepared/esc10-devices --impulse_responses esc10-devices/ir_bank \
    --output_dir runs/esc10-devices --seeds 0 1 2 --train_with recipes/configs/short.yaml
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hf_ascdistill import draw_device_accuracy, parse_recipe, results_table, summarize_runs

RECIPES = Path(__file__).parent
CONFIGS = RECIPES / "configs"


@dataclass
class StudyArguments:
    """Parameters that control which data the study trains on, how often, and how long."""

    data: str = field(metadata={"help": "a store written by prepare_data.py"})
    output_dir: str = field(metadata={"help": "folder of all runs, logits and the report"})
    impulse_responses: str = field(metadata={"help": "folder of impulse responses for DIR; resampled to 32 kHz"})
    train_with: list[str] = field(metadata={"help": "YAML files on top of those of the paper"})
    crop_hop: float = field(default=0.5, metadata={"help": "seconds between shifted crops"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "one run of everything per seed"})


def run(recipe: str, *arguments: str | Path) -> None:
    """Prints a command and runs it; a finished run is skipped by the recipe itself."""
    command = [sys.executable, str(RECIPES / recipe), *map(str, arguments)]
    print(f"\n$ {shlex.join(['python', *command[1:]])}", flush=True)
    subprocess.run(command, check=True)


def run_seed(arguments: StudyArguments, seed: int) -> dict[str, Path]:
    """Trains two teachers and two students with one seed; returns the folder of each."""
    root = Path(arguments.output_dir)
    common = ["--data", arguments.data, "--seed", seed, "--impulse_responses", arguments.impulse_responses]
    common += ["--resample_impulse_responses", "true", "--crop_hop", arguments.crop_hop]
    teacher = ["--config", CONFIGS / "cpr_128k.yaml", *arguments.train_with]
    student = ["--config", CONFIGS / "student.yaml", *arguments.train_with]
    folders = {
        "teacher CPR 128K, none": root / f"cpr-128k-none-s{seed}",
        "teacher CPR 128K, DIRFMS": root / f"cpr-128k-dirfms-s{seed}",
        "student alone, DIRFMS": root / f"cpm-128k-dirfms-s{seed}",
        "student KD, DIRFMS": root / f"student-cpr-128k-dirfms-s{seed}",
    }
    plain, robust, alone, distilled = folders.values()
    logits = root / "logits" / robust.name
    run("train_teacher.py", *teacher, *common, "--device_generalization", "none", "--output_dir", plain)
    run("train_teacher.py", *teacher, *common, "--output_dir", robust)
    crops = ["--data", arguments.data, "--crop_hop", arguments.crop_hop]
    run("cache_logits.py", *crops, "--model", robust, "--output", logits)
    run("distill.py", *student, *common, "--teacher_logits", logits, "--output_dir", distilled)
    run("train_teacher.py", *student, *common, "--output_dir", alone)
    return folders


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(StudyArguments, argv=argv, description=__doc__)
    folders = [run_seed(arguments, seed) for seed in arguments.seeds]
    root, rows = Path(arguments.output_dir), {}
    for name in folders[0]:
        runs = [json.loads((seed[name] / "results.json").read_text()) for seed in folders]
        summary = summarize_runs([results["last_epochs"] for results in runs])
        means = {metric: values["mean"] for metric, values in summary.items()}
        spread = {metric: values["std"] for metric, values in summary.items()}
        rows[name] = {**runs[0], "run": name, "last_epochs": means, "spread": spread}
    table = results_table(rows)
    (root / "report.md").write_text(f"# {root.name}: {len(folders)} seeds\n\n{table}\n\n![devices](devices.png)\n")
    names = {"devices": runs[0]["devices"], "groups": runs[0]["groups"]}
    draw_device_accuracy(list(rows.values()), root / "devices.png", **names)
    print(f"\n{table}\n\nreport: {root / 'report.md'}")


if __name__ == "__main__":
    main()
