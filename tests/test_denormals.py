"""Weights below the smallest normal number."""

import subprocess
import sys

import torch

from hf_ascdistill.denormals import zero_denormals

SMALLEST = torch.finfo(torch.float32).tiny


def test_denormals_become_zero_and_all_else_stays():
    kept = torch.tensor([SMALLEST, -SMALLEST, 0.0, -0.0, 1.0, float("inf"), -3e-38])
    tensor = torch.cat([kept, torch.tensor([SMALLEST / 2, -SMALLEST / 2, 1e-45])])
    half, whole = torch.tensor([6e-8], dtype=torch.float16), torch.tensor([1])
    assert zero_denormals([tensor, half, whole]) == 3
    assert torch.equal(tensor[:7].view(torch.int32), kept.view(torch.int32)) and not tensor[7:].any()
    assert half.item() > 0 and whole.item() == 1


def test_a_state_dict_changes_the_model():
    layer = torch.nn.Linear(2, 2)
    layer.weight.data[0, 0] = 1e-40
    assert zero_denormals(layer.state_dict().values()) == 1
    assert layer.weight[0, 0] == 0


def test_a_process_that_flushes_denormals_still_finds_them():
    code = (
        "import torch; from hf_ascdistill.denormals import zero_denormals; tensor = torch.full((4,), 1e-40); "
        "torch.set_flush_denormal(True); print(zero_denormals([tensor]), tensor.view(torch.int32).any().item())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["4", "False"]
