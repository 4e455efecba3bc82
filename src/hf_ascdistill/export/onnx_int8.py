"""Post-training quantisation of an ONNX graph to int8, with ranges measured on training clips."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .onnx_graphs import MEL_INPUT, require

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_METHODS = ("minmax", "entropy", "percentile")
CALIBRATION_BATCH = 8
# Convolutions and the activations between them. What is left in float: the global response normalisation, whose sums
# of squares 8 bits cannot hold, the sums of the shortcuts, the pools, and the mean of the class scores.
QUANTIZED_OPERATORS = ("Conv", "Relu", "MaxPool")


def quantize_onnx(graph: "ModelProto", log_mels: np.ndarray, *, method: str = "minmax") -> "ModelProto":
    """Quantises a graph statically: int8 weights with a scale for each channel, uint8 activations, int32 biases.

    The result has QuantizeLinear and DequantizeLinear nodes around float operators (QDQ), which runtimes turn into
    integer kernels. Every convolution is quantised, what lies between them where [`QUANTIZED_OPERATORS`] says so.

    Args:
        graph (`onnx.ModelProto`): from log-mel to logits, see [`mel_graph`].
        log_mels (`np.ndarray`): of training clips, not augmented, float32 `(N, M, F)`.
        method (`str`, *optional*, defaults to `"minmax"`): how ranges follow from what is seen: `"minmax"`,
            `"entropy"` or `"percentile"` (99.999 %).

    Raises:
        ValueError: there are no clips, they hold NaN, or the method is unknown.
        ImportError: the extra `export` is not installed.
    """
    if method not in CALIBRATION_METHODS:
        raise ValueError(f"the calibration method is {method!r}; expected one of {', '.join(CALIBRATION_METHODS)}.")
    if not len(log_mels) or not np.isfinite(log_mels).all():
        problem = "hold NaN or infinite numbers" if len(log_mels) else "are none"
        raise ValueError(f"the calibration clips {problem}; pass log-mels of training clips, (clips, mels, frames).")
    onnx = require("onnx", extra="export")
    quantization = require("onnxruntime.quantization", extra="export")
    preparation = require("onnxruntime.quantization.shape_inference", extra="export")
    methods = quantization.CalibrationMethod
    chosen = dict(zip(CALIBRATION_METHODS, (methods.MinMax, methods.Entropy, methods.Percentile), strict=True))[method]
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder, f"{name}.onnx") for name in ("float", "prepared", "int8"))
        onnx.save(graph, source)
        preparation.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            _Batches(log_mels),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=chosen,
        )
        return onnx.load(target)


class _Batches:
    """What onnxruntime asks for calibration data, until there are no more."""

    def __init__(self, log_mels: np.ndarray):
        starts = range(0, len(log_mels), CALIBRATION_BATCH)
        self._batches = iter([log_mels[start : start + CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {MEL_INPUT: batch}


def stored_integers(graph: "ModelProto") -> tuple[int, int]:
    """Returns how many weights and biases of a quantised graph are integers, and their bytes.

    Args:
        graph (`onnx.ModelProto`): what [`quantize_onnx`] returned: a byte for each weight, four for each bias.
    """
    onnx = require("onnx", extra="export")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    names = {node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"} & stored.keys()
    return sum(stored[name].size for name in names), sum(stored[name].nbytes for name in names)


__all__ = ["CALIBRATION_METHODS", "QUANTIZED_OPERATORS", "quantize_onnx", "stored_integers"]
