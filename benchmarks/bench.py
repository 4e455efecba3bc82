"""Measures the package's speed against plain torch and other packages, and writes the results as Markdown.

python benchmarks/bench.py --clips <folder in TAU22's layout> [--impulse_responses FOLDER] [--hear21passt FOLDER]
    [--checkpoint published CP-Mobile] --output benchmarks/RESULTS.md

`make bench` does so in an environment that has the other packages. Without --clips it writes a tiny synthetic corpus
into a temporary folder. `--device cuda` needs only torch, transformers and accelerate: what needs more is left out,
and said so. `--seconds 0` is a quick look. Measure on idle cores: where others work on them too, torch's waiting
threads spin, unless OMP_WAIT_POLICY=PASSIVE is set.
"""

import argparse
import shlex
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from evaluation_cases import evaluation_cases, has_compiler, missing_export_packages
from frontend_cases import frontend_cases
from peer_cases import missing_peers, peer_cases
from report import merge_sections, write_report
from timing import Case, Result, Stopwatch
from training_cases import training_cases
from workload import CLASSES, Workload, missing_packages, open_clips, open_responses, random_batch, read_batch


def build_parser() -> argparse.ArgumentParser:
    """Describes the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder in TAU22's layout; unset: a synthetic corpus")
    parser.add_argument("--impulse_responses", type=Path, help="folder of wav files; unset: decaying noise")
    parser.add_argument("--checkpoint", type=Path, help="the authors' file of a CP-Mobile; measured as well")
    parser.add_argument("--hear21passt", type=Path, help="folder with hear21passt and timm, as peers.py leaves it")
    parser.add_argument("--output", type=Path, help="Markdown file to write; unset: the screen only")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--batch_size", type=int, default=64, help="clips of a batch")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads on the CPU")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long one case is repeated")
    return parser


def build_workload(arguments: argparse.Namespace, folder: Path) -> Workload:
    """Opens the clips and the impulse responses, or makes them up."""
    missing, clips = missing_packages(), None
    if missing and arguments.clips is not None:
        raise ValueError(
            f"--clips needs {', '.join(missing)}, which this machine lacks; install them or leave it out."
        )
    if "scipy" in missing and arguments.device.type == "cpu":
        raise ValueError("on a CPU the plain way convolves with scipy: `pip install scipy`, or measure --device cuda.")
    if not missing:
        clips = open_clips(arguments.clips, folder)
    size, device = arguments.batch_size, arguments.device
    waveform = random_batch(size) if clips is None else read_batch(clips, size)
    return Workload(
        device,
        waveform.to(device),
        labels=(torch.arange(size) % CLASSES).to(device),
        teacher=torch.randn(size, CLASSES, generator=torch.Generator().manual_seed(0)).to(device),
        responses=open_responses(arguments.impulse_responses),
        folder=folder,
        clips=clips,
        checkpoint=arguments.checkpoint,
        hear21passt=arguments.hear21passt,
    )


def left_out(work: Workload) -> list[str]:
    """Names the cases that this run cannot measure, each with its reason."""
    missing = missing_packages()
    reasons = [f"wav files, store and workers: {', '.join(missing)} is not installed"] if missing else []
    if work.checkpoint is None:
        reasons.append("trained weights and their export: no --checkpoint was given")
    elif missing_export_packages():
        reasons.append(f"latency through ONNX: {', '.join(missing_export_packages())} is not installed")
    if not has_compiler():
        reasons.append("torch.compile: there is no C++ compiler")
    if work.device.type != "cpu":
        return [*reasons, "other packages: they are compared on a CPU"]
    reasons += [f"{name}: not installed, see benchmarks/peers.py" for name in missing_peers()]
    if work.hear21passt is None or not (work.hear21passt / "hear21passt").is_dir():
        reasons.append("hear21passt: not in --hear21passt, see benchmarks/peers.py")
    return reasons


def all_cases(work: Workload) -> Iterator[Iterator[Case]]:
    """Yields every case that this machine can run, section by section."""
    if work.clips is not None:
        from data_cases import data_cases

        yield data_cases(work)
    yield frontend_cases(work)
    if work.device.type == "cpu":
        yield peer_cases(work)
    yield training_cases(work)
    yield evaluation_cases(work)


def measure_all(sections: Iterable[Iterator[Case]], watch: Stopwatch) -> tuple[list[Result], list[str]]:
    """Measures case by case; where one fails, the rest of its section is left out, and the others are measured.

    Args:
        sections (`Iterable[Iterator[Case]]`): what [`all_cases`] yields.
        watch ([`Stopwatch`]): measures.

    Returns:
        `tuple[list[Result], list[str]]`: what was measured, and what failed, with the reasons.
    """
    results, failures = [], []
    for cases in sections:
        last = "nothing"
        try:
            for case in cases:
                results.append(watch.measure(case))
                last = f"{case.section}: {case.name}"
                print(results[-1].line(), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was measured before it stays
            traceback.print_exc()
            failures.append(f"{cases.__name__}, behind {last}: {type(error).__name__}: {' '.join(str(error).split())}")
    return results, failures


def command_line(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """Returns the command; of folders that lie elsewhere, the names only."""
    words = ["python", "benchmarks/bench.py"]
    for name, value in vars(arguments).items():
        if value != parser.get_default(name):
            is_elsewhere = isinstance(value, Path) and (value.is_absolute() or ".." in value.parts)
            words += [f"--{name}", value.name if is_elsewhere else str(value)]
    return shlex.join(words)


def main() -> None:
    """Measures, prints a line a case, and writes the report."""
    parser = build_parser()
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    watch = Stopwatch(arguments.device, arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        work = build_workload(arguments, Path(folder))
        for reason in left_out(work):
            print(f"left out: {reason}", flush=True)
        results, failures = measure_all(all_cases(work), watch)
    if arguments.output is not None:
        command, missing = command_line(parser, arguments), [*left_out(work), *failures]
        merge_sections(arguments.output, write_report(results, work, command=command, left_out=missing))
    if failures:
        raise SystemExit("not all was measured:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
