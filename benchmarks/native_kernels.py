"""Times native kernels against torch on a CPU, in turn: CP-Mobile's training and inference, DIR, log-mels.

python benchmarks/native_kernels.py [--threads 2] [--repetitions 6]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    DeviceImpulseResponse,
    inference_copy,
    keep_freed_memory,
    use_native_kernels,
)

BATCHES = {"128k": 64, "450k": 64, "1m": 64, "4m": 32, "8m": 32}  # clips of a step
SMALL_SIZES = ("128k", "450k", "1m")  # inference in native kernels is for these
CLIPS, SAMPLES, RESPONSES, TAPS = 64, 32_000, 57, 16_000
WARMUPS = 3


def milliseconds(works: list[Callable[[], object]], repetitions: int) -> list[float]:
    """Returns the median time of each piece of work, done in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(WARMUPS + repetitions):
        for work, seconds in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return [1000 * statistics.median(seconds[WARMUPS:]) for seconds in times]


def training_steps(size: str, clips: int) -> list[Callable[[], object]]:
    """Returns forward and backward passes of two equal networks in channels_last, the second with native kernels."""
    models = []
    for prepare in (lambda model: model, use_native_kernels):
        torch.manual_seed(0)
        model = CpMobileForAudioClassification(CpMobileConfig.from_preset(size))
        models.append(prepare(model.to(memory_format=torch.channels_last).train()))
    inputs, labels = torch.randn(clips, 256, 64), torch.arange(clips) % 10

    def step(model: torch.nn.Module) -> None:
        model.zero_grad()
        model(inputs, labels=labels).loss.backward()

    return [lambda model=model: step(model) for model in models]


def inferences(size: str, clips: int) -> list[Callable[[], object]]:
    """Returns the logits of a batch by two copies for inference, the second with native kernels."""
    torch.manual_seed(0)
    model, inputs = CpMobileForAudioClassification(CpMobileConfig.from_preset(size)), torch.randn(clips, 256, 64)
    copies = [inference_copy(model, native_kernels=is_native) for is_native in (False, True)]
    return [lambda network=network: torch.inference_mode()(network)(inputs) for network in copies]


def convolutions() -> list[Callable[[], object]]:
    """Returns DIR of every clip of a batch, the second with native kernels."""
    torch.manual_seed(0)
    batch, bank = {"waveform": torch.randn(CLIPS, SAMPLES)}, torch.randn(RESPONSES, TAPS)
    transforms = [DeviceImpulseResponse(bank, p=1.0, native_kernels=is_native) for is_native in (False, True)]
    return [lambda transform=transform: transform(batch) for transform in transforms]


def log_mels(preset: str, clips: int) -> list[Callable[[], object]]:
    """Returns log-mels of a batch, the second with native kernels."""
    torch.manual_seed(0)
    batch, extractor = {"waveform": torch.randn(clips, SAMPLES)}, AscFeatureExtractor.from_preset(preset)
    frontends = [AcousticFrontend(extractor, native_kernels=is_native) for is_native in (False, True)]
    return [lambda frontend=frontend: frontend(batch) for frontend in frontends]


def cases() -> Iterator[tuple[str, int, list[Callable[[], object]]]]:
    """Yields what is timed: a title, the number of clips, and the work in both ways."""
    for size, clips in BATCHES.items():
        yield f"training step, CP-Mobile {size}, batch {clips}", clips, training_steps(size, clips)
    for size in SMALL_SIZES:
        for clips in (CLIPS, 1):
            yield f"inference, CP-Mobile {size}, batch {clips}", clips, inferences(size, clips)
    yield f"DIR of every clip, batch {CLIPS}", CLIPS, convolutions()
    for preset in ("cp-mobile", "cp-resnet", "passt"):
        for clips in (CLIPS, 1):
            yield f"log-mels, {preset}, batch {clips}", clips, log_mels(preset, clips)


def main() -> None:
    """Measures, and prints a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--repetitions", type=int, default=6, help="how often each is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print("| work | torch, ms a clip | native, ms a clip | times |\n|---|---|---|---|")
    for name, clips, works in cases():
        usual, native = (took / clips for took in milliseconds(works, arguments.repetitions))
        print(f"| {name} | {usual:.3f} | {native:.3f} | {usual / native:.2f} |", flush=True)


if __name__ == "__main__":
    main()
