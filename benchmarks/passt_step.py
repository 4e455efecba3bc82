"""Times a fine-tuning step of PaSST-S, next to hear21passt's network in the same run.

python benchmarks/passt_step.py --device cuda [--hear21passt FOLDER] [--compile]
python benchmarks/passt_step.py --tiny --seconds 1

The step is the recipe's: a batch of 80 log-mels of one second, patchout of 6 rows, bf16 autocast, cross-entropy, Adam
with the L2 penalty. It needs torch and transformers alone. For the comparison FOLDER holds hear21passt and timm, as
`pip install --no-deps --target FOLDER hear21passt timm` leaves it, with torchvision there or installed. Both networks
get the same weights, and must give the same logits before either is timed. `--tiny` is a quick look on a CPU.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from hear21passt_network import CLASSES, FRAMES, MELS, open_network, quiet
from timing import Case, Stopwatch
from torch import nn
from torch.nn import functional
from workload import check_close, exact_convolutions

from hf_ascdistill import PasstConfig, PasstForAudioClassification

TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
LEARNING_RATE, WEIGHT_DECAY, PATCHOUT = 1e-5, 1e-3, 6
LOGITS_TOLERANCE = 1e-3
WARMUP_STEPS = 5
MIB = 2**20


class PlainLogits(nn.Module):
    """A network whose forward takes `(B, M, F)` and returns logits, whatever the one inside is like."""

    def __init__(self, network: nn.Module, *, takes_channel: bool):
        super().__init__()
        self.network, self.takes_channel = network, takes_channel

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs.unsqueeze(1))[0] if self.takes_channel else self.network(inputs).logits


def training_step(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Returns one fine-tuning step of a network, ready to be called again and again."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def step() -> None:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            logits = model(inputs)
        functional.cross_entropy(logits.float(), labels).backward()
        adam.step()
        adam.zero_grad()

    return step


def open_models(arguments: argparse.Namespace) -> dict[str, nn.Module]:
    """Builds the networks to compare, on the device, with the same weights."""
    torch.manual_seed(0)
    fields = TINY if arguments.tiny else PasstConfig.PRESETS["s"]
    config = PasstConfig(**fields, frequency_patchout=PATCHOUT, num_labels=CLASSES)
    ours = PasstForAudioClassification(config)
    models = {}
    if arguments.hear21passt is not None:
        if arguments.tiny:
            raise ValueError("hear21passt's network has one size: leave out --tiny or --hear21passt.")
        sys.path.insert(0, str(arguments.hear21passt))
        reference = open_network(frequency_patchout=PATCHOUT)
        tensors = zip(ours.state_dict(), reference.state_dict().values(), strict=True)  # in the same order
        ours.load_state_dict(dict(tensors))
        models["hear21passt"] = PlainLogits(reference, takes_channel=True)
    models["ours"] = PlainLogits(ours, takes_channel=False)
    if arguments.compile:
        compiled = PasstForAudioClassification(config)
        compiled.load_state_dict(ours.state_dict())
        for block in compiled.passt.blocks:
            block.compile()
        models["ours, blocks compiled"] = PlainLogits(compiled, takes_channel=False)
    return {name: model.to(arguments.device) for name, model in models.items()}


def check_agreement(models: dict[str, nn.Module], inputs: torch.Tensor) -> None:
    """Makes sure that all networks give the same logits in evaluation.

    Raises:
        RuntimeError: they do not.
    """
    with torch.no_grad(), exact_convolutions(), quiet():
        expected = models["ours"].eval()(inputs)
        for name, model in models.items():
            check_close(f"logits of {name}", expected, model.eval()(inputs), tolerance=LOGITS_TOLERANCE)


def peak_memory(step: Callable[[], None], device: torch.device) -> int | None:
    """Takes the first steps; returns the most bytes that they hold beside what was held before, on a CPU none."""
    is_measured = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if is_measured else 0
    if is_measured:
        torch.cuda.reset_peak_memory_stats(device)
    with quiet():
        for _ in range(WARMUP_STEPS):
            step()
    return torch.cuda.max_memory_allocated(device) - before if is_measured else None


def main() -> None:
    """Checks, measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--batch_size", type=int, default=80, help="clips of a step")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long a pair is timed")
    parser.add_argument("--hear21passt", type=Path, help="folder with hear21passt and timm")
    parser.add_argument("--compile", action="store_true", help="measure our network with compiled blocks as well")
    parser.add_argument("--tiny", action="store_true", help="a tiny network instead of PaSST-S")
    arguments = parser.parse_args()

    models = open_models(arguments)
    inputs = torch.randn(arguments.batch_size, MELS, FRAMES["1 s"], device=arguments.device)
    check_agreement(models, inputs[:4])
    labels = torch.arange(arguments.batch_size, device=arguments.device) % CLASSES
    steps = {name: training_step(model.train(), inputs, labels) for name, model in models.items()}
    memory = {}
    for name, model in models.items():
        weights = sum(parameter.nbytes for parameter in model.parameters())
        peak = peak_memory(steps[name], arguments.device)
        memory[name] = "-" if peak is None else f"{(peak + weights) / MIB:,.0f}"
    watch, reference = Stopwatch(arguments.device, arguments.seconds), next(iter(steps))
    print("| network | clips/s | ms a step | peak memory, MiB | times the first (quartiles) |\n|---|---|---|---|---|")
    for name, step in steps.items():
        plain = None if name == reference else steps[reference]
        with quiet():
            result = watch.measure(Case("PaSST-S", name, arguments.batch_size, step, plain))
        ratio = "-" if plain is None else "{1:.2f} ({0:.2f} to {2:.2f})".format(*result.ratios)
        milliseconds = result.ours * arguments.batch_size
        print(f"| {name} | {1000 / result.ours:,.0f} | {milliseconds:.2f} | {memory[name]} | {ratio} |", flush=True)
    where = torch.cuda.get_device_name(arguments.device) if arguments.device.type == "cuda" else "CPU"
    print(f"\n{where}, torch {torch.__version__}, batch {arguments.batch_size}, bf16 autocast, fused Adam")


if __name__ == "__main__":
    main()
