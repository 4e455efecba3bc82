"""Runs every benchmark of a GPU and files its tables in the results, each under its own heading.

python benchmarks/gpu.py [--hear21passt FOLDER] [--output benchmarks/RESULTS.md]

`make bench-gpu` does so with hear21passt. It needs torch, transformers and accelerate alone; without --hear21passt
PaSST-S is timed by itself. Sections that other programs gave stay as they are.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from report import GPU, merge_sections

FOLDER = Path(__file__).parent
BATCH_SIZE = 256


def file_output(heading: str, *command: str | Path, output: Path) -> None:
    """Runs one of the programs beside this one, shows what it prints, and files that under a heading.

    Args:
        heading (`str`): of the section.
        command (`str | Path`): name of the program and its arguments.
        output (`Path`): Markdown file.

    Raises:
        subprocess.CalledProcessError: the program failed; the results keep their last section of it.
    """
    program, *rest = map(str, command)
    done = subprocess.run([sys.executable, FOLDER / program, *rest], stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, flush=True)
    shown = shlex.join(["python", f"benchmarks/{program}", *(Path(word).name for word in rest)])
    merge_sections(output, f"## {GPU}{heading}\n\n{done.stdout.strip()}\n\nCommand: `{shown}`\n")


def main() -> None:
    """Runs the programs in turn, where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hear21passt", type=Path, help="folder with hear21passt and timm, as peers.py leaves it")
    parser.add_argument("--output", type=Path, default=FOLDER / "RESULTS.md", help="Markdown file to write into")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is here that torch can use: nothing was measured, and the results stay as they are.")

    cases = ["--device", "cuda", "--batch_size", str(BATCH_SIZE), "--output", arguments.output]
    subprocess.run([sys.executable, FOLDER / "bench.py", *cases], check=True)
    peer = [] if arguments.hear21passt is None else ["--hear21passt", arguments.hear21passt]
    file_output("PaSST-S", "passt_step.py", "--device", "cuda", *peer, output=arguments.output)
    resident = "resident_training.py", "--device", "cuda"
    file_output("resident training", *resident, output=arguments.output)
    file_output("resident training, bf16", *resident, "--bf16", output=arguments.output)
    few = [*resident, "--batch_sizes", str(BATCH_SIZE)]
    file_output("resident training, contiguous", *few, "--contiguous", output=arguments.output)
    compiled = [*few, "--torch_compile", "reduce-overhead"]  # CUDA graphs
    file_output("resident training, compiled", *compiled, output=arguments.output)


if __name__ == "__main__":
    main()
