"""The main job in minutes, on a corpus that it makes itself: teacher, logits, student with and without distillation.

python recipes/demo.py --output_dir runs/demo
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hf_ascdistill import parse_recipe, write_report, write_synthetic_corpus

RECIPES = Path(__file__).parent
CONFIGS = RECIPES / "configs"


@dataclass
class DemoArguments:
    """Parameters that control where the demo works and how long it trains."""

    output_dir: str = field(default="runs/demo", metadata={"help": "folder of everything that the demo makes"})
    num_train_epochs: int | None = field(default=None, metadata={"help": "epochs; unset: those of demo.yaml"})
    seed: int = field(default=0, metadata={"help": "seed of the corpus and of every training"})


def run(recipe: str, *arguments: str | Path) -> None:
    """Prints a command and runs it; what it prints is seen as it comes."""
    command = [sys.executable, str(RECIPES / recipe), *map(str, arguments)]
    print(f"\n$ {shlex.join(['python', *command[1:]])}", flush=True)
    subprocess.run(command, check=True)


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(DemoArguments, argv=argv, description=__doc__)
    root = Path(arguments.output_dir)
    corpus, store, logits = root / "corpus", root / "prepared", root / "logits"
    teacher, distilled, alone = root / "teacher", root / "student-kd", root / "student-alone"
    write_synthetic_corpus(corpus, seed=arguments.seed)
    run("prepare_data.py", "--data", corpus, "--output", store)

    crops = ["--data", store, "--crop_hop", 0.5]
    common = [*crops, "--seed", arguments.seed]
    if arguments.num_train_epochs is not None:
        common += ["--num_train_epochs", arguments.num_train_epochs]
    teacher_config = ["--config", CONFIGS / "cpr_128k.yaml", CONFIGS / "demo.yaml"]
    student_config = ["--config", CONFIGS / "student.yaml", CONFIGS / "demo.yaml"]
    run("train_teacher.py", *teacher_config, *common, "--output_dir", teacher)
    run("cache_logits.py", *crops, "--model", teacher, "--output", logits)
    run("distill.py", *student_config, *common, "--teacher_logits", logits, "--output_dir", distilled)
    run("train_teacher.py", *student_config, *common, "--output_dir", alone)

    rows = {"teacher CP-ResNet": teacher, "student with KD": distilled, "student without KD": alone}
    results = {name: json.loads((folder / "results.json").read_text()) for name, folder in rows.items()}
    print("\n" + write_report(results, root))


if __name__ == "__main__":
    main()
