"""A PaSST that multiplies by oneDNN or tiles: the reference outputs, and when it does not."""

import copy
import pickle

import pytest
import torch
from compilers import need_tiles
from reference_passt import assert_reference_gradients, assert_reference_outputs, reference_passt
from torch import nn

from hf_ascdistill import PasstConfig, PasstForAudioClassification, inference_copy, use_native_kernels
from hf_ascdistill.native import passt
from hf_ascdistill.native.linear import NativeLinear
from hf_ascdistill.native.onednn import OneDnnLinear
from hf_ascdistill.native.passt import NativeMlp, use_fastest_linear
from hf_ascdistill.native.tiles import TileLinear

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LAYERS = 8  # linear ones in the blocks


@pytest.fixture(params=[OneDnnLinear, TileLinear], autouse=True)
def kind(request, monkeypatch) -> type[NativeLinear]:
    """Whichever is the fastest on a machine: the numbers of all that it can do are tested."""
    if request.param is TileLinear:
        need_tiles()
    elif not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("this torch was built without oneDNN")
    monkeypatch.setattr(passt, "fastest_linear", lambda packed: request.param)
    return request.param


@pytest.fixture
def products(kind, monkeypatch) -> list[bool]:
    """Of each product whether its weight is a packed one."""
    seen, own = [], kind.multiply

    def record(self, *args, **kwargs):
        seen.append(self.packed is not None)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(kind, "multiply", record)
    return seen


def small_model() -> PasstForAudioClassification:
    torch.manual_seed(0)
    model = PasstForAudioClassification(PasstConfig(**SMALL))
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model.eval()


def small_inputs() -> torch.Tensor:
    return torch.randn(2, 128, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prepare", [use_native_kernels, inference_copy])
@pytest.mark.parametrize("length", ["1s", "10s", "long"])
def test_evaluation_gives_the_reference_logits_and_features(golden, length, prepare, kind, products):
    arrays, model = reference_passt(golden)
    assert_reference_outputs(prepare(model), arrays, length)
    is_packed = prepare is inference_copy
    multiplies = is_packed or kind is OneDnnLinear
    assert products == [is_packed] * 2 * LAYERS * multiplies


def test_a_training_step_gives_the_reference_gradients(golden, monkeypatch, kind, products):
    arrays, model = reference_passt(golden)
    assert_reference_gradients(use_native_kernels(model), arrays, monkeypatch)
    assert len(products) == LAYERS * (kind is OneDnnLinear)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_gelu", [True, False])
def test_a_layer_has_the_gradients_of_torch(has_bias, has_gelu, kind):
    torch.manual_seed(0)
    layer = nn.Linear(32, 64, bias=has_bias)
    exact, own = copy.deepcopy(layer).double(), copy.deepcopy(layer)
    own.__class__ = kind
    inputs = torch.randn(32, 3, 2).permute(2, 1, 0)  # not contiguous
    x, y = inputs.clone().requires_grad_(), inputs.double().requires_grad_()
    output, expected = own(x, has_gelu=has_gelu), exact(y)
    expected = nn.functional.gelu(expected) if has_gelu else expected
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-6)
    direction = torch.randn(1, 3, 1).expand_as(output)
    output.backward(direction)
    expected.backward(direction.double())
    pairs = [(x, y), *zip(own.parameters(), exact.parameters(), strict=True)]
    for tensor, other in pairs:
        torch.testing.assert_close(tensor.grad.double(), other.grad, rtol=1e-5, atol=1e-5)


def test_frozen_layers_pass_gradients_on():
    model = use_fastest_linear(small_model()).train()
    for parameter in model.passt.blocks.parameters():
        parameter.requires_grad_(False)
    model(small_inputs()).logits.sum().backward()
    assert model.passt.patch_projection.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.passt.blocks.parameters())


