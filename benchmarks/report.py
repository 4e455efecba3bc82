"""Writes the results as Markdown: one table a section, with the machine, the versions and the command."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

import torch
from timing import Result
from workload import Workload

PACKAGES = ("torch", "torchaudio", "transformers", "datasets", "accelerate", "numpy", "scipy", "soundfile", "soxr")
PEERS = ("onnxruntime", "torch-audiomentations", "audiomentations", "torchlibrosa", "hear21passt", "timm")
COLUMNS = ("work", "clips/s", "ms a clip", "plain, ms", "times plain (quartiles)")
PEER_COLUMNS = ("peer, ms", "times peer")
WAIT_POLICY = "OMP_WAIT_POLICY"  # whether waiting threads spin, which costs much where cores are shared
PEER_BATCH_SIZE = 64  # on a CPU
SECTIONS = ("Data", "Front-end", "Other packages", "Training", "Evaluation")  # of bench.py
GPU = "GPU: "  # begins the headings of what a GPU measured
NOT_MEASURED = "GPU: not measured yet"
INTRODUCTION = """\
How fast the package works, against plain torch doing the same work in the same run: `plain.py` and
`plain_network.py`, a pipeline written for this comparison the usual way (scipy, `torch.stft`, one clip after the other
where that is usual, a mel bank per batch in training and one for all in evaluation, CP-Mobile from its formulas,
contiguous memory, Adam as torch gives it by default). CP-ResNet's network is the package's on both sides. In the
section "Other packages" the other way is not plain torch but the package that is named. Before a case is timed, both
ways must give the same numbers, or, where packages define a log-mel differently, log-mels that correlate; else its
section ends there, and the run fails.

Times are medians over repetitions in turn, ours, plain, ours, plain, so that the drift of a shared machine cancels;
between them lie 10 ms, in which the threads of the one, which spin for a while, leave the cores to the other.
"Times plain" is the median of plain / ours of neighbouring repetitions, with its quartiles; above 1, ours is faster.

"Peer" is the pipeline of the paper's authors on **another machine**, 2 cores of a 2.8 GHz Xeon with torch 2.13; its
figures are quoted, not measured here, and "times peer" mixes both machines with both programs. A sum of two peer
figures is one for the item of the dataset (reading, DIR, roll) and one for the rest.

**Memory.** The recipes make glibc keep freed memory (`keep_freed_memory`), so ours runs with it; the other way runs as
any process does, with glibc's own thresholds at the largest that they grow to. Each is warmed up in its setting before
the clock runs, ours until a call makes the kernel clear next to no pages, at most four times: a training goes on like
that.

**Denormals.** A trained CP-Mobile has dead channels whose weights have decayed to denormal numbers. Many processors
multiply these several times slower, others, such as AMD's Zen 4 and 5, at full speed: there the cases "published" and
"zeroed denormals" differ little. "Published" is the authors' file as it is, in the plain network; ours is the
converted checkpoint, whose denormals are 0. The recipes also flush denormals (`flush_denormals`), which a process must
do before its first thread starts; both sides share a process here, so it is off for both, and what flushing would add
to ours in training is in no figure.

**Native kernels.** CP-Mobile trains and classifies, DIR convolves and the front-end makes log-mels in the package's
own kernels (`native_kernels`), which GCC has compiled before the clock runs; everything else of ours is torch's
operations, also the log-mels of `AscFeatureExtractor` itself, which "Other packages" and "latency of one clip,
inference_copy" take.

In evaluation our model is `inference_copy(model)`; for batches also what `torch.compile` makes of it without native
kernels, and for one clip at a time `compile_classifier`. onnxruntime has two threads, and the log-mels that it reads
are made in one. The front-end has the student's settings: DIR of 60 % of the clips, roll, mel with jitter, frequency
mask; and Freq-MixStyle on every batch, so that every repetition does the same work. "Store to step" draws its batches
from clips that were prepared once, ours from the store and plain from one .npy file a clip. PaSST-S runs in float32,
ours with the fused Adam of its recipe, in matrix products of oneDNN on AMD's processors with AVX-512 and, in
evaluation, of tiles on Intel's with AMX; hear21passt's network with Adam as torch gives it by default.
ASTFeatureExtractor and Kaldi make 98 frames of a clip where ours makes 100.
"""
NOT_MEASURED_ON_GPU = f"""## {NOT_MEASURED}

