"""Times training steps in float32 and under bfloat16 autocast on a CPU, in turn: which wins depends on the processor.

python benchmarks/bfloat16.py [--threads 2] [--repetitions 8]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from networks import Logits, fresh_model
from passt_step import training_step

from hf_ascdistill import PasstConfig, PasstForAudioClassification, keep_freed_memory, use_native_kernels

NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, int, int]]] = {
    "CPM-128K": (lambda: fresh_model("cp-mobile"), (64, 256, 64)),
    "CPR-128K": (lambda: fresh_model("cp-resnet"), (64, 256, 43)),
    "PaSST-S": (lambda: PasstForAudioClassification(PasstConfig()), (8, 128, 100)),
}
WARMUPS = 3


def main() -> None:
    """Measures, and prints a row a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--repetitions", type=int, default=8, help="steps of each kind that are timed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print("| training step | float32, ms a clip | bfloat16 autocast, ms a clip | times |\n|---|---|---|---|")
    for name, (build, shape) in NETWORKS.items():
        torch.manual_seed(0)
        inputs, labels, model = torch.randn(shape), torch.arange(shape[0]) % 10, build()
        network = Logits(use_native_kernels(model.to(memory_format=torch.channels_last))).train()
        settings = [{"is_autocast": False}, {"is_autocast": True}]
        steps = [training_step(copy.deepcopy(network), inputs, labels, **kind) for kind in settings]
        times: list[list[float]] = [[], []]
        for _ in range(WARMUPS + arguments.repetitions):
            for step, seconds in zip(steps, times, strict=True):
                start = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - start)
        single, half = (1000 * statistics.median(seconds[WARMUPS:]) / shape[0] for seconds in times)
        print(f"| {name}, batch {shape[0]} | {single:.2f} | {half:.2f} | {single / half:.2f} |", flush=True)


if __name__ == "__main__":
    main()
