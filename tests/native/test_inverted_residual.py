"""The block's kernels against the block in float64."""

import pytest
import torch
from compilers import needs_gcc
from native_modules import assert_same_training, native_and_exact, torch_threads

from hf_ascdistill.models.modeling_cp_mobile import CpMobileBlock

pytestmark = needs_gcc
# input, output and expanded channels, stride, and height and width of the maps
SHAPES = [
    (32, 32, 96, (1, 1), (6, 17)),  # the student's
    (32, 32, 96, (2, 2), (6, 17)),
    (32, 72, 96, (2, 1), (6, 9)),
    (72, 168, 216, (1, 1), (4, 9)),
    (8, 8, 24, (1, 1), (7, 5)),  # no multiple of a vector
    (8, 8, 20, (2, 2), (7, 4)),
    (8, 8, 20, (2, 1), (5, 6)),
    (5, 5, 11, (1, 2), (3, 1)),
    (5, 3, 11, (2, 1), (2, 1)),
    (8, 8, 16, (1, 1), (2, 70)),  # a row longer than a block of places
    (8, 8, 16, (1, 1), (33, 2)),
]


def block_and_inputs(shape, *, clips: int = 3):
    inputs, outputs, expanded, stride, lengths = shape
    torch.manual_seed(0)
    block = CpMobileBlock(inputs, outputs, expanded_channels=expanded, stride=stride)
    return *native_and_exact(block), torch.randn(clips, inputs, *lengths) + 0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_is_that_of_the_block_in_float64(shape):
    native, exact, inputs = block_and_inputs(shape)
    assert_same_training(native, exact, inputs, wants_gradient=True)


def test_threads_share_the_clips():
    native, exact, inputs = block_and_inputs(SHAPES[0], clips=5)
    with torch_threads(3):
        assert_same_training(native, exact, inputs, wants_gradient=True)


def test_channels_far_from_zero_keep_their_variance():
    native, exact, inputs = block_and_inputs(SHAPES[0])
    inputs += 300  # the squares' rounding alone would be a hundredth of the variance
    native(inputs), exact(inputs.double())
    own, expected = native.expand.norm.running_var.double(), exact.expand.norm.running_var
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=0)


def test_a_silent_channel_gets_the_gradient_of_the_block():
    native, exact, inputs = block_and_inputs((8, 6, 24, (1, 1), (4, 4)))
    for block in (native, exact):
        with torch.no_grad():
            block.project.norm.weight[2] = 0
            block.project.norm.bias[2] = 0
    assert_same_training(native, exact, inputs, wants_gradient=True)


def test_the_same_step_gives_the_same_bits():
    native, _, inputs = block_and_inputs(SHAPES[1])
    gradients = []
    for _ in range(2):
        native.zero_grad()
        native(inputs).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in native.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_what_is_no_number_stays_none():
    native, _, inputs = block_and_inputs(SHAPES[4])
    inputs[1, 2, 3, 4] = float("nan")
    assert native(inputs).isnan().any()


def test_maps_of_any_memory_format_are_taken():
    native, _, inputs = block_and_inputs(SHAPES[4])
    assert torch.equal(native(inputs), native(inputs.contiguous(memory_format=torch.channels_last)))
