"""Tells what a model is and what it costs: network, front-end, classes, and whether it keeps within the budget.

ascdistill info models/cpm-student
ascdistill info user/cpm-student --json
"""

import argparse
import json
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from ..complexity import ModelComplexity, check_budget, complexity_rows, measure_complexity
from ..evaluation import front_end_settings
from ..hub.handler import EndpointHandler
from ..hub.repository import network_name
from ..models.configuration_asc import AscConfig
from .inputs import load_model

ARGUMENTS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own argument to its parser."""
    parser.add_argument("model", metavar="MODEL", help="folder of the model, or its name on the Hub")


def describe(model: EndpointHandler) -> dict[str, Any]:
    """Returns what a model is and costs.

    Args:
        model ([`EndpointHandler`]): classifier and front-end.

    Returns:
        `dict`: `architecture`, `name`, `network` (fields of its configuration), `front_end`, `classes`, `complexity`
        for one second of audio, `fits` and `verdict` of the DCASE budget.
    """
    config, extractor = model.model.config, model.extractor
    second = np.zeros(extractor.sampling_rate, np.float32)
    inputs = extractor(second, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_values"]
    complexity = measure_complexity(model.model, tuple(inputs.shape))
    verdict = check_budget(complexity)
    own = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)}
    return {
        "architecture": config.model_type,
        "name": network_name(config) if isinstance(config, AscConfig) else type(config).__name__,
        "network": {field.name: getattr(config, field.name) for field in fields(config) if field.name in own},
        "front_end": front_end_settings(extractor),
        "classes": [config.id2label[index] for index in range(config.num_labels)],
        "complexity": asdict(complexity),
        "fits": verdict.fits,
        "verdict": verdict.text,
    }


def as_table(described: dict[str, Any]) -> str:
    """Returns what [`describe`] gives as lines of text."""
    classes, complexity = described["classes"], ModelComplexity(**described["complexity"])
    groups = [
        {"network": described["name"], "architecture": described["architecture"], **described["network"]},
        described["front_end"],
        {"classes": f"{len(classes)}: {', '.join(classes)}"},
        dict(complexity_rows(complexity)),
    ]
    width = max(len(name) for group in groups for name in group)
    return "\n\n".join("\n".join(f"{name:{width}}  {value}" for name, value in group.items()) for group in groups)


def run(arguments: argparse.Namespace) -> int:
    """Prints what a model is and costs.

    Args:
        arguments (`argparse.Namespace`): what `add_arguments` reads.

    Returns:
        `int`: 0; whether the model keeps within the budget is told, not an error.

    Raises:
        ValueError, OSError: the model is none, or not there.
    """
    described = describe(load_model(arguments.model))
    print(json.dumps(described) if arguments.json else as_table(described))
    return 0


__all__ = ["add_arguments", "as_table", "describe", "run"]
