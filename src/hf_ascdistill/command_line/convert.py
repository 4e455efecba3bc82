"""Converts a published checkpoint into a folder for `from_pretrained`, or published logits into a logits set.

ascdistill convert --input cpm_student.ckpt --output models/cpm-student
ascdistill convert --input ensemble_logits.pt --meta_csv tau22/meta.csv --output logits/ensemble
"""

import argparse
import json
from dataclasses import asdict, dataclass, field

from ..conversion import ConversionSettings, convert_checkpoint, convert_logits
from .inputs import settings_of


@dataclass
class ConvertArguments:
    """Parameters that control what is converted and where it goes.

    Args:
        input (`str`): a Lightning checkpoint, a plain state dict, or logits.
        output (`str`): folder of the converted model or logits.
        meta_csv (`str`, *optional*): of logits: the table of their clips, in their order.
    """

    input: str = field(metadata={"help": "a Lightning .ckpt, a plain state dict, or logits"})
    output: str = field(metadata={"help": "folder of the converted model or logits; must not exist yet"})
    meta_csv: str | None = field(
        default=None, metadata={"help": "of logits: the table of their clips, in their order"}
    )


ARGUMENTS = (ConvertArguments, ConversionSettings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: all arguments are fields of the dataclasses."""


def convert_file(arguments: ConvertArguments, settings: ConversionSettings) -> str:
    """Converts a published file, and returns what became of it in a few words.

    Args:
        arguments ([`ConvertArguments`]): file and folder.
        settings ([`ConversionSettings`]): what the tensors of a checkpoint leave open.

    Raises:
        FileNotFoundError, ValueError, OSError: see [`convert_checkpoint`] and [`convert_logits`].
    """
    if arguments.meta_csv is not None:
        logits = convert_logits(arguments.input, arguments.output, meta_csv=arguments.meta_csv)
        return f"{len(logits.example_ids)} clips x {len(logits.scenes)} scenes"
    model = convert_checkpoint(arguments.input, arguments.output, **asdict(settings))
    return f"{model.config.model_type}, {model.config.num_labels} classes"


def run(arguments: argparse.Namespace) -> int:
    """Converts a published file and prints what became of it.

    Args:
        arguments (`argparse.Namespace`): with the fields of both dataclasses.

    Returns:
        `int`: 0.

    Raises:
        FileNotFoundError, ValueError, OSError: see [`convert_file`].
    """
    content = convert_file(*(settings_of(kind, arguments) for kind in ARGUMENTS))
    told = {"output": arguments.output, "content": content}
    print(json.dumps(told) if arguments.json else f"{content}: {arguments.output}")
    return 0


__all__ = ["ConvertArguments", "add_arguments", "convert_file", "run"]
