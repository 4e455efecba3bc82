"""Measures what bounds impulse responses and PaSST-S on this CPU: Fourier transforms and matrix products alone.

python benchmarks/bounds.py [--threads 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from hf_ascdistill import DeviceImpulseResponse, keep_freed_memory

CLIPS, SAMPLES, RESPONSES, TAPS = 64, 32_000, 57, 16_000
LENGTH = 48_000  # of the transforms: clip and response, rounded up to one that is fast
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
    keep_freed_memory()
    clips = torch.randn(CLIPS, SAMPLES)
    transform = DeviceImpulseResponse(torch.randn(RESPONSES, TAPS), p=1.0)
    whole = milliseconds(lambda: transform({"waveform": clips})) / CLIPS
    pair = milliseconds(lambda: torch.fft.irfft(torch.fft.rfft(clips, n=LENGTH), n=LENGTH)) / CLIPS
    print(f"DIR of every clip: {whole:.3f} ms a clip; its two transforms alone: {pair:.3f} ms")
    for name, (inputs, outputs) in LAYERS.items():
        tokens, weight, bias = torch.randn(TOKENS, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        took = milliseconds(lambda args=(tokens, weight, bias): functional.linear(*args))
        print(f"PaSST-S, {name}: {2 * TOKENS * inputs * outputs / took / 1e6:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
