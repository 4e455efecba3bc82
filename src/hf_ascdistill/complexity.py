"""What a network costs on a device: parameters, multiply-accumulate operations, bytes; and whether a budget holds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from .activation_memory import peak_activation_bytes
from .microcontrollers import CORTEX_M7, Microcontroller

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class ModelComplexity:
    """Cost of one network for one input.

    Args:
        parameters (`int`): all parameters.
        fused_parameters (`int`): parameters once every batch normalisation is folded into its convolution.
        macs (`int`): multiply-accumulate operations of convolutions and matrix products for one input.
        int8_bytes (`int`): size of the folded network with one byte for each parameter.
        depthwise_macs (`int`, *optional*): those of `macs` that are of depthwise convolutions.
        peak_activation_bytes (`int`, *optional*): most memory that the feature maps take at once, as int8; see
            [`peak_activation_bytes`](activation_memory.py). Older results lack it and `depthwise_macs`.
    """

    parameters: int
    fused_parameters: int
    macs: int
    int8_bytes: int
    depthwise_macs: int | None = None
    peak_activation_bytes: int | None = None

    @classmethod
    def from_results(cls, complexity: Mapping[str, Any]) -> "ModelComplexity":
        """Reads what `results.json` of a run holds as `complexity`; the verdict in it is not read."""
        return cls(**{known.name: complexity[known.name] for known in fields(cls) if known.name in complexity})


@dataclass(frozen=True)
class Budget:
    """What a device allows.

    Args:
        name (`str`): whose limit it is.
        max_bytes (`int`): bytes for the parameters.
        max_macs (`int`): multiply-accumulate operations for one input.
    """

    name: str
    max_bytes: int
    max_macs: int


# Task 1 of DCASE 2022 to 2024: 128 kB, which is 128,000 parameters of int8, and 30 million MACs for one second.
DCASE_2023_BUDGET = Budget("DCASE 2023", max_bytes=128_000, max_macs=30_000_000)


@dataclass(frozen=True)
class BudgetVerdict:
    """Whether a network keeps within a budget.

    Args:
        budget (`str`): name of the budget.
        measured (`tuple[str, ...]`): a phrase for each limit: what is used of what is allowed.
        exceeded (`tuple[str, ...]`): those of the phrases whose limit is broken.
    """

    budget: str
    measured: tuple[str, ...]
    exceeded: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """`bool`: no limit is broken."""
        return not self.exceeded

    @property
    def text(self) -> str:
        """`str`: the verdict in one line."""
        verdict = "fits" if self.fits else "exceeds"
        return f"{verdict} {self.budget}: {', '.join(self.measured if self.fits else self.exceeded)}"


def count_parameters(model: nn.Module, fused: bool = False) -> int:
    """Counts the parameters of a network, shared ones once.

    Args:
        model (`nn.Module`): the network.
        fused (`bool`, *optional*, defaults to `False`): count as if each batch normalisation that directly follows a
            convolution were folded into it, as on a device: its gain and offset become the convolution's bias.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    if not fused:
        return total
    layers = [module for module in model.modules() if not any(module.children())]
    for conv, norm in zip(layers, layers[1:], strict=False):
        if isinstance(conv, CONVOLUTIONS) and isinstance(norm, BATCH_NORMS) and conv.out_channels == norm.num_features:
            own = sum(parameter.numel() for parameter in norm.parameters(recurse=False))
            total -= own - (norm.num_features if conv.bias is None else 0)
    return total


