"""Measures what bounds PaSST-S on this CPU: its matrix products alone, torch's, oneDNN's and those of tiles.

python benchmarks/bounds.py [--threads 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from hf_ascdistill import keep_freed_memory
from hf_ascdistill.native.onednn import OneDnnLinear
from hf_ascdistill.native.tiles import TileLinear, can_use_tiles

TOKENS = 8 * 110  # of a batch of PaSST-S
LAYERS = {"attention": (768, 2304), "up": (768, 3072), "down": (3072, 768)}  # inputs, outputs
REPETITIONS, WARMUPS = 30, 5


def milliseconds(work: Callable[[], object]) -> float:
    """Returns the median time of a call."""
    times = []
    for _ in range(WARMUPS + REPETITIONS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARMUPS:])


def main() -> None:
    """Measures, and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    keep_freed_memory()
    for name, (inputs, outputs) in LAYERS.items():
        layers = {"torch": nn.Linear(inputs, outputs), "oneDNN": OneDnnLinear(inputs, outputs)}
        if can_use_tiles():
            layers["tiles"] = TileLinear(inputs, outputs)
        for library, layer in layers.items():
            if library != "torch":
                layer.pack()
            tokens = torch.randn(TOKENS, inputs)
            took = milliseconds(lambda layer=layer, tokens=tokens: layer(tokens))
            print(f"PaSST-S, {name}, {library}: {2 * TOKENS * inputs * outputs / took / 1e6:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
