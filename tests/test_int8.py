"""The int8 form of a network: integers on the grid of the simulated one, and what has none."""

import pytest
import torch
from test_quantization import convolutions, quantized, student  # noqa: F401

from hf_ascdistill import fuse, int8_twin, prepare_qat
from hf_ascdistill.int8 import Int8Conv2d, QuantizeDequantize, parameter_bytes
from hf_ascdistill.quantization import activation_ranges


def test_weights_and_biases_are_integers_that_stand_for_the_rounded_ones(quantized):  # noqa: F811
    integers = [module for module in int8_twin(quantized).modules() if isinstance(module, Int8Conv2d)]
    for ours, theirs in zip(convolutions(quantized), integers, strict=True):
        assert (theirs.weight.dtype, theirs.bias.dtype) == (torch.int8, torch.int32)
        weight = theirs.weight * theirs.weight_scales.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(weight, ours.rounded_weight(), atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(theirs.bias * theirs.bias_scales, ours.rounded_bias(), atol=1e-7, rtol=1e-5)


def test_every_range_becomes_a_pair_of_operators_and_the_network_stays(quantized):  # noqa: F811
    twin = int8_twin(quantized)
    pairs = [module for module in twin.modules() if isinstance(module, QuantizeDequantize)]
    ranges = list(activation_ranges(quantized))
    assert len(pairs) == len(ranges) and not list(activation_ranges(twin))
    for pair, measured in zip(pairs, ranges, strict=True):
        scale, zero = measured.levels()
        assert (float(pair.scale), int(pair.zero_point)) == (float(scale), int(zero))


def test_bytes_are_one_for_a_weight_and_four_for_a_bias(quantized, student):  # noqa: F811
    weights = sum(conv.weight.numel() for conv in convolutions(quantized))
    biases = sum(conv.bias.numel() for conv in convolutions(quantized))
    gains = 2 * 6  # gamma and beta of the response normalisation in each block
    assert parameter_bytes(quantized) == weights + 4 * (biases + gains)
    assert parameter_bytes(fuse(student)) == 4 * (weights + biases + gains)


def test_what_is_not_quantised_or_measured_raises(quantized, student):  # noqa: F811
    with pytest.raises(ValueError, match="not quantised: pass calibrate"):
        int8_twin(fuse(student))
    with pytest.raises(ValueError, match="28 ranges were never measured, input of cp_mobile.* the first"):
        int8_twin(prepare_qat(fuse(student)))
    conv = convolutions(quantized)[0]
    conv.bias.data[0] = 1e9
    with pytest.raises(ValueError, match="a bias of cp_mobile.stem.first.conv is .* int32 holds at most 2147483647"):
        int8_twin(quantized)
