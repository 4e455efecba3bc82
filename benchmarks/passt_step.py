"""Times evaluation and a fine-tuning step of PaSST-S, next to hear21passt's network in the same run.

python benchmarks/passt_step.py --device cuda [--hear21passt FOLDER] [--compile]
python benchmarks/passt_step.py --tiny --seconds 1

The step is the recipe's: a batch of 80 log-mels of one second, patchout of 6 rows, bf16 autocast, cross-entropy, Adam
with the L2 penalty. It needs torch and transformers alone. For the comparison FOLDER holds hear21passt and timm, as
`pip install --no-deps --target FOLDER hear21passt timm` leaves it, with torchvision there or installed. Both networks
get the same weights, and must give the same logits before either is timed. `--tiny` is a quick look on a CPU.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
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
GOAL = 1.5  # times hear21passt, on a GPU
MIB = 2**20


class PlainLogits(nn.Module):
    """A network whose forward takes `(B, M, F)` and returns logits, whatever the one inside is like."""

    def __init__(self, network: nn.Module, *, takes_channel: bool):
        super().__init__()
        self.network, self.takes_channel = network, takes_channel

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs.unsqueeze(1))[0] if self.takes_channel else self.network(inputs).logits


def training_step(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, is_autocast: bool = True, is_fused: bool = True
) -> Callable[[], None]:
    """Returns one fine-tuning step of a network, ready to be called again and again.

    Args:
        model (`nn.Module`): log-mels to logits.
        inputs (`torch.Tensor`): log-mels, `(B, M, F)`.
        labels (`torch.Tensor`): class ids, `(B,)`.
        is_autocast (`bool`, *optional*, defaults to `True`): in bfloat16 where autocast says so.
        is_fused (`bool`, *optional*, defaults to `True`): with the fused Adam; else with torch's default.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=is_fused or None)

    def step() -> None:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=is_autocast):
            logits = model(inputs)
        functional.cross_entropy(logits.float(), labels).backward()
        adam.step()
        adam.zero_grad()

    return step


def our_network(fields: Mapping[str, int]) -> nn.Module:
    """Builds our network with the recipe's patchout."""
    torch.manual_seed(0)
    config = PasstConfig(**fields, frequency_patchout=PATCHOUT, num_labels=CLASSES)
    return PlainLogits(PasstForAudioClassification(config), takes_channel=False)


def equal_networks(folder: Path) -> tuple[nn.Module, nn.Module]:
    """Builds our full-size network and hear21passt's with the same weights.

    Args:
        folder (`Path`): holds hear21passt and timm.
    """
    ours = our_network(PasstConfig.PRESETS["s"])
    sys.path.insert(0, str(folder))
    reference = open_network(frequency_patchout=PATCHOUT)
    tensors = zip(ours.network.state_dict(), reference.state_dict().values(), strict=True)  # in the same order
    ours.network.load_state_dict(dict(tensors))
    return ours, PlainLogits(reference, takes_channel=True)


def open_models(arguments: argparse.Namespace) -> dict[str, nn.Module]:
    """Builds the networks to compare, on the device, with the same weights."""
    if arguments.tiny and arguments.hear21passt is not None:
        raise ValueError("hear21passt's network has one size: leave out --tiny or --hear21passt.")
    if arguments.hear21passt is None:
        models = {"ours": our_network(TINY if arguments.tiny else PasstConfig.PRESETS["s"])}
    else:
        ours, reference = equal_networks(arguments.hear21passt)
        models = {"hear21passt": reference, "ours": ours}  # the first is what the others are compared with
    if arguments.compile:
        compiled = copy.deepcopy(models["ours"].network)
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
    """Does the first work; returns the most bytes that it holds beside what was held before, on a CPU none."""
    is_measured = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if is_measured else 0
    if is_measured:
        torch.cuda.reset_peak_memory_stats(device)
    with quiet():
        for _ in range(WARMUP_STEPS):
            step()
    return torch.cuda.max_memory_allocated(device) - before if is_measured else None


def forward(model: nn.Module, inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Returns the classification of a batch, ready to be called again and again."""

    @torch.inference_mode()
    def classify() -> torch.Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            return model(inputs)

    return classify


def measure(what: str, works: Mapping[str, Callable[[], object]], *, clips: int, watch: Stopwatch) -> list[str]:
    """Prints a row for the work of each network; returns what is said of the goal, against hear21passt alone."""
    memory = {name: peak_memory(work, watch.device) for name, work in works.items()}
    reference, verdicts = next(iter(works)), []
    for name, work in works.items():
        plain = None if name == reference else works[reference]
        case = Case("PaSST-S", f"{what}, {name}", clips, work, plain, goal=None if plain is None else GOAL)
        with quiet():
            result = watch.measure(case)
        ratio = "-" if plain is None else "{1:.2f} ({0:.2f} to {2:.2f})".format(*result.ratios)
        peak = "-" if memory[name] is None else f"{memory[name] / MIB:,.0f}"
        milliseconds = result.ours * clips
        print(f"| {what} | {name} | {1000 / result.ours:,.0f} | {milliseconds:.2f} | {peak} | {ratio} |", flush=True)
        verdicts += filter(None, [result.verdict()])
    return verdicts


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
    settings = {"clips": arguments.batch_size, "watch": Stopwatch(arguments.device, arguments.seconds)}
    print(
        "| work | network | clips/s | ms a batch | peak memory, MiB | times the first (quartiles) |\n"
        + "|---" * 6
        + "|"
    )
    forwards = {name: forward(model.eval(), inputs) for name, model in models.items()}
    verdicts = measure("evaluation", forwards, **settings)
    steps = {name: training_step(model.train(), inputs, labels) for name, model in models.items()}
    verdicts += measure("training step", steps, **settings)
    where = torch.cuda.get_device_name(arguments.device) if arguments.device.type == "cuda" else "CPU"
    print(f"\n{where}, torch {torch.__version__}, batch {arguments.batch_size}, bf16 autocast, fused Adam\n")
    print("\n".join(f"- {verdict}" for verdict in verdicts))


if __name__ == "__main__":
    main()
