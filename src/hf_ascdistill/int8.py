"""The int8 form of a quantised network: integer weights and biases between operators that change the scale."""

import copy

import torch
from torch import nn
from torch.onnx import ops
from transformers import PreTrainedModel

from .quantization import ActivationRange, FakeQuantConv2d, quantize_input

OPERATOR_VERSION = 13  # of ONNX, from which on QuantizeLinear and DequantizeLinear have a scale for each channel
INT32_LIMIT = 2**31 - 1


class QuantizeDequantize(nn.Module):
    """An [`ActivationRange`] as the pair of ONNX operators that int8 kernels are found by; it is only exported."""

    def __init__(self, measured: ActivationRange):
        super().__init__()
        scale, zero_point = measured.levels()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point.to(torch.uint8))

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        inputs, shape = (activations, self.scale, self.zero_point), activations.shape
        levels = ops.symbolic("QuantizeLinear", inputs, dtype=torch.uint8, shape=shape, version=OPERATOR_VERSION)
        return _dequantized(levels, self.scale, self.zero_point)


class Int8Conv2d(nn.Module):
    """A [`FakeQuantConv2d`] with int8 weights and an int32 bias; it is only exported.

    Args:
        conv ([`FakeQuantConv2d`]): the convolution.
        name (`str`): its name, for errors.

    Raises:
        ValueError: a bias is too large for int32.
    """

    def __init__(self, conv: FakeQuantConv2d, name: str):
        super().__init__()
        weight_scales, bias_scales = conv.weight_scales(), conv.bias_scales()
        weight = (conv.rounded_weight().detach() / weight_scales.reshape(-1, 1, 1, 1)).round()
        bias = (conv.bias.detach() / bias_scales).round()
        if bias.abs().max() > INT32_LIMIT:
            raise ValueError(
                f"a bias of {name} is {bias.abs().max():.3g} steps of its scale; int32 holds at most {INT32_LIMIT}: "
                "its input is nearly 0; calibrate on other clips."
            )
        self.register_buffer("weight", weight.to(torch.int8))
        self.register_buffer("weight_scales", weight_scales)
        self.register_buffer("bias", bias.to(torch.int32))
        self.register_buffer("bias_scales", bias_scales)
        self.settings = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, bias = _dequantized(self.weight, self.weight_scales), _dequantized(self.bias, self.bias_scales)
        return nn.functional.conv2d(hidden_states, weight, bias, *self.settings)


def _dequantized(levels: torch.Tensor, *scale: torch.Tensor) -> torch.Tensor:
    attributes = {"axis": 0} if scale[0].ndim else {}
    settings = {"dtype": torch.float32, "shape": levels.shape, "version": OPERATOR_VERSION}
    return ops.symbolic("DequantizeLinear", (levels, *scale), attributes, **settings)


def int8_twin(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy of a quantised network whose weights, biases and ranges are integers, to be exported.

    `torch.onnx.export` turns it into a graph of QuantizeLinear, DequantizeLinear and float operators between them
    (QDQ), of which onnxruntime makes integer convolutions. It cannot be called.

    Args:
        model (`PreTrainedModel`): what [`prepare_qat`] returned, calibrated.

    Raises:
        ValueError: the model is not quantised, a range was never measured, or a bias does not fit int32.
    """
    twin = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    modules = dict(twin.named_modules())
    ranges = {name: module for name, module in modules.items() if isinstance(module, ActivationRange)}
    if not ranges:
        raise ValueError("the model is not quantised: pass calibrate(prepare_qat(fuse(model)), clips, ...).")
    empty = [measured.name for measured in ranges.values() if not measured.batches]
    if empty:
        raise ValueError(
            f"{len(empty)} ranges were never measured, {empty[0]} the first: calibrate(model, clips, ...)."
        )
    for name, conv in modules.items():
        if isinstance(conv, FakeQuantConv2d):
            integers = Int8Conv2d(conv, name)
            if f"{name}.input_range" in ranges:
                quantize_input(integers, conv.input_range)
            twin.set_submodule(name, integers)
    for name, measured in ranges.items():
        twin.set_submodule(name, QuantizeDequantize(measured))
    return twin


def parameter_bytes(model: nn.Module) -> int:
    """Returns the bytes of the parameters as the ONNX file holds them, scales and zero points left out.

    An int8 network has a byte for each weight and four for each bias, as integer sums need them.

    Args:
        model (`nn.Module`): a network of [`prepare_qat`], or a float one.
    """
    total = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    for conv in model.modules():
        if isinstance(conv, FakeQuantConv2d):
            total -= conv.weight.numel() * (conv.weight.element_size() - 1)
    return total


__all__ = ["Int8Conv2d", "QuantizeDequantize", "int8_twin", "parameter_bytes"]
