"""What the commands make of their arguments: the model that is named, and dataclasses of settings."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from transformers import CONFIG_NAME

from ..hub.handler import EndpointHandler, Limits

# The files are the user's own: only their memory bounds them.
NO_LIMITS = Limits(max_bytes=2**62, max_seconds=float("inf"), max_channels=1024)

Settings = TypeVar("Settings")


def load_model(name: str) -> EndpointHandler:
    """Loads a classifier and its front-end, with this package's code.

    Args:
        name (`str`): folder of a model, or its name on the Hub.

    Raises:
        FileNotFoundError: there is no such folder, and the Hub cannot give such a model.
        ValueError: the folder holds no audio classifier, or its weights are damaged or no weights.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / CONFIG_NAME).exists():
        raise FileNotFoundError(f"{name} holds no {CONFIG_NAME}; expected the folder of a saved model.")
    try:
        return EndpointHandler(name, NO_LIMITS, trust_remote_code=False)
    except OSError as error:
        place = "no saved model" if folder.is_dir() else "neither a folder nor a model of the Hub"
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"model {name!r} is {place} that can be loaded: {reason}") from error
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the weights of {name!r} are damaged, of another network, or a pointer to a file of Git LFS: {reason}"
        ) from error


def settings_of(kind: type[Settings], arguments: Namespace) -> Settings:
    """Returns the settings of one dataclass, of those that a command line gave.

    Args:
        kind (`type`): the dataclass.
        arguments (`Namespace`): with an attribute for each of its fields.

    Raises:
        ValueError: they contradict each other.
    """
    return kind(**{field.name: getattr(arguments, field.name) for field in fields(kind)})


__all__ = ["NO_LIMITS", "load_model", "settings_of"]
