"""Whether the fast paths change what a run learns: the same toy runs fast and plain, beside what another seed changes.

python benchmarks/fast_and_plain.py --output_dir runs/fast-and-plain
"""

import argparse
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SEEDS = range(8)
METRICS = ("accuracy", "accuracy_unseen", "log_loss")
FAST = ("--data_placement", "ram")
PLAIN = (
    *("--data_placement", "disk", "--native_kernels", "false", "--channels_last", "false"),
    *("--fused_adam", "false", "--flush_denormals", "false"),
)


def run(recipe: str, *arguments: str | Path) -> None:
    """Runs a recipe; a finished run is skipped by the recipe itself."""
    subprocess.run([sys.executable, str(RECIPES / recipe), *map(str, arguments)], check=True)


def train(store: Path, folder: Path, *flags: str) -> dict[str, float]:
    """Trains the student alone for a few epochs; returns its metrics, means over the last epochs."""
    config = RECIPES / "configs" / "student.yaml"
    length = ("--num_train_epochs", "8", "--per_device_train_batch_size", "64", "--learning_rate", "3e-3")
    settings = ("--use_cpu", "true", "--disable_tqdm", "true", "--pictures", "false")
    run("train_teacher.py", "--config", config, "--data", store, "--output_dir", folder, *length, *settings, *flags)
    return json.loads((folder / "results.json").read_text())["last_epochs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the corpus and the runs")
    root = parser.parse_args().output_dir
    corpus, store = root / "corpus", root / "store"
    if not corpus.exists():
        run("synthetic_corpus.py", "--output", corpus)
    run("prepare_data.py", "--data", corpus, "--output", store)
    fast, plain = (
        [train(store, root / f"{name}-s{seed}", *flags, "--seed", str(seed)) for seed in SEEDS]
        for name, flags in (("fast", FAST), ("plain", PLAIN))
    )

    print("\n| metric | fast, mean | plain, mean | fast - plain, standard error | largest between plain seeds |")
    print("|---|---|---|---|---|")
    for name in METRICS:
        ours, others = ([run[name] for run in runs] for runs in (fast, plain))
        differences = [own - other for own, other in zip(ours, others, strict=True)]
        error = stdev(differences) / len(SEEDS) ** 0.5
        spread = max(abs(one - other) for one, other in combinations(others, 2))
        change = f"{mean(differences):+.4f}, {error:.4f}"
        print(f"| {name} | {mean(ours):.4f} | {mean(others):.4f} | {change} | {spread:.4f} |")
    print(f"\nruns: {root}")


if __name__ == "__main__":
    main()
