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
SECONDS, STEPS = 2, 50  # of each case, of each row: all of it is to end within ten minutes


def run(program: str, *arguments: str | Path) -> tuple[str, bool]:
    """Runs a program beside this one; what it prints is seen as it comes.

    Args:
        program (`str`): name of the file.
        arguments (`str | Path`): of its command line.

    Returns:
        `tuple[str, bool]`: what it printed, and whether it ended well.
    """
    command, lines = [sys.executable, "-u", str(FOLDER / program), *map(str, arguments)], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines).strip(), process.returncode == 0


def file_output(heading: str, program: str, *arguments: str | Path, output: Path) -> bool:
    """Runs a program and files what it prints under a heading, also what it printed before it failed.

    Args:
        heading (`str`): of the section.
        program (`str`): name of the file.
        arguments (`str | Path`): of its command line.
        output (`Path`): Markdown file.

    Returns:
        `bool`: whether it ended well; if it failed and printed nothing, the results keep their last section of it.
    """
    text, is_whole = run(program, *arguments)
    words = ["python", f"benchmarks/{program}", *(Path(word).name for word in map(str, arguments))]
    note = "" if is_whole else "\n\nThe program failed: this is what it printed before."
    if text:
        merge_sections(output, f"## {GPU}{heading}\n\n{text}{note}\n\nCommand: `{shlex.join(words)}`\n")
    return is_whole


def main() -> None:
    """Runs the programs in turn, where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hear21passt", type=Path, help="folder with hear21passt and timm, as peers.py leaves it")
    parser.add_argument("--output", type=Path, default=FOLDER / "RESULTS.md", help="Markdown file to write into")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is here that torch can use: nothing was measured, and the results stay as they are.")

    output = arguments.output
    cases = ["--device", "cuda", "--batch_size", BATCH_SIZE, "--seconds", SECONDS, "--output", output]
    _, is_whole = run("bench.py", *cases)
    peer = [] if arguments.hear21passt is None else ["--hear21passt", arguments.hear21passt]
    wholes = [is_whole, file_output("PaSST-S", "passt_step.py", "--device", "cuda", *peer, output=output)]
    resident = "resident_training.py", "--device", "cuda", "--steps", STEPS
    few = [*resident, "--batch_sizes", BATCH_SIZE]
    sections = {
        "resident training": resident,
        "resident training, compiled": [*few, "--torch_compile", "reduce-overhead"],  # CUDA graphs
        "resident training, bf16": [*resident, "--bf16"],
        "resident training, contiguous": [*few, "--contiguous"],
    }
    wholes += [file_output(heading, *command, output=output) for heading, command in sections.items()]
    if not all(wholes):
        raise SystemExit("not all was measured; what was is in the results.")


if __name__ == "__main__":
    main()
