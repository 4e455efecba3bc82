"""The stem's kernels against the stem in float64."""

import pytest
import torch
from compilers import needs_gcc
from native_modules import assert_same_training, native_and_exact, torch_threads

from hf_ascdistill.models.modeling_cp_mobile import CpMobileStem

pytestmark = needs_gcc


@pytest.mark.parametrize(
    ("channels", "lengths"), [(32, (32, 65)), (32, (30, 64)), (8, (17, 5)), (24, (3, 2)), (20, (1, 9))], ids=str
)
def test_a_step_is_that_of_the_stem_in_float64(channels, lengths):
    torch.manual_seed(0)
    native, exact = native_and_exact(CpMobileStem(channels))
    assert_same_training(native, exact, torch.randn(3, *lengths), wants_gradient=False)


def test_threads_share_the_clips():
    torch.manual_seed(0)
    native, exact = native_and_exact(CpMobileStem(32))
    with torch_threads(2):
        assert_same_training(native, exact, torch.randn(5, 16, 20), wants_gradient=False)


def test_log_mels_that_want_a_gradient_get_it():
    torch.manual_seed(0)
    native, exact = native_and_exact(CpMobileStem(8))
    log_mels = torch.randn(2, 16, 20, requires_grad=True)
    native(log_mels).square().sum().backward()
    doubled = log_mels.detach().double().requires_grad_()
    exact(doubled).square().sum().backward()
    torch.testing.assert_close(log_mels.grad.double(), doubled.grad, rtol=1e-3, atol=1e-4)
