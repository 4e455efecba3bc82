"""Times the exported files of one folder against those of another, in turn in one process, one clip at a time.

python benchmarks/exported_files.py OLD NEW [--seconds 5]

Both folders are written by recipes/export.py, each by another version of the package. A .onnx file is timed with one
thread of onnxruntime and with two, a .pt2 file with two threads of torch; files that only one folder has are left out.
Both must give the same numbers, or the script stops.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

SHAPES = {"waveform": (1, 32_000), "mel": (1, 256, 64)}  # of one second; CP-Mobile's log-mel
SUFFIXES = (".onnx", ".pt2")
TOLERANCE, INT8_TOLERANCE = 1e-3, 0.2  # of int8, sums in another order move some activations by a level
CALLS = 10  # timed at once


def open_file(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a file in its runtime; what is returned takes one clip."""
    if path.suffix == ".pt2":
        network = torch.export.load(path).module()
        return torch.inference_mode()(lambda clip: network(torch.from_numpy(clip)).numpy())
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # leaves the cores to the other side
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda clip: session.run(None, {entry.name: clip})[0]


def ratios(old: Callable, new: Callable, clip: np.ndarray, seconds: float) -> Iterator[float]:
    """Yields the times of the old file over those of the new one, of neighbouring blocks of calls."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        times = []
        for run in (old, new):
            for _ in range(3):
                run(clip)
            start = time.perf_counter()
            for _ in range(CALLS):
                run(clip)
            times.append(time.perf_counter() - start)
        yield times[0] / times[1]


def compare(old: Path, new: Path, *, threads: int, seconds: float) -> str:
    """Returns a row: how many times as fast the new file is, median and quartiles.

    Raises:
        ValueError: the files give different numbers.
    """
    clip = 0.1 * np.random.default_rng(0).standard_normal(SHAPES[new.stem.split("-")[0]], dtype=np.float32)
    runs = [open_file(path, threads) for path in (old, new)]
    difference = float(np.abs(runs[0](clip) - runs[1](clip)).max())
    allowed = INT8_TOLERANCE if new.stem.endswith("int8") else TOLERANCE
    if not difference <= allowed:
        raise ValueError(f"{old} and {new} differ by {difference:.2g}; expected {allowed} at most.")
    low, middle, high = statistics.quantiles(ratios(*runs, clip, seconds), n=4, method="inclusive")
    return f"| `{new.name}` | {threads} | {middle:.2f} ({low:.2f} to {high:.2f}) |"


def main() -> None:
    """Prints a table of the files that both folders have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="folder of the files to compare with")
    parser.add_argument("new", type=Path, help="folder of the others")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long one row takes")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    names = sorted(path.name for path in arguments.new.iterdir() if path.suffix in SUFFIXES)
    shared = [name for name in names if (arguments.old / name).exists()]
    if not shared:
        raise ValueError(f"{arguments.old} and {arguments.new} have no .onnx or .pt2 file of the same name.")
    print("| file | threads | times as fast |\n| --- | --- | --- |")
    for name in shared:
        for threads in (2,) if name.endswith(".pt2") else (1, 2):
            paths = arguments.old / name, arguments.new / name
            print(compare(*paths, threads=threads, seconds=arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
