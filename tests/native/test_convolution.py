"""The kernels' convolution against sums of products in float64."""

import numpy as np
import pytest
import torch
from compilers import needs_gcc
from native_modules import torch_threads

from hf_ascdistill.native.convolution import convolve_chosen, transform_size


def expected(waveform: torch.Tensor, chosen: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
    rows = zip(waveform.double().numpy(), chosen.tolist(), strict=True)
    bank = responses.double().numpy()
    return torch.tensor(
        np.stack([clip if index < 0 else np.convolve(clip, bank[index])[: len(clip)] for clip, index in rows])
    )


@needs_gcc
@pytest.mark.parametrize(
    ("samples", "taps"), [(1, 1), (10, 3), (16, 17), (100, 1), (700, 400), (1000, 40), (3000, 3500), (20_000, 900)]
)
def test_clips_are_convolved_with_the_responses_they_chose(samples, taps):
    torch.manual_seed(0)
    waveform, responses = torch.randn(4, samples), torch.randn(3, taps)
    chosen = torch.tensor([2, -1, 0, 0])
    convolved = convolve_chosen(waveform, chosen, responses)
    limit = 2e-6 * taps**0.5 + 1e-6  # float32, in proportion to what a sum of so many products comes to
    torch.testing.assert_close(convolved.double(), expected(waveform, chosen, responses), rtol=0, atol=limit)
    assert torch.equal(convolved[1], waveform[1])


@needs_gcc
def test_the_clips_stay_and_may_lie_apart_in_memory():
    torch.manual_seed(0)
    waveform, responses = torch.randn(50, 4).t(), torch.randn(9, 2).t()
    before = waveform.clone()
    convolved = convolve_chosen(waveform, torch.tensor([0, 1, 1, 0]), responses)
    assert torch.equal(waveform, before)
    assert torch.equal(convolved, convolve_chosen(before.contiguous(), torch.tensor([0, 1, 1, 0]), responses))


@needs_gcc
def test_threads_do_not_change_the_bits():
    torch.manual_seed(0)
    waveform, responses, chosen = torch.randn(9, 300), torch.randn(4, 100), torch.arange(9) % 4
    results = []
    for count in (1, 3):
        with torch_threads(count):
            results.append(convolve_chosen(waveform, chosen, responses))
    assert torch.equal(*results)


def test_transforms_have_the_smallest_length_that_they_can_have():
    assert [transform_size(samples) for samples in (1, 32, 33, 64, 65, 97, 47_999)] == [16, 16, 32, 32, 48, 64, 24_576]
