"""On which processors a PaSST multiplies by oneDNN."""

import pytest
import torch

from hf_ascdistill.native import onednn
from hf_ascdistill.native.onednn import OneDnnLinear, is_onednn_faster


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


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch was built without oneDNN")
def test_the_gradient_of_an_input_is_a_product_too(monkeypatch):
    seen, own = [], onednn.onednn_linear
    monkeypatch.setattr(
        onednn, "onednn_linear", lambda x, *args, **kwargs: seen.append(x.shape) or own(x, *args, **kwargs)
    )
    OneDnnLinear(5, 7)(torch.zeros(3, 5, requires_grad=True)).sum().backward()
    assert seen == [(3, 5), (3, 7)]