def test_weights_that_change_show_in_evaluation_also_those_that_are_packed():
    model = small_model()
    native, packed, inputs = use_fastest_linear(copy.deepcopy(model)), inference_copy(model), small_inputs()
    with torch.no_grad():
        before = model(inputs).logits
        for network in (model, native, packed):
            network.passt.blocks[0].mlp.up.weight.mul_(2)
        after = model(inputs).logits
        assert not torch.allclose(before, after, atol=1e-2)
        torch.testing.assert_close(native(inputs).logits, after, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(inputs).logits, after, rtol=1e-5, atol=1e-5)
        packed.load_state_dict(small_model().state_dict())
        torch.testing.assert_close(packed(inputs).logits, before, rtol=1e-5, atol=1e-5)


def test_a_layer_inside_of_another_is_called_as_torch_calls_it():
    class Adapter(nn.Module):
        def __init__(self, layer: nn.Linear):
            super().__init__()
            self.layer, self.change = layer, nn.Linear(layer.in_features, layer.out_features)

        def forward(self, inputs: torch.Tensor, **kwargs) -> torch.Tensor:
            return self.layer(inputs, **kwargs) + self.change(inputs)

    torch.manual_seed(0)
    usual, inputs = small_model(), small_inputs()
    usual.passt.blocks[0].mlp.up = Adapter(usual.passt.blocks[0].mlp.up)
    native = use_fastest_linear(small_model(), packed=True)
    mlp = native.passt.blocks[0].mlp
    change, mlp.up = usual.passt.blocks[0].mlp.up.change, Adapter(mlp.up)
    mlp.up.change.load_state_dict(change.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(native(inputs).logits, usual(inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch.jit is of the past
def test_a_traced_layer_computes_what_the_layer_does():
    layer = use_fastest_linear(small_model(), packed=True).passt.blocks[0].mlp.up
    inputs = torch.randn(3, layer.in_features)
    with torch.no_grad():
        traced = torch.jit.trace(layer, inputs)
        torch.testing.assert_close(traced(2 * inputs), layer(2 * inputs), rtol=1e-5, atol=1e-5)


def test_inputs_of_another_width_are_refused_as_torch_refuses_them():
    layer = use_fastest_linear(small_model(), packed=True).passt.blocks[0].mlp.up
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.zeros(2, 2 * layer.in_features))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_packed_model_can_be_copied(again):
    model, inputs = inference_copy(small_model()), small_inputs()
    with torch.no_grad():
        torch.testing.assert_close(again(model)(inputs).logits, model(inputs).logits, rtol=1e-5, atol=1e-5)


def test_state_dict_and_files_are_those_of_the_model(tmp_path):
    model = small_model()
    inference_copy(model).save_pretrained(tmp_path)
    loaded = PasstForAudioClassification.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, NativeLinear | NativeMlp) for module in loaded.modules())


def test_other_types_and_autocast_go_the_usual_way(products):
    model, inputs = inference_copy(small_model()), small_inputs()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            expected = small_model()(inputs).logits
            torch.testing.assert_close(model(inputs).logits, expected)
        model.double()(inputs.double())
    assert not products


def test_hooks_see_what_a_layer_computes():
    seen, model, inputs = [], inference_copy(small_model()), small_inputs()
    layer = model.passt.blocks[0].mlp.up
    layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        model(inputs)
        given, output = seen[0]
        torch.testing.assert_close(output, nn.functional.linear(given, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_replaced_layers_and_other_processors_stay_as_they_are(kind, monkeypatch):
    class Adapted(nn.Linear):
        pass

    model = small_model()
    model.passt.blocks[0].mlp.up.__class__ = Adapted
    kinds = [type(module) for module in use_fastest_linear(model).modules()]
    assert kinds.count(Adapted) == 1 and kinds.count(kind) == LAYERS - 1 and kinds.count(NativeMlp) == 1
    monkeypatch.setattr(passt, "fastest_linear", lambda packed: nn.Linear)
    usual = small_model()
    kinds = [type(module) for module in usual.modules()]
    assert [type(module) for module in inference_copy(usual).modules()] == kinds
