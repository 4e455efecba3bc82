"""Feature maps that live at once: by hand for small networks and for the networks of the paper."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
)
from hf_ascdistill.activation_memory import peak_activation_bytes
from hf_ascdistill.models.modeling_cp_mobile import CpMobileGlobalResponseNorm


class Shortcut(nn.Module):
    """A residual block: two convolutions of 2 channels, their input added to their output."""

    def __init__(self, has_shortcut: bool = True):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 2, 1)
        self.has_shortcut = has_shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(functional.relu(self.first(x)))
        return functional.relu(y + x if self.has_shortcut else y)


CLIP = torch.zeros(1, 2, 5, 4)  # 40 numbers


def test_a_layer_holds_its_input_and_its_output():
    assert peak_activation_bytes(nn.Conv2d(2, 3, 1), CLIP) == 40 + 60


def test_a_shortcut_keeps_the_input_alive():
    # second convolution: its input of 6 x 20, its output of 2 x 20, and the shortcut's 40
    assert peak_activation_bytes(Shortcut(), CLIP) == 120 + 40 + 40
    assert peak_activation_bytes(Shortcut(has_shortcut=False), CLIP) == 120 + 40


@pytest.mark.parametrize("inplace", [True, False])
def test_norms_and_activations_cost_nothing(inplace):
    layers = [nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=inplace), nn.Sigmoid(), nn.Softmax(dim=1)]
    assert peak_activation_bytes(nn.Sequential(*layers).eval(), CLIP) == 40 + 60


def test_depthwise_convolutions_and_pools_write_beside_their_input():
    assert peak_activation_bytes(nn.Conv2d(2, 2, 3, padding=1, groups=2), CLIP) == 40 + 40
    assert peak_activation_bytes(nn.MaxPool2d(3, 1, padding=1), CLIP) == 40 + 40  # its indices are never read


def test_global_response_norm_works_in_place_after_its_statistics():
    # with the maps live at most: the norms of 2 channels and what the step after them makes of these
    peak = peak_activation_bytes(CpMobileGlobalResponseNorm(), CLIP)
    assert 40 < peak <= 40 + 3 * 2


def test_views_are_no_memory_of_their_own():
    assert peak_activation_bytes(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 10)), nn.Flatten()), CLIP) == 40


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_student_needs_what_was_counted_by_hand(device, channels_last):
    # The depthwise convolution of the first block, on 64 x 16 places: the input of the block of 32 channels, which
    # the shortcut needs, then 3 x 32 channels read and as many written: 1,024 x (32 + 96 + 96). All else is smaller:
    # the second convolution of the stem has 128 x 32 x 8 + 64 x 16 x 32 = 65,536.
    with torch.device(device):
        model = CpMobileForAudioClassification(CpMobileConfig()).eval()
        inputs = torch.zeros(1, 256, 64)
    model = model.to(memory_format=torch.channels_last) if channels_last else model
    assert peak_activation_bytes(model, inputs) == 1_024 * (32 + 96 + 96) == 229_376


def test_the_teacher_needs_what_was_counted_by_hand():
    # the max pool of the stem: 32 channels of 127 x 21, from 256 x 43 with a kernel of 5, to 63 x 10
    model = CpResNetForAudioClassification(CpResNetConfig()).eval()
    assert peak_activation_bytes(model, torch.zeros(1, 256, 43)) == 32 * (127 * 21 + 63 * 10) == 105_504


def test_a_transformer_needs_what_was_counted_by_hand():
    # Attention of 12 heads among 110 tokens of 768 numbers: the tokens for the shortcut, query, key and value in one
    # buffer, scaled copies of query and key, the scores. The perceptron needs less: 110 x (768 + 768 + 3,072), and so
    # does the last block, in which two tokens attend.
    with torch.device("meta"):
        model = PasstForAudioClassification(PasstConfig(num_hidden_layers=2)).eval()
        peak = peak_activation_bytes(model, torch.zeros(1, 128, 100))
    assert peak == 110 * 768 * (1 + 3 + 2) + 12 * 110 * 110 == 652_080


def test_a_fused_attention_is_counted_like_a_plain_one():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = PasstForAudioClassification(PasstConfig(**sizes)).eval()
    peaks = [
        peak_activation_bytes(model.to(device), torch.zeros(1, 128, 16, device=device)) for device in ("cpu", "meta")
    ]
    assert peaks[0] == peaks[1]
