"""Reads the tensors of a published file without running code of it, and compares them with what a network expects."""

import io
import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..denormals import zero_denormals

logger = logging.get_logger(__name__)

LIGHTNING_WEIGHTS = "state_dict"  # where a Lightning file keeps the weights of all its modules
PREFIXES = ("model.", "net.")  # what training code calls the network among them
SHOWN_NAMES = 10
# What torch and its restricted unpickler raise on a damaged file, besides their own error.
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    struct.error,
    TypeError,
    ValueError,
)


def load_safely(path: str | Path, *, as_what: str, expected: str) -> Any:
    """Reads a torch file; never runs code of it.

    Args:
        path (`str | Path`): the file.
        as_what (`str`): what it is read as, for errors.
        expected (`str`): what kinds of files hold that, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds objects that would run code.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file; expected {expected}.")
    file = io.BytesIO(Path(path).read_bytes())  # so that an error of the disk is not taken for damage
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read as {as_what} ({type(error).__name__}): it is truncated, no torch file, or holds "
            "objects that would run code. Fetch it again from a source that you trust."
        ) from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads the network's tensors of a Lightning checkpoint or a plain state dict; never runs code of the file.

    Args:
        path (`str | Path`): the file.

    Returns:
        `dict[str, torch.Tensor]`: the tensors under the authors' names, without the prefixes `model.` and `net.`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds more than weights, or is no state dict.
    """
    content = load_safely(path, as_what="weights", expected="a Lightning checkpoint or a state dict")
    if isinstance(content, torch.Tensor):
        raise ValueError(
            f"{path} holds no weights but one tensor of shape {tuple(content.shape)}. If these are the logits of "
            "every clip, convert them with convert_logits, in the recipe with --meta_csv."
        )
    if isinstance(content, Mapping):
        content = content.get(LIGHTNING_WEIGHTS, content)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no weights; expected a Lightning checkpoint or a state dict.")
    strange = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ValueError(f"{path} holds what are no tensors: {listed(strange)}; expected a state dict.")
    tensors = {str(name): tensor for name, tensor in content.items()}
    for prefix in PREFIXES:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(tensors) != len(content):
            raise ValueError(f"{path} holds some tensors both with and without the prefix {prefix!r}.")
    return tensors


def listed(names: Iterable[str]) -> str:
    """Joins names for a message, the first ten and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + rest


def require_dimensions(tensors: Mapping[str, torch.Tensor], dimensions: Mapping[str, int]) -> None:
    """Checks the tensors from whose sizes a configuration is inferred.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): the file's tensors.
        dimensions (`Mapping[str, int]`): names that must be there, and how many dimensions each has.

    Raises:
        ValueError: one is missing or has other dimensions; all such are named.
    """
    missing = [name for name in dimensions if name not in tensors]
    if missing:
        raise ValueError(f"missing: {listed(missing)}.")
    wrong = {name: count for name, count in dimensions.items() if tensors[name].dim() != count}
    if wrong:
        faults = [f"{name} {tuple(tensors[name].shape)}, expected {count} dimensions" for name, count in wrong.items()]
        raise ValueError(f"of another shape: {listed(faults)}.")


def check_tensors(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compares a state dict with the one that the network expects.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): the file's tensors.
        expected (`Mapping[str, torch.Tensor]`): tensors of the same names, shapes and kinds of numbers.

    Raises:
        ValueError: tensors are missing, extra, of another shape, or hold other than finite numbers; all are named.
    """
    common = [name for name in expected if name in tensors]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in common
        if tensors[name].shape != expected[name].shape
    ]
    is_number = {
        name: tensors[name].is_floating_point() == expected[name].is_floating_point()
        and bool(torch.isfinite(tensors[name]).all())
        for name in common
    }
    faults = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "of another shape": misshapen,
        "not finite numbers of the right kind": [name for name in common if not is_number[name]],
    }
    if any(faults.values()):
        raise ValueError("; ".join(f"{fault}: {listed(names)}" for fault, names in faults.items() if names) + ".")


def without_denormals(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns float32 copies in which denormal numbers are 0; see [`zero_denormals`].

    Args:
        tensors (`Mapping[str, torch.Tensor]`): a state dict; whole numbers stay as they are.
    """
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    copies = {name: copy.float() if copy.is_floating_point() else copy for name, copy in copies.items()}
    logger.info(f"{zero_denormals(copies.values()):,} denormal numbers set to zero")
    return copies


__all__ = ["check_tensors", "listed", "load_safely", "read_tensors", "require_dimensions", "without_denormals"]
