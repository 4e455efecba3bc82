"""Times native kernels against torch on a CPU, in turn: training and inference, DIR, log-mels.

python benchmarks/native_kernels.py [--threads 2] [--repetitions 6]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    DeviceImpulseResponse,
    PasstConfig,
    PasstForAudioClassification,
    inference_copy,
    keep_freed_memory,
    use_native_kernels,
)

BATCHES = {"128k": 64, "450k": 64, "1m": 64, "4m": 32, "8m": 32}  # clips of a step
SMALL_SIZES = ("128k", "450k", "1m")  # inference in native kernels is for these
CLIPS, SAMPLES, RESPONSES, TAPS = 64, 32_000, 57, 16_000
PASST_CLIPS = 8
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


def cp_mobile(size: str) -> torch.nn.Module:
    """Builds a CP-Mobile."""
    return CpMobileForAudioClassification(CpMobileConfig.from_preset(size))


def passt_s() -> torch.nn.Module:
    """Builds PaSST-S, which multiplies by what is fastest on the processor."""
    return PasstForAudioClassification(PasstConfig.from_preset("s", num_labels=10))


def log_mel_of(model: torch.nn.Module, clips: int) -> torch.Tensor:
    """Draws log-mels of one second, of the shape that a network takes."""
    return torch.randn(clips, *((128, 100) if isinstance(model, PasstForAudioClassification) else (256, 64)))


def training_steps(build: Callable[[], torch.nn.Module], clips: int) -> list[Callable[[], object]]:
    """Returns forward and backward passes of two equal networks in channels_last, the second with native kernels."""
    models = []
    for prepare in (lambda model: model, use_native_kernels):
        torch.manual_seed(0)
        models.append(prepare(build().to(memory_format=torch.channels_last).train()))
    inputs, labels = log_mel_of(models[0], clips), torch.arange(clips) % 10

    def step(model: torch.nn.Module) -> None:
        model.zero_grad()
        model(inputs, labels=labels).loss.backward()

    return [lambda model=model: step(model) for model in models]


def inferences(build: Callable[[], torch.nn.Module], clips: int) -> list[Callable[[], object]]:
    """Returns the logits of a batch by two copies for inference, the second with native kernels."""
    torch.manual_seed(0)
    model = build()
    inputs = log_mel_of(model, clips)
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
        yield f"training step, CP-Mobile {size}, batch {clips}", clips, training_steps(partial(cp_mobile, size), clips)
    yield f"training step, PaSST-S, batch {PASST_CLIPS}", PASST_CLIPS, training_steps(passt_s, PASST_CLIPS)
    for size in SMALL_SIZES:
        for clips in (CLIPS, 1):
            yield f"inference, CP-Mobile {size}, batch {clips}", clips, inferences(partial(cp_mobile, size), clips)
    for clips in (PASST_CLIPS, 1):
        yield f"inference, PaSST-S, batch {clips}", clips, inferences(passt_s, clips)
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
