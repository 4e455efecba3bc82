"""What keeping freed memory saves in a training step: page faults and CPU time, in a process with it and one without.

python benchmarks/kept_memory.py [--batch_size 64] [--steps 8]

Needs Linux's glibc. Each process has one thread, so that its CPU time is that of the work.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch

from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification, distillation_loss, keep_freed_memory

WARM_UP = 3  # steps


def measure(batch_size: int, steps: int) -> dict[str, float]:
    """Trains CP-Mobile 128K on random log-mels; returns the medians of a step."""
    torch.manual_seed(0)
    model = CpMobileForAudioClassification(CpMobileConfig()).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(model.parameters(), fused=True)
    mels, labels, teacher = (
        torch.randn(batch_size, 256, 64),
        torch.arange(batch_size) % 10,
        torch.randn(batch_size, 10),
    )
    rows = []
    for _ in range(WARM_UP + steps):
        faults, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        distillation_loss(model(mels).logits, teacher, labels).backward()
        adam.step()
        adam.zero_grad()
        rows.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, time.process_time() - seconds))
    faults, seconds = (statistics.median(column) for column in zip(*rows[WARM_UP:], strict=True))
    return {"faults": faults, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64, help="clips of a step")
    parser.add_argument("--steps", type=int, default=8, help="steps that are measured")
    parser.add_argument("--kept", choices=("true", "false"), help="measure in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.kept is not None:
        if arguments.kept == "true":
            keep_freed_memory()
        return print(json.dumps(measure(arguments.batch_size, arguments.steps)))
    huge = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    print("| freed memory | page faults of a step | CPU time of a step, s |\n|---|---|---|")
    for name, kept, more in (("as usual", "false", {}), ("kept", "true", {}), ("kept, huge pages", "true", huge)):
        command = [sys.executable, __file__, "--kept", kept, "--batch_size", str(arguments.batch_size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        done = subprocess.run(
            [*command, "--steps", str(arguments.steps)], env=environment, capture_output=True, text=True, check=True
        )
        row = json.loads(done.stdout)
        print(f"| {name} | {row['faults']:,.0f} | {row['seconds']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
