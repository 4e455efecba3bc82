"""Measures the training of a student on clips that are resident on the accelerator: TAU22's number of clips of noise.

python benchmarks/resident_training.py --device cuda [--bf16] [--contiguous] [--torch_compile MODE]
python benchmarks/resident_training.py --device cpu --clips 256 --batch_sizes 64 --steps 3 --warmup 1

It needs torch, transformers and accelerate alone. Clips per second are those of `DistillationTrainer.train()` as a
recipe calls it, once all mel banks are there; the shares of a step are timed apart, stage by stage, on the
accelerator's own clock.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback
from workload import CLASSES, SAMPLING_RATE, open_responses

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationSettings,
    CpMobileConfig,
    CpMobileForAudioClassification,
    DistillationTrainer,
    DistillationTrainingArguments,
    build_frontend,
)
from hf_ascdistill.data.resident import ResidentClips
from hf_ascdistill.transforms.frontend import FMAX_JITTER

TAU22_CLIPS = 139_620  # of fold1_train.csv
PEAK, SCALE = 5_000, 1 / 32_768  # of the noise, about the level of recordings
STAGES = ("gather", "front-end", "forward", "backward", "optimiser")
GENERALIZATIONS = {"on": "dirfms", "off": "fms"}  # by whether DIR is


def build_parser() -> argparse.ArgumentParser:
    """Describes the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--clips", type=int, default=TAU22_CLIPS, help="clips of 1 s in memory, 64,000 bytes each")
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="clips of a step"
    )
    parser.add_argument("--steps", type=int, default=100, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=20, help="steps before these")
    parser.add_argument("--bf16", action="store_true", help="autocast of the network; the front-end stays in float32")
    parser.add_argument("--contiguous", action="store_true", help="feature maps in NCHW in place of channels_last")
    parser.add_argument("--torch_compile", metavar="MODE", help="compile the network: default, reduce-overhead, ...")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads on the CPU")
    parser.add_argument("--output", type=Path, help="Markdown file to write; unset: the screen only")
    return parser


def random_clips(count: int, device: torch.device) -> ResidentClips:
    """Makes noise of `count` clips in the memory of a device, with labels, devices and teacher logits."""
    rows = torch.arange(count, device=device)
    return ResidentClips(
        torch.randint(-PEAK, PEAK, (count * SAMPLING_RATE,), dtype=torch.int16, device=device),
        offset=rows * SAMPLING_RATE,
        scale=torch.full((count,), SCALE, device=device),
        length=SAMPLING_RATE,
        columns={
            "labels": rows % CLASSES,
            "device_ids": rows % 6,
            "teacher_logits": torch.randn(count, CLASSES, device=device),
        },
    )


def build_trainer(
    arguments: argparse.Namespace, clips: ResidentClips, frontend: AcousticFrontend, *, batch_size: int, folder: str
) -> DistillationTrainer:
    """Builds the trainer of the paper's student, as the recipe does."""
    torch.manual_seed(0)
    training = DistillationTrainingArguments(
        output_dir=folder,
        use_cpu=arguments.device.type == "cpu",
        per_device_train_batch_size=batch_size,
        max_steps=arguments.warmup + arguments.steps,
        bf16=arguments.bf16,
        channels_last=not arguments.contiguous,
        torch_compile=arguments.torch_compile is not None,
        torch_compile_mode=arguments.torch_compile,
        disable_tqdm=True,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
    )
    model = CpMobileForAudioClassification(CpMobileConfig.from_preset("128k", num_labels=CLASSES))
    return DistillationTrainer(model, training, frontend=frontend, train_dataset=clips)


class Clock(TrainerCallback):
    """Reads the time after the warm-up and after the last step, once the device has done its work."""

    def __init__(self, device: torch.device, warmup: int):
        self.device, self.warmup, self.seconds = device, warmup, 0.0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.warmup:
            wait(self.device)
            self.start = time.perf_counter()
        elif state.global_step == state.max_steps:
            wait(self.device)
            self.seconds = time.perf_counter() - self.start


def wait(device: torch.device) -> None:
    """Waits for an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def mark(device: torch.device) -> torch.Event | float:
    """Returns a point in time: of the accelerator's work, or of the CPU."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.Event(device=device, enable_timing=True)
    event.record()
    return event


def milliseconds(start: torch.Event | float, end: torch.Event | float) -> float:
    """Returns the time between two points."""
    return 1000 * (end - start) if isinstance(start, float) else start.elapsed_time(end)