`make bench-gpu` measures there, each against plain torch on the same GPU: DIR, mel, the front-end in the accelerator's
seat, training steps, evaluation and latency; PaSST-S; training from a store in the GPU's memory. It needs only torch,
transformers and accelerate: without `datasets`, `scipy`, `soundfile` and `soxr` it takes seeded noise for clips, and
leaves out the section "Data" and the workers' seat.
"""


def write_report(results: Sequence[Result], work: Workload, *, command: str, left_out: Sequence[str]) -> str:
    """Returns the report as Markdown: of a CPU all of it, of a GPU sections that go below.

    Args:
        results (`Sequence[Result]`): measured cases, in order.
        work (`Workload`): what they worked on.
        command (`str`): the command, without paths of one machine.
        left_out (`Sequence[str]`): what was not measured, with the reasons.
    """
    is_cpu = work.device.type == "cpu"
    prefix = "" if is_cpu else GPU
    start = ["# Speed", "", INTRODUCTION] if is_cpu else [f"## {GPU}setting", ""]
    parts = [*start, _setting(work, command), _goals(results, left_out)]
    with_peers = is_cpu and len(work.waveform) == PEER_BATCH_SIZE
    for section in dict.fromkeys(result.case.section for result in results):
        of_section = [result for result in results if result.case.section == section]
        parts.append(f"## {prefix}{section}\n\n{_table(of_section, with_peers=with_peers)}\n")
    return "\n".join([*parts, NOT_MEASURED_ON_GPU] if is_cpu else parts)


def merge_sections(path: Path, text: str) -> None:
    """Writes a report into a file and keeps what other programs, or people, wrote there.

    Args:
        path (`Path`): Markdown file; made where it is missing.
        text (`str`): sections, each under a heading of level 2, which replace those of the same headings. A report
            with an introduction before them is a whole one of `bench.py`: it comes first, and none of its own older
            sections stays.
    """
    new = _sections(text)
    old = _sections(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "" in new:
        merged = new | {heading: body for heading, body in old.items() if heading not in (*new, *SECTIONS)}
    else:
        merged = old | new
    if any(heading.startswith(GPU) and heading != NOT_MEASURED for heading in merged):
        merged.pop(NOT_MEASURED, None)
    whole = "\n\n".join(body.strip("\n") for body in merged.values()) + "\n"
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(whole, encoding="utf-8")
    temporary.replace(path)


def _sections(text: str) -> dict[str, str]:
    """Splits Markdown at its headings of level 2; what stands before the first has the name ''."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    named = {part.partition("\n")[0].removeprefix("## ") if part.startswith("## ") else "": part for part in parts}
    return {heading: part for heading, part in named.items() if part.strip()}


def _setting(work: Workload, command: str) -> str:
    clips = "seeded noise" if work.clips is None else f"{len(work.clips)} wav files of 1 s"
    count, taps = work.responses.shape
    return f"""\
| | |
|---|---|
| machine | {_machine(work.device)} |
| threads | {torch.get_num_threads()}, {WAIT_POLICY}={os.environ.get(WAIT_POLICY, "unset")} |
| versions | Python {platform.python_version()}, {_versions(PACKAGES)} |
| other packages | {_versions(PEERS) or "none"} |
| clips | {clips} |
| impulse responses | {count}, the longest of {taps:,} taps |
| date | {date.today().isoformat()} |
| command | `{command}` |
"""


def _versions(packages: Sequence[str]) -> str:
    installed = {distribution.name for distribution in metadata.distributions()}
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages if name in installed)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if shutil.which("lscpu") is None:
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return f"{fields.get('Model name', platform.machine()).strip()}, {os.cpu_count()} cores"


def _goals(results: Sequence[Result], left_out: Sequence[str]) -> str:
    """Lists the goals, reached or not, and what was not measured."""
    lines = [f"- {verdict}" for verdict in (result.verdict() for result in results) if verdict is not None]
    lines += [f"- Not measured: {reason}." for reason in left_out]
    return "\n".join(["How many times as fast as the other way, against what is aimed at:", "", *lines, ""])


def _table(results: Sequence[Result], *, with_peers: bool) -> str:
    """Lists the results; the peer's columns stand only where one has its figure."""
    with_peers = with_peers and any(result.case.peer for result in results)
    columns = COLUMNS + PEER_COLUMNS if with_peers else COLUMNS
    rows = [columns, ["---"] * len(columns), *(_cells(result)[: len(columns)] for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(result: Result) -> list[str]:
    cells = [result.case.name, f"{1000 / result.ours:,.0f}", f"{result.ours:.2f}"]
    if result.ratios is None:
        cells += ["-", "-"]
    else:
        low, middle, high = result.ratios
        cells += [f"{result.plain:.2f}", f"**{middle:.2f}** ({low:.2f} to {high:.2f})"]
    if not result.case.peer:
        return [*cells, "-", "-"]
    peer = " + ".join(f"{part:g}" for part in result.case.peer)
    return [*cells, peer, f"{sum(result.case.peer) / result.ours:.1f}"]


__all__ = ["merge_sections", "write_report"]
