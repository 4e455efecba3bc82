"""Compares PaSST with the PyPI package hear21passt: the same random full-size weights, the same logits?

python benchmarks/hear21passt_parity.py [--pip_options "--extra-index-url URL"]

Makes a throw-away virtual environment (about 1 GB, removed in the end), in which pip installs hear21passt, timm,
torchvision and the torch of this environment; hear21passt's network gets random weights there. They then pass through
`load_checkpoint`, as published ones do, and both networks classify the same spectrograms. hear21passt is no
dependency of the project.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch

from hf_ascdistill import load_checkpoint

NETWORK = Path(__file__).with_name("hear21passt_network.py")
TAIL = 2000  # characters of a failed program's last words


def run(*command: str | Path) -> None:
    """Runs a program; its output appears only where it fails.

    Raises:
        RuntimeError: it failed; command and last words are named.
    """
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), env=outside, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stdout + done.stderr)[-TAIL:]
        raise RuntimeError(f"`{shlex.join(map(str, command))}` ended with {done.returncode}:\n{words}")


def reference_logits(folder: Path, *, pip_options: list[str]) -> tuple[Path, dict]:
    """Installs hear21passt below `folder` and has it make weights and logits.

    Args:
        folder (`Path`): empty folder.
        pip_options (`list[str]`): further options of `pip install`, such as an index.

    Returns:
        `tuple[Path, dict]`: file of the weights; inputs, logits and features of each length.
    """
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    same_torch = f"torch=={torch.__version__.partition('+')[0]}"
    install = (python, "-m", "pip", "install", "--no-input", *pip_options)
    print("installing hear21passt, timm, torchvision and torch ...", flush=True)
    run(*install, same_torch, "timm", "torchvision")
    run(*install, "--no-deps", "hear21passt")  # its torchaudio is for the front-end, which is not compared
    run(python, NETWORK, folder)
    return folder / "weights.pt", torch.load(folder / "logits.pt", weights_only=True)


def compare(weights: Path, reference: dict) -> list[str]:
    """Returns a Markdown table of the largest differences of logits and features, for both attentions."""
    model, _ = load_checkpoint(weights)
    titles = "length", "frames", "largest logit", "SDPA, logits", "eager and all tokens, logits", "SDPA, features"
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for length, expected in reference.items():
        differences = {}
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            with torch.no_grad():
                features = model.passt(expected["inputs"]).pooler_output
                # hidden states, where asked for, have the last block compute all tokens, as hear21passt's does
                logits = model(expected["inputs"], output_hidden_states=implementation == "eager").logits
            differences[implementation] = (logits - expected["logits"]).abs().max()
        feature_difference = (features - expected["features"]).abs().max()
        cells = [length, expected["inputs"].shape[2], f"{expected['logits'].abs().max():.2f}"]
        cells += [f"{value:.1e}" for value in (differences["sdpa"], differences["eager"], feature_difference)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    """Installs, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pip_options", default="", help="further options of pip install, in one string")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights, reference = reference_logits(Path(folder), pip_options=shlex.split(arguments.pip_options))
        print("\n".join(compare(weights, reference)))
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
