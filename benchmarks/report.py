"""Writes the results as Markdown: one table a section, with the machine, the versions and the command."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib import metadata

import torch
from timing import Result

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy", "scipy", "soundfile", "soxr")
HEADER = """| work | clips/s | ms a clip | plain, ms | times plain (quartiles) | peer, ms | times peer |
|---|---|---|---|---|---|---|"""
TARGET = 2.0  # whole training step against plain torch
INTRODUCTION = """\
How fast the package works, against plain torch doing the same work in the same run: `plain.py`, a pipeline written for
this comparison the usual way (scipy, `torch.stft`, one clip after the other where that is usual, a mel bank per batch
in training and one for all in evaluation, contiguous memory, Adam as torch gives it by default). The network
is the package's on both sides, so what its own forward pass saves is in neither figure. Before a case is timed, both
ways must give the same numbers, else the run stops.

Times are medians over repetitions in turn, ours, plain, ours, plain, so that the drift of a shared machine cancels.
"Times plain" is the median of plain / ours of neighbouring repetitions, with its quartiles; above 1, ours is faster.

"Peer" is the pipeline of the paper's authors on **another machine**, 2 cores of a 2.8 GHz Xeon with torch 2.13; its
figures are quoted, not measured here, and "times peer" mixes both machines with both programs. A sum of two peer
figures is one for the item of the dataset (reading, DIR, roll) and one for the rest. The peer's evaluation of
CP-Mobile ran its published weights, whose denormal numbers slow it on a CPU; a converted checkpoint has none.

The front-end has the student's settings: DIR of 60 % of the clips, roll, mel with jitter, frequency mask; and
Freq-MixStyle on every batch, so that every repetition does the same work.
"""
NOT_MEASURED_ON_GPU = """## GPU: not measured yet

`python benchmarks/bench.py --device cuda --batch_size 256 --output benchmarks/RESULTS-cuda.md` measures DIR, mel, the
front-end in the accelerator's seat, the training steps on mels and from the waveform, evaluation and latency there,
each against plain torch on the same GPU. It needs only torch, transformers and accelerate: without `datasets`,
`scipy`, `soundfile` and `soxr` it takes seeded noise for clips, and leaves out the section "Data" and the workers'
seat.
"""


def write_report(results: Sequence[Result], *, device: torch.device, command: str) -> str:
    """Returns the report as Markdown.

    Args:
        results (`Sequence[Result]`): measured cases, in order.
        device (`torch.device`): what they ran on.
        command (`str`): the command, without paths of one machine.
    """
    parts = ["# Speed", INTRODUCTION, _setting(device, command), _verdict(results)]
    for section in dict.fromkeys(result.case.section for result in results):
        rows = [_row(result) for result in results if result.case.section == section]
        parts.append("\n".join([f"## {section}", "", HEADER, *rows, ""]))
    if device.type == "cpu":
        parts.append(NOT_MEASURED_ON_GPU)
    return "\n".join(parts)


def _setting(device: torch.device, command: str) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES if _is_installed(name))
    return f"""| | |
|---|---|
| machine | {_machine(device)} |
| threads | {torch.get_num_threads()} |
| versions | Python {platform.python_version()}, {versions} |
| date | {date.today().isoformat()} |
| command | `{command}` |
"""


def _is_installed(name: str) -> bool:
    return any(metadata.packages_distributions().get(name, ()))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return f"{fields['Model name']}, {fields['CPU(s)']} cores"


def _verdict(results: Sequence[Result]) -> str:
    """Says whether the whole training step reaches the target."""
    steps = [result for result in results if result.case.is_whole_step and result.ratios is not None]
    lines = [
        f"- {result.case.name}: {result.ratios[1]:.2f} times plain, "
        f"{'reached' if result.ratios[1] >= TARGET else 'not reached'}."
        for result in steps
    ]
    target = f"The target is a whole training step at least {TARGET:g} times as fast as plain torch's:"
    return "\n".join([target, "", *lines, ""])


def _row(result: Result) -> str:
    plain, times_plain, peer, times_peer = "-", "-", "-", "-"
    if result.ratios is not None:
        low, middle, high = result.ratios
        plain, times_plain = f"{result.plain:.2f}", f"**{middle:.2f}** ({low:.2f} to {high:.2f})"
    if result.case.peer:
        peer = " + ".join(f"{part:g}" for part in result.case.peer)
        times_peer = f"{sum(result.case.peer) / result.ours:.1f}"
    speed = f"{1000 / result.ours:,.0f} | {result.ours:.2f}"
    return f"| {result.case.name} | {speed} | {plain} | {times_plain} | {peer} | {times_peer} |"


__all__ = ["write_report"]