def stage_times(trainer: DistillationTrainer, steps: int) -> dict[str, float]:
    """Times the stages of further training steps; returns ms per step.

    Args:
        trainer ([`DistillationTrainer`]): after training.
        steps (`int`): how many.
    """
    device, clips, model, optimizer = (
        trainer.args.device,
        trainer.train_dataset,
        trainer.model_wrapped,
        trainer.optimizer,
    )
    indices = torch.randint(len(clips), (steps, trainer.args.train_batch_size)).tolist()
    points = []
    model.train()
    for rows in indices:
        times = [mark(device)]
        batch = clips.__getitems__(rows)
        times.append(mark(device))
        batch = trainer._prepare_inputs(batch)
        times.append(mark(device))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, batch)
        times.append(mark(device))
        trainer.accelerator.backward(loss)
        times.append(mark(device))
        optimizer.step()
        optimizer.zero_grad()
        points.append([*times, mark(device)])
    wait(device)
    sums = [sum(milliseconds(row[place], row[place + 1]) for row in points) for place in range(len(STAGES))]
    return {name: value / steps for name, value in zip(STAGES, sums, strict=True)}


@dataclass(frozen=True)
class Measured:
    """One row of the results: clips per second of training, ms per stage of a step, peak bytes of the accelerator."""

    batch_size: int
    dir_is: str
    clips_per_second: float
    stages: dict[str, float]
    peak: int | None

    def cells(self) -> list[str]:
        """Returns the row's cells."""
        step = sum(self.stages.values())
        shares = [f"{100 * self.stages[name] / step:.0f} %" for name in STAGES]
        peak = "-" if self.peak is None else f"{self.peak / 1e9:.2f}"
        speed, epoch = f"{self.clips_per_second:,.0f}", f"{TAU22_CLIPS / self.clips_per_second:.1f}"
        whole = f"{1000 * self.batch_size / self.clips_per_second:.2f}"
        return [str(self.batch_size), self.dir_is, speed, epoch, whole, f"{step:.2f}", *shares, peak]


def make_banks(extractor: AscFeatureExtractor, device: torch.device) -> None:
    """Makes the mel bank of each upper edge that is drawn: a training does so in its first epoch."""
    low, high = FMAX_JITTER
    for fmax in range(low, high + 1):
        extractor.log_mel(torch.zeros(1, SAMPLING_RATE, device=device), fmax=fmax)


def measure(arguments: argparse.Namespace) -> Iterator[Measured]:
    """Trains with each batch size, with DIR and without."""
    device, responses = arguments.device, open_responses(None)
    clips = random_clips(arguments.clips, device)
    extractor = AscFeatureExtractor.from_preset("cp-mobile")
    make_banks(extractor, device)
    for dir_is, generalization in GENERALIZATIONS.items():
        settings = AugmentationSettings(device_generalization=generalization)
        frontend = build_frontend(extractor, settings, impulse_responses=responses)
        for batch_size in arguments.batch_sizes:
            if device.type != "cpu":
                torch.accelerator.reset_peak_memory_stats(device)
            clock = Clock(device, arguments.warmup)
            with tempfile.TemporaryDirectory() as folder:
                trainer = build_trainer(arguments, clips, frontend, batch_size=batch_size, folder=folder)
                trainer.add_callback(clock)
                with contextlib.redirect_stdout(io.StringIO()):  # the summary of the training
                    trainer.train()
            stages = stage_times(trainer, arguments.steps)
            peak = None if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)
            yield Measured(batch_size, dir_is, arguments.steps * batch_size / clock.seconds, stages, peak)


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields the lines of the table as they are measured."""
    name = "CPU" if arguments.device.type == "cpu" else torch.cuda.get_device_name(arguments.device)
    has_tf32 = arguments.device.type != "cpu" and torch.backends.cudnn.allow_tf32
    kind = "bf16 autocast" if arguments.bf16 else "TF32 convolutions" if has_tf32 else "float32"
    kind += ", contiguous" if arguments.contiguous else ""
    kind += f", torch.compile {arguments.torch_compile}" if arguments.torch_compile else ""
    yield f"CPM-128K, {arguments.clips:,} resident clips, {name}, {kind}, torch {torch.__version__}\n"
    titles = ["batch", "DIR", "clips/s", "epoch of TAU22, s", "step, ms", "stages, ms", *STAGES, "peak GB"]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for row in measure(arguments):
        yield f"| {' | '.join(row.cells())} |"


def main() -> None:
    """Measures, prints a line a case, and writes the table."""
    arguments = build_parser().parse_args()
    if arguments.clips < max(arguments.batch_sizes):
        raise ValueError(f"{arguments.clips} clips are fewer than a batch of {max(arguments.batch_sizes)}.")
    torch.set_num_threads(arguments.threads)
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.output is not None:
        arguments.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