def count_macs(model: nn.Module, input_shape: Sequence[int], *, include_norms: bool = False) -> int:
    """Counts the multiply-accumulate operations of one forward pass in evaluation mode.

    Convolutions and matrix products count, those of linear layers and both of attention; biases, activations, pools
    and the global response normalisation do not. The network is run once on zeros; its modes, its statistics and the
    random generators stay as they are. It is counted in full, as published figures are: what PaSST's classifier leaves
    out of the last block (6 % of PaSST-S) counts as well; see [`in_full`].

    Args:
        model (`nn.Module`): the network; its first argument is the input.
        input_shape (`Sequence[int]`): shape of one input, with a batch of one: `(1, M, F)`.
        include_norms (`bool`, *optional*, defaults to `False`): count 2 C for each batch normalisation of C channels,
            its gain and its offset once, as the model tables of the DCASE systems do.

    Raises:
        ValueError: `input_shape` is not a batch of one.
    """
    inputs, norm_macs = silence(model, input_shape), 0

    def count_norm(norm: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal norm_macs
        norm_macs += 2 * norm.num_features

    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        stack.enter_context(in_full(model))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the counter knows no fused attention of a CPU
        for module in model.modules() if include_norms else ():
            if isinstance(module, BATCH_NORMS):
                stack.callback(module.register_forward_hook(count_norm).remove)
        with counter:
            model(inputs)
    return counter.get_total_flops() // 2 + norm_macs  # a product and its sum are two operations


def silence(model: nn.Module, input_shape: Sequence[int]) -> torch.Tensor:
    """Returns zeros where the network is, as it takes them; raises ValueError where they are no batch of one."""
    if not input_shape or input_shape[0] != 1:
        raise ValueError(f"input_shape is {tuple(input_shape)}; expected a batch of one, (1, mels, frames).")
    like = next(model.parameters())
    return torch.zeros(tuple(input_shape), device=like.device, dtype=like.dtype)


def count_depthwise_macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Counts those of the multiply-accumulate operations that are of depthwise convolutions; see [`count_macs`].

    Args:
        model (`nn.Module`): the network; its first argument is the input.
        input_shape (`Sequence[int]`): shape of one input, with a batch of one: `(1, M, F)`.

    Raises:
        ValueError: `input_shape` is not a batch of one.
    """
    inputs, macs = silence(model, input_shape), 0

    def count(conv: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * conv.weight[0].numel()

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        for module in model.modules():
            if isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels:
                stack.callback(module.register_forward_hook(count).remove)
        model(inputs)
    return macs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode, and every module back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


@contextmanager
def in_full(model: nn.Module) -> Iterator[None]:
    """Has a network compute all its hidden states, also those that its logits do not need; afterwards as before."""
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    settings = [config.output_hidden_states for config in configs]
    for config in configs:
        config.output_hidden_states = True
    try:
        yield
    finally:
        for config, setting in zip(configs, settings, strict=True):
            config.output_hidden_states = setting


def int8_bytes(model: nn.Module) -> int:
    """Returns the bytes of the network on a device: folded, one byte for each parameter."""
    return count_parameters(model, fused=True)


def measure_complexity(model: nn.Module, input_shape: Sequence[int]) -> ModelComplexity:
    """Measures what a network costs.

    Args:
        model (`nn.Module`): the network.
        input_shape (`Sequence[int]`): shape of one input, with a batch of one: `(1, M, F)`.

    Raises:
        ValueError: `input_shape` is not a batch of one.
    """
    with evaluating(model):
        peak = peak_activation_bytes(model, silence(model, input_shape))
    return ModelComplexity(
        parameters=count_parameters(model),
        fused_parameters=count_parameters(model, fused=True),
        macs=count_macs(model, input_shape),
        int8_bytes=int8_bytes(model),
        depthwise_macs=count_depthwise_macs(model, input_shape),
        peak_activation_bytes=peak,
    )


def check_budget(complexity: ModelComplexity, budget: Budget = DCASE_2023_BUDGET) -> BudgetVerdict:
    """Checks a network against what a device allows.

    Args:
        complexity ([`ModelComplexity`]): its cost for one second of audio.
        budget ([`Budget`], *optional*, defaults to that of DCASE 2023): the limits.
    """
    size = f"{complexity.int8_bytes:,} of {budget.max_bytes:,} bytes as int8"
    work = f"{complexity.macs:,} of {budget.max_macs:,} MACs"
    limits = {size: complexity.int8_bytes > budget.max_bytes, work: complexity.macs > budget.max_macs}
    exceeded = tuple(phrase for phrase, is_exceeded in limits.items() if is_exceeded)
    return BudgetVerdict(budget.name, measured=tuple(limits), exceeded=exceeded)


def complexity_rows(
    complexity: ModelComplexity, budget: Budget | None = DCASE_2023_BUDGET, *, target: Microcontroller = CORTEX_M7
) -> list[tuple[str, str]]:
    """Returns what a network costs, as names and values of a table; what older results lack is left out.

    Args:
        complexity ([`ModelComplexity`]): its cost for one second of audio.
        budget ([`Budget`], *optional*, defaults to that of DCASE 2023): the limits; `None` leaves the verdict out.
        target ([`Microcontroller`], *optional*, defaults to a Cortex-M7): the CPU whose latency is estimated.
    """
    rows = [
        ("parameters", f"{complexity.parameters:,}"),
        ("parameters, batch normalisation folded", f"{complexity.fused_parameters:,}"),
        ("size as int8 (bytes)", f"{complexity.int8_bytes:,}"),
        ("multiply-accumulates for one second", f"{complexity.macs:,}"),
    ]
    if complexity.peak_activation_bytes is not None:
        rows.append(("peak memory of feature maps as int8 (bytes)", f"{complexity.peak_activation_bytes:,}"))
    if complexity.depthwise_macs is not None:
        milliseconds = 1000 * target.latency_seconds(complexity.macs, complexity.depthwise_macs)
        rows.append(("estimated latency", f"about {float(f'{milliseconds:.2g}'):,.0f} ms ({target.assumptions})"))
    return rows if budget is None else [*rows, ("verdict", check_budget(complexity, budget).text)]


def budget_table(
    complexity: ModelComplexity, budget: Budget | None = DCASE_2023_BUDGET, *, target: Microcontroller = CORTEX_M7
) -> str:
    """Returns what a network costs as a Markdown table; see [`complexity_rows`] for the arguments."""
    rows = [f"| {name} | {value} |" for name, value in complexity_rows(complexity, budget, target=target)]
    return "\n".join(["| cost | this network |", "|---|---|", *rows])


__all__ = [
    "DCASE_2023_BUDGET",
    "Budget",
    "BudgetVerdict",
    "ModelComplexity",
    "budget_table",
    "check_budget",
    "complexity_rows",
    "count_depthwise_macs",
    "count_macs",
    "count_parameters",
    "int8_bytes",
    "measure_complexity",
]
