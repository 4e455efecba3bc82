"""PaSST against the reference outputs, and what its users rely on."""

import json

import pytest
import torch
from reference_passt import assert_reference_gradients, assert_reference_outputs, reference_passt
from torch import nn
from torch.nn import functional

from hf_ascdistill import PasstConfig, PasstForAudioClassification, PasstModel

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SECOND = (128, 100)  # the log-mel of one second


def small_model(**fields) -> PasstForAudioClassification:
    """A small network with weights as large as after training, in evaluation mode."""
    torch.manual_seed(0)
    model = PasstForAudioClassification(PasstConfig(**{**SMALL, **fields}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model.eval()


@pytest.fixture
def reference(golden):
    return reference_passt(golden)


both_implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


@both_implementations
@pytest.mark.parametrize("length", ["1s", "10s", "long"])
def test_evaluation_gives_the_reference_logits_and_features(reference, length, implementation):
    arrays, model = reference
    model.set_attn_implementation(implementation)
    assert_reference_outputs(model, arrays, length)


@both_implementations
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_training_step_gives_the_reference_gradients(reference, implementation, is_checkpointed, monkeypatch):
    arrays, model = reference
    model.set_attn_implementation(implementation)
    if is_checkpointed:
        model.gradient_checkpointing_enable()
    assert_reference_gradients(model, arrays, monkeypatch)


@pytest.mark.parametrize(("num_labels", "parameters"), [(10, 85_358_612), (527, 86_153_758)])
def test_passt_s_has_the_published_parameters(num_labels, parameters):
    with torch.device("meta"):  # shapes are enough
        model = PasstForAudioClassification(PasstConfig.from_preset("s", num_labels=num_labels))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == 159
    assert not list(model.buffers())


@pytest.mark.parametrize("frames", [16, 25, 26, 43, 100, 500, 2000])
def test_any_length_is_classified(frames):
    logits = small_model()(torch.randn(2, 128, frames)).logits
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", [(2, 127, 100), (2, 256, 100), (2, 128, 15), (128, 100), (2, 1, 128, 100)])
def test_inputs_of_another_shape_raise(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, mels, frames\), 128 mels and at least 16 frames"):
        small_model()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 50}, "hidden_size is 50; expected a multiple of num_attention_heads = 12"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected a positive whole number"),
        ({"num_mel_bins": 15}, "num_mel_bins is 15; expected a whole number of at least patch_size = 16"),
        ({"frequency_patchout": 12}, "frequency_patchout is 12; expected a whole number from 0 to below 12"),
        ({"time_patchout": -1}, "time_patchout is -1; expected a whole number from 0 to below 99"),
        ({"unstructured_patchout": 1188}, "unstructured_patchout is 1188; expected a whole number from 0 to below"),
    ],
)
def test_configurations_without_a_meaning_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        PasstConfig(**fields)


def test_other_strides_change_the_grid():
    config = PasstConfig(**SMALL, patch_stride=16, frequency_patchout=0, max_frames=3200)
    assert (config.frequency_patches, config.time_patches) == (8, 200)
    output = PasstModel(config).eval()(torch.randn(1, *SECOND))
    assert output.last_hidden_state.shape == (1, 2 + 8 * 6, 32)


def test_attention_weights_are_those_of_the_softmax():
    model, inputs = small_model(), torch.randn(2, *SECOND)
    expected = model(inputs).logits
    model.set_attn_implementation("eager")
    output = model(inputs, output_attentions=True)
    torch.testing.assert_close(output.logits, expected)
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, 110, 110)] * 2
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, 4, 110))
    assert model(inputs).attentions is None


def test_sdpa_has_no_attention_weights_to_give():
    with pytest.raises(ValueError, match=r"'sdpa' gives no attention weights.*attn_implementation=\"eager\""):
        small_model()(torch.zeros(1, *SECOND), output_attentions=True)


def test_sdpa_is_the_default_and_eager_can_be_asked_for(tmp_path):
    model = small_model()
    assert model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    loaded = PasstForAudioClassification.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded(torch.zeros(1, *SECOND), output_attentions=True).attentions[0].shape == (1, 4, 110, 110)


