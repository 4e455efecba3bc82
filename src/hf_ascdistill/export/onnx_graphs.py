"""ONNX graphs of a classifier in float32: log-mel to logits, and waveform to probabilities."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..models.feature_extraction_asc import AscFeatureExtractor
from .graphs import LogMel, MelToLogits, PowerSpectrum

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = range(18, 24)  # what torch's exporter writes and onnxruntime runs
DEFAULT_OPSET = 20
MEL_INPUT, MEL_OUTPUT = "input_values", "logits"
WAVEFORM_INPUT, WAVEFORM_OUTPUT = "waveform", "probabilities"
LARGEST_FOLDED = 2**13  # numbers of a constant that is computed when a file is written; the runtime folds the others
EXAMPLE_BATCH = 2  # of an input to trace; a batch of one would fix the dimension


def require(module: str, *, extra: str) -> ModuleType:
    """Imports a module of an optional extra.

    Args:
        module (`str`): its name.
        extra (`str`): extra of the package that brings it.

    Raises:
        ImportError: it is not installed; the command that installs it is named.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = f"hf_ascdistill[{extra}]"
        raise ImportError(f"this export needs {error.name or module}: `pip install '{name}'`.") from error


def check_opset(opset: int) -> None:
    """Raises a `ValueError` where torch cannot write the opset."""
    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; expected one of {OPSETS.start} to {OPSETS.stop - 1}.")


def mel_graph(model: nn.Module, extractor: AscFeatureExtractor, *, opset: int = DEFAULT_OPSET) -> "ModelProto":
    """Returns the graph from log-mel `input_values` `(B, M, F)` to `logits` `(B, C)`, batch normalisations folded.

    Args:
        model (`nn.Module`): a classifier of this package.
        extractor ([`AscFeatureExtractor`]): its front-end.
        opset (`int`, *optional*, defaults to 20): version of ONNX's operators.

    Raises:
        ValueError: the opset is not supported, or the front-end's `n_fft` is no multiple of 4.
        ImportError: the extra `export` is not installed.
    """
    example = LogMel(extractor)(torch.zeros(EXAMPLE_BATCH, extractor.sampling_rate))
    names = {"input_names": [MEL_INPUT], "output_names": [MEL_OUTPUT]}
    return _graph(MelToLogits(model), example, opset=opset, dynamic={0: "batch", 2: "frames"}, **names)


def front_end_graph(extractor: AscFeatureExtractor, *, opset: int = DEFAULT_OPSET) -> "ModelProto":
    """Returns the graph from `waveform` `(B, T)` to log-mel `input_values` `(B, M, F)`.

    Args:
        extractor ([`AscFeatureExtractor`]): the front-end.
        opset (`int`, *optional*, defaults to 20): version of ONNX's operators.

    Raises:
        ValueError: the opset is not supported, or `n_fft` is no multiple of 4.
        ImportError: the extra `export` is not installed.
    """
    example = torch.zeros(EXAMPLE_BATCH, extractor.sampling_rate)
    samples = torch.export.Dim("samples", min=extractor.n_fft, max=2**31 - 1)
    names = {"input_names": [WAVEFORM_INPUT], "output_names": [MEL_INPUT]}
    log_mel = LogMel(extractor, partial(PowerSpectrum, turns_tables=True))
    return _graph(log_mel, example, opset=opset, dynamic={0: "batch", 1: samples}, **names)


def waveform_graph(front_end: "ModelProto", mel: "ModelProto") -> "ModelProto":
    """Returns the graph from `waveform` `(B, T)` to `probabilities` `(B, C)`: a front-end, a network, a softmax.

    Args:
        front_end (`onnx.ModelProto`): see [`front_end_graph`].
        mel (`onnx.ModelProto`): from log-mel to logits, in float or quantised, of the same opset.

    Raises:
        ImportError: the extra `export` is not installed.
    """
    onnx = require("onnx", extra="export")
    network = onnx.ModelProto()
    network.CopyFrom(mel)
    network.ir_version = front_end.ir_version
    onnx.compose.add_prefix(network, "network/", inplace=True)
    joined = onnx.compose.merge_models(front_end, network, io_map=[(MEL_INPUT, f"network/{MEL_INPUT}")])
    joined.graph.node.append(onnx.helper.make_node("Softmax", [f"network/{MEL_OUTPUT}"], [WAVEFORM_OUTPUT], axis=1))
    del joined.graph.output[:]
    shape = ["batch", mel.graph.output[0].type.tensor_type.shape.dim[1].dim_value]
    output = onnx.helper.make_tensor_value_info(WAVEFORM_OUTPUT, onnx.TensorProto.FLOAT, shape)
    joined.graph.output.append(output)
    return _stripped(joined)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keeps what torch's exporters say about their own future and about torchvision out of the output."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _graph(module: nn.Module, example: torch.Tensor, *, opset: int, dynamic: dict, **names: Any) -> "ModelProto":
    check_opset(opset)
    require("onnx", extra="export")
    optimizer = require("onnxscript.optimizer", extra="export")
    with quiet_exporter():
        settings = {"dynamo": True, "opset_version": opset, "dynamic_shapes": (dynamic,), "verbose": False}
        program = torch.onnx.export(module.eval(), (example,), optimize=False, **settings, **names)
        optimizer.optimize_ir(program.model, output_size_limit=LARGEST_FOLDED)
    return _stripped(program.model_proto)


def _stripped(graph: "ModelProto") -> "ModelProto":
    """Returns the graph without the traces of Python that torch notes at each node: half of a small file."""
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.graph.ClearField("value_info")
    return graph


def with_metadata(graph: "ModelProto", metadata: Mapping[str, str]) -> bytes:
    """Returns the content of a file: the checked graph with its metadata.

    Args:
        graph (`onnx.ModelProto`): the graph.
        metadata (`Mapping[str, str]`): see [`export_metadata`].
    """
    onnx = require("onnx", extra="export")
    onnx.helper.set_model_props(graph, dict(metadata))
    onnx.checker.check_model(graph)
    return graph.SerializeToString()


def run_onnx(content: bytes, inputs: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """Runs a graph of one input and one output on the CPU.

    Args:
        content (`bytes`): of the file.
        inputs (`np.ndarray`): float32, `(N, ...)`.
        batch_size (`int`, *optional*, defaults to 16): inputs at a time.

    Returns:
        `np.ndarray`: float32 `(N, C)`.

    Raises:
        ImportError: the extra `export` is not installed.
    """
    runtime = require("onnxruntime", extra="export")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    starts = range(0, len(inputs), batch_size)
    return np.concatenate([session.run(None, {name: inputs[at : at + batch_size]})[0] for at in starts])


__all__ = [
    "DEFAULT_OPSET",
    "MEL_INPUT",
    "MEL_OUTPUT",
    "OPSETS",
    "WAVEFORM_INPUT",
    "WAVEFORM_OUTPUT",
    "check_opset",
    "front_end_graph",
    "mel_graph",
    "quiet_exporter",
    "require",
    "run_onnx",
    "waveform_graph",
    "with_metadata",
]
