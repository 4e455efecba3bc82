"""Loads repositories by their names where the package and all that it brings are absent, and saves them again.

python repositories_job.py OUTPUT.npz CLIPS.npy [--save FOLDER] NAME ...
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "bare_environment.py"


def load_benchmark():
    spec = importlib.util.spec_from_file_location("bare_environment", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_again(name: str, folder: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    AutoModelForAudioClassification.from_pretrained(name, trust_remote_code=True).save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    benchmark = load_benchmark()
    sys.modules.update(dict.fromkeys(benchmark.ABSENT))  # Python takes None for a package that is not there
    found = {}
    for name in arguments.names:
        short = name.rpartition("/")[2]
        if arguments.save:
            save_again(name, arguments.save / short)
        ways = benchmark.all_ways(name, np.load(arguments.clips))
        found |= {f"{short}/{way}": values for way, values in ways.items()}
    np.savez(arguments.output, **found)


if __name__ == "__main__":
    main()
