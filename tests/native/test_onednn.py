"""On which processors a PaSST multiplies by oneDNN."""

import pytest
import torch

from hf_ascdistill.native.onednn import is_onednn_faster


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "cpu_name": "AMD EPYC 9354"}, True),
        ({"avx512_f": False, "cpu_name": "AMD EPYC 7543"}, False),
        ({"avx512_f": True, "cpu_name": "Intel(R) Xeon(R) Platinum 8581C"}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_the_processor_decides(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert is_onednn_faster.__wrapped__() is expected
