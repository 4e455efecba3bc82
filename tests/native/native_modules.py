"""Native modules beside the same ones in float64, for the tests of this folder."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hf_ascdistill.native import use_native_kernels


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Works in another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def native_and_exact(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A module in training mode that uses the kernels, and the same one in float64; its parameters are random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            is_vector = parameter.ndim == 1
            parameter.copy_((0.5 + torch.rand_like(parameter)) if is_vector else 0.4 * torch.randn_like(parameter))
    exact = copy.deepcopy(module).double().train()
    return use_native_kernels(module.train()), exact


def assert_same_training(native: nn.Module, exact: nn.Module, inputs: torch.Tensor, *, wants_gradient: bool) -> None:
    """Compares output, gradients and running statistics of a step."""
    own, other = inputs.clone().requires_grad_(wants_gradient), inputs.double().requires_grad_(wants_gradient)
    output, expected = native(own), exact(other)
    assert output.grad_fn.name() in ("InvertedResidualBackward", "StemBackward")
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    output.backward(direction.float())
    expected.backward(direction)
    parameters = zip(native.named_parameters(), exact.parameters(), strict=True)
    pairs = [(name, one.grad, two.grad) for (name, one), two in parameters]
    pairs += [("input", own.grad, other.grad)] if wants_gradient else []
    for name, gradient, expected in pairs:
        assert (gradient - expected).norm() <= 2e-5 * expected.norm() + 1e-6, name
    for (name, buffer), expected in zip(native.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(buffer.double(), expected.double(), rtol=1e-6, atol=1e-7, msg=name)


__all__ = ["assert_same_training", "native_and_exact", "torch_threads"]
