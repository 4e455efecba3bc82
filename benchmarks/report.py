"""Writes the results as Markdown: one table a section, with the machine, the versions and the command."""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from importlib.util import find_spec

import torch
from timing import Result
from workload import Workload

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy", "scipy", "soundfile", "soxr")
HEADER = """| work | clips/s | ms a clip | plain, ms | times plain (quartiles) | peer, ms | times peer |
|---|---|---|---|---|---|---|"""
WAIT_POLICY = "OMP_WAIT_POLICY"  # whether waiting threads spin, which costs much where cores are shared
PEER_BATCH_SIZE = 64  # on a CPU
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
CP-Mobile ran its published weights, whose denormal numbers slow it on a CPU; a converted checkpoint has none. In
evaluation a model is contiguous, as it is loaded, or channels_last, as `DistillationTrainer` holds it.

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


def write_report(results: Sequence[Result], work: Workload, *, command: str) -> str:
    """Returns the report as Markdown.

    Args:
        results (`Sequence[Result]`): measured cases, in order.
        work (`Workload`): what they worked on.
        command (`str`): the command, without paths of one machine.
    """
    parts = ["# Speed", "", INTRODUCTION, _setting(work, command), _verdict(results)]
    is_peers_setting = work.device.type == "cpu" and len(work.waveform) == PEER_BATCH_SIZE
    for section in dict.fromkeys(result.case.section for result in results):
        rows = [_row(result, is_peers_setting) for result in results if result.case.section == section]
        parts.append("\n".join([f"## {section}", "", HEADER, *rows, ""]))
    if work.device.type == "cpu":
        parts.append(NOT_MEASURED_ON_GPU)
    return "\n".join(parts)


def _setting(work: Workload, command: str) -> str:
    clips = "seeded noise" if work.clips is None else f"{len(work.clips)} wav files of 1 s"
    count, taps = work.responses.shape
    return f"""\
| | |
|---|---|
| machine | {_machine(work.device)} |
| threads | {torch.get_num_threads()}, {WAIT_POLICY}={os.environ.get(WAIT_POLICY, "unset")} |
| versions | Python {platform.python_version()}, {_versions()} |
| clips | {clips} |
| impulse responses | {count}, the longest of {taps:,} taps |
| date | {date.today().isoformat()} |
| command | `{command}` |
"""


def _versions() -> str:
    installed = [name for name in PACKAGES if find_spec(name) is not None]
    return ", ".join(f"{name} {metadata.version(name)}" for name in installed)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if shutil.which("lscpu") is None:
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return f"{fields.get('Model name', platform.machine()).strip()}, {os.cpu_count()} cores"


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


def _row(result: Result, is_peers_setting: bool) -> str:
    plain, times_plain, peer, times_peer = "-", "-", "-", "-"
    if result.ratios is not None:
        low, middle, high = result.ratios
        plain, times_plain = f"{result.plain:.2f}", f"**{middle:.2f}** ({low:.2f} to {high:.2f})"
    if result.case.peer and is_peers_setting:
        peer = " + ".join(f"{part:g}" for part in result.case.peer)
        times_peer = f"{sum(result.case.peer) / result.ours:.1f}"
    speed = f"{1000 / result.ours:,.0f} | {result.ours:.2f}"
    return f"| {result.case.name} | {speed} | {plain} | {times_plain} | {peer} | {times_peer} |"


__all__ = ["write_report"]