def test_hidden_states_are_the_outputs_of_the_blocks():
    model, inputs = small_model(), torch.randn(2, *SECOND)
    output = model.passt(inputs, output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, 110, 32)] * 2
    assert torch.equal(model.passt.norm(output.hidden_states[-1]), output.last_hidden_state)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, :2].mean(1))
    assert len(model(inputs, output_hidden_states=True).hidden_states) == 2
    assert model(inputs).hidden_states is None


@both_implementations
def test_the_logits_are_those_of_all_tokens(implementation):
    model, inputs = small_model(), torch.randn(2, *SECOND)
    model.set_attn_implementation(implementation)
    expected = model(inputs, output_hidden_states=True).logits
    torch.testing.assert_close(model(inputs).logits, expected, rtol=0, atol=1e-5)  # float32, other matrix products


@pytest.mark.parametrize(
    ("asked", "defaults", "tokens"),
    [
        ({}, {}, [110, 2]),
        ({"output_hidden_states": True}, {}, [110, 110]),
        ({"output_attentions": True}, {}, [110, 110]),
        ({}, {"output_hidden_states": True}, [110, 110]),
        ({}, {"output_attentions": True}, [110, 110]),
        ({"output_hidden_states": False}, {"output_hidden_states": True}, [110, 2]),
    ],
)
def test_the_last_block_leaves_the_patches_out_where_nothing_else_is_asked_for(asked, defaults, tokens):
    model, inputs, seen = small_model(), torch.randn(2, *SECOND), []
    model.set_attn_implementation("eager")
    for name, value in defaults.items():
        setattr(model.config, name, value)
    for block in model.passt.blocks:
        block.mlp.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape[1]))
    output = model(inputs, **asked)
    assert seen == tokens
    for weights in output.attentions or ():
        assert weights.shape == (2, 4, 110, 110)
    for states in output.hidden_states or ():
        assert states.shape == (2, 110, 32)


@both_implementations
def test_the_network_gives_all_tokens_or_on_request_the_first_two(implementation):
    model, inputs = small_model().passt, torch.randn(2, *SECOND)
    model.set_attn_implementation(implementation)
    whole, short = model(inputs), model(inputs, tokens_only=True)
    assert whole.last_hidden_state.shape == (2, 110, 32)
    torch.testing.assert_close(short.last_hidden_state, whole.last_hidden_state[:, :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(short.pooler_output, whole.pooler_output, rtol=0, atol=1e-5)


def test_a_tuple_is_returned_on_request():
    model, inputs = small_model(), torch.randn(2, *SECOND)
    (logits,) = model(inputs, return_dict=False)
    assert torch.equal(logits, model(inputs).logits)
    tokens, pooled = model.passt(inputs, return_dict=False)
    assert tokens.dim() == 3 and pooled.dim() == 2


def test_the_loss_is_the_cross_entropy_of_the_labels():
    model, inputs, labels = small_model(), torch.randn(3, *SECOND), torch.tensor([4, 0, 9])
    output = model(inputs, labels=labels)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels))
    assert model(inputs).loss is None
    assert not model.accepts_loss_kwargs


@both_implementations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_and_stays_close_to_float32(dtype, implementation):
    model, inputs, labels = small_model(), torch.randn(4, *SECOND), torch.arange(4)
    model.set_attn_implementation(implementation)
    expected = model(inputs).logits.detach()
    with torch.autocast("cpu", dtype=dtype):
        output = model(inputs, labels=labels)
    output.loss.backward()
    assert output.logits.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.detach(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained)


def test_half_precision_weights_stay_close_to_float32(tmp_path):
    model, inputs = small_model(), torch.randn(2, *SECOND)
    expected = model(inputs).logits.detach()
    model.save_pretrained(tmp_path)
    model = PasstForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    output = model(inputs.bfloat16(), labels=torch.arange(2))
    output.loss.backward()
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits.detach(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
    assert model.passt.norm.weight.grad.dtype == torch.bfloat16


def test_double_precision_agrees_with_single():
    model, inputs = small_model(), torch.randn(2, *SECOND)
    single = model(inputs).logits
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        double = model.double()(inputs.double()).logits
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_the_saved_configuration_names_its_fields(tmp_path):
    small_model(frequency_patchout=4).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "asc-passt"
    assert (stored["frequency_patchout"], stored["max_frames"], stored["patch_stride"]) == (4, 998, 10)
    loaded = PasstForAudioClassification.from_pretrained(tmp_path, frequency_patchout=0)
    assert loaded.config.frequency_patchout == 0
