"""Linear layers by Intel's tiles: as exact as float32, whatever the sizes, the batch and the threads."""

import pytest
import torch
from compilers import need_tiles
from torch import nn

from hf_ascdistill.native import passt, tiles
from hf_ascdistill.native.onednn import OneDnnLinear
from hf_ascdistill.native.passt import fastest_linear
from hf_ascdistill.native.tiles import TileLinear, can_use_tiles


def layer(rows: int, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, weight and bias, of which some numbers are large."""
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, inputs), (outputs, inputs), (outputs,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    x[:, 3] *= 1000
    return x, weight, bias


def tiled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, has_gelu: bool = False) -> torch.Tensor:
    """What tiles make of an input."""
    linear = TileLinear(*weight.t().shape, bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    linear.bias = None if bias is None else nn.Parameter(bias)
    linear.pack()
    with torch.no_grad():
        assert linear.can_multiply(x)
        return linear(x, has_gelu=has_gelu)


def largest_error(sums: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> float:
    """The largest difference from float64, in parts of the sum of the products' sizes."""
    exact = nn.functional.linear(x.double(), weight.double(), bias.double())
    sizes = nn.functional.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    return float(((sums - exact).abs() / sizes).max())


# below, at and above a block, a group of blocks and what is summed before sums go to memory
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 128, 129, 192, 195, 450])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (96, 64), (768, 96), (800, 32), (1568, 64)])
def test_sums_are_as_exact_as_those_of_float32(rows, inputs, outputs):
    need_tiles()
    x, weight, bias = layer(rows, inputs, outputs)
    usual = max(largest_error(nn.functional.linear(x, weight, bias), x, weight, bias), 3e-7)
    assert largest_error(tiled(x, weight, bias), x, weight, bias) < 1.5 * usual


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_a_row_has_the_same_numbers_whatever_the_batch_and_the_threads(threads):
    need_tiles()
    x, weight, bias = layer(230, 832, 160)
    expected, usual = tiled(x, weight, bias), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(tiled(x, weight, bias), expected)
        assert torch.equal(tiled(x[200:207], weight, bias), expected[200:207])
    finally:
        torch.set_num_threads(usual)


def test_memory_formats_do_not_show():
    need_tiles()
    x, weight, bias = layer(40, 96, 64)
    expected = tiled(x, weight, bias)
    wide = torch.zeros(64, 192)
    wide[:, ::2] = weight
    for same in (weight.t().contiguous().t(), wide[:, ::2]):
        assert torch.equal(tiled(x, same, bias), expected)
    assert torch.equal(tiled(x.t().contiguous().t(), weight, bias), expected)
    assert torch.equal(tiled(x.reshape(2, 20, 96), weight, bias), expected.reshape(2, 20, 64))


def test_no_bias_is_one_of_zeros():
    need_tiles()
    x, weight, _ = layer(40, 96, 64)
    assert torch.equal(tiled(x, weight, None), tiled(x, weight, torch.zeros(64)))


def test_gelu_is_as_exact_as_that_of_torch():
    need_tiles()
    x, one = torch.linspace(-12, 12, 32 * 5000).reshape(-1, 32), torch.eye(32)
    exact = nn.functional.gelu(x.double())
    own, usual = tiled(x, one, None, has_gelu=True), nn.functional.gelu(x)
    assert (own - exact).abs().max() < 1.5 * (usual - exact).abs().max()


def test_what_is_no_number_is_seen_in_its_row_alone():
    need_tiles()
    x, weight, bias = layer(40, 64, 32)
    x[7, 5] = torch.nan
    for has_gelu in (False, True):
        is_nan = tiled(x, weight, bias, has_gelu=has_gelu).isnan()
        assert is_nan[7].all() and is_nan.sum() == 32


@pytest.mark.parametrize("sizes", [(32, 48), (48, 32)])
def test_other_sizes_go_the_usual_way(sizes):
    torch.manual_seed(0)
    linear, x = nn.Linear(*sizes), torch.randn(2, sizes[0])
    with torch.no_grad():
        expected = linear(x)
        linear.__class__ = TileLinear
        linear.pack()
        assert torch.equal(linear(x), expected)


def test_a_gradient_goes_the_usual_way():
    need_tiles()
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 64), torch.randn(2, 32)
    expected = torch.autograd.grad(linear(x).sum(), linear.weight)
    linear.__class__ = TileLinear
    linear.pack()
    assert torch.equal(torch.autograd.grad(linear(x).sum(), linear.weight)[0], expected[0])


def test_what_is_compiled_goes_the_usual_way(monkeypatch):
    monkeypatch.setattr(tiles, "can_use_tiles", lambda: True)
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 64), torch.randn(2, 32)
    with torch.no_grad():
        expected = linear(x)
        linear.__class__ = TileLinear
        linear.packed = torch.zeros(1)  # not looked at
        compiled = torch.compile(linear, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize(
    ("capabilities", "can_compile", "is_lent", "expected"),
    [
        ({"amx_bf16": True, "cpu_name": "Intel Xeon"}, True, 1, True),
        ({"amx_bf16": True, "cpu_name": "Intel Xeon"}, True, 0, False),
        ({"amx_bf16": True, "cpu_name": "Intel Xeon"}, False, 1, False),
        ({"amx_bf16": False, "avx512_f": True}, True, 1, False),
        ({"architecture": "aarch64"}, True, 1, False),
    ],
)
def test_processor_compiler_and_linux_decide(capabilities, can_compile, is_lent, expected, monkeypatch):
    class Kernels:
        @staticmethod
        def ask_for_tiles() -> int:
            return is_lent

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(tiles, "can_use_kernels", lambda: can_compile)
    monkeypatch.setattr(tiles, "load_kernels", Kernels)
    assert can_use_tiles.__wrapped__() is expected


def test_the_fastest_kind_is_that_of_the_processor(monkeypatch):
    for has_onednn, has_tiles, expected in (
        (True, False, (OneDnnLinear, OneDnnLinear)),
        (False, True, (TileLinear, nn.Linear)),
        (False, False, (nn.Linear, nn.Linear)),
    ):
        monkeypatch.setattr(passt, "is_onednn_faster", lambda value=has_onednn: value)
        monkeypatch.setattr(passt, "can_use_tiles", lambda value=has_tiles: value)
        assert (fastest_linear(packed=True), fastest_linear(packed=False)) == expected
