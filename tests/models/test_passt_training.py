"""How PaSST trains: patchout, offsets, initial weights, checkpointed blocks, and the head that nothing reads."""

import numpy as np
import pytest
import torch
from test_passt import SECOND, SMALL, small_model
from torch.nn.parallel import DistributedDataParallel

from hf_ascdistill import PasstConfig, PasstForAudioClassification, PasstModel
from hf_ascdistill.models import modeling_passt


@pytest.mark.parametrize(
    ("fields", "frames", "training", "tokens"),
    [
        ({}, 100, False, 110),
        ({}, 100, True, 56),
        ({}, 998, False, 1190),
        ({"time_patchout": 4}, 100, True, 2 + 6 * 5),
        ({"frequency_patchout": 0, "unstructured_patchout": 8}, 100, True, 102),
        ({"time_patchout": 4, "unstructured_patchout": 8}, 100, False, 110),
        ({"time_patchout": 4, "unstructured_patchout": 8}, 100, True, 2 + 6 * 5 - 8),
    ],
)
def test_only_training_drops_patches(fields, frames, training, tokens):
    model = small_model(**fields).train(training)
    assert model.passt(torch.randn(2, 128, frames)).last_hidden_state.shape == (2, tokens, 32)


def test_kept_patches_are_a_sorted_uniform_draw_that_the_seed_repeats():
    torch.manual_seed(1)
    draws = torch.stack([modeling_passt.draw_kept(6, 2) for _ in range(600)])
    assert (draws.diff(dim=1) > 0).all()
    shares = draws.flatten().bincount(minlength=6) / 600
    assert ((shares - 4 / 6).abs() < 0.08).all()  # four standard deviations of 600 draws
    torch.manual_seed(1)
    assert torch.equal(modeling_passt.draw_kept(6, 2), draws[0])


def test_offsets_reach_both_ends():
    torch.manual_seed(0)
    assert {modeling_passt.draw_offset(3) for _ in range(100)} == {0, 1, 2, 3}
    assert modeling_passt.draw_offset(0) == 0


def test_the_draws_are_the_same_for_all_clips_and_new_for_each_batch():
    model, clip = small_model(time_patchout=3, unstructured_patchout=5).train(), torch.randn(1, *SECOND)
    logits = [model(clip.expand(3, -1, -1)).logits for _ in range(4)]
    for batch in logits:
        torch.testing.assert_close(batch, batch[:1].expand_as(batch), rtol=0, atol=1e-5)
    assert len({batch[0, 0].item() for batch in logits}) == 4


def test_training_shifts_the_time_positions_by_the_offset(monkeypatch):
    model, inputs = small_model(frequency_patchout=0), torch.randn(2, *SECOND)
    monkeypatch.setattr(modeling_passt, "draw_offset", lambda largest: 11)
    shifted = model.train()(inputs).logits
    assert not torch.allclose(shifted, model.eval()(inputs).logits, atol=1e-2)
    with torch.no_grad():
        model.passt.time_positions.copy_(model.passt.time_positions.roll(-11, dims=3))
    torch.testing.assert_close(shifted, model(inputs).logits)


@pytest.mark.parametrize("frames", [998, 1000, 1100])
def test_full_length_draws_no_offset_and_more_frames_change_nothing(frames, monkeypatch):
    monkeypatch.setattr(modeling_passt, "draw_offset", None)
    model, inputs = small_model(frequency_patchout=0), torch.randn(1, 128, frames)
    trained = model.train()(inputs).logits
    torch.testing.assert_close(trained, model.eval()(inputs[..., :998]).logits)


def test_patchout_that_leaves_nothing_raises():
    with pytest.raises(ValueError, match="drops 9 of 9 .* at least one must stay"):
        small_model(time_patchout=9).train()(torch.zeros(2, *SECOND))


def gradients(model, *, seed: int = 3, **request) -> dict[str, torch.Tensor]:
    """Gradients of one training step, patchout and offset drawn from the seed."""
    torch.manual_seed(seed)
    inputs, labels = torch.randn(4, *SECOND), torch.arange(4)
    model.zero_grad()
    model.train()(inputs, labels=labels, **request).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    model = small_model()
    expected = gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    calls = []
    model.passt.blocks[1].attention.register_forward_hook(lambda *_: calls.append(1))
    checkpointed = gradients(model)
    assert len(calls) == 2  # computed again in the backward pass
    for name, gradient in expected.items():
        assert torch.equal(checkpointed[name], gradient), name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_two_tokens_of_the_last_block_give_the_gradients_of_all(implementation, is_checkpointed):
    model, seen = small_model(), []
    model.set_attn_implementation(implementation)
    expected = gradients(model, output_hidden_states=True)
    if is_checkpointed:
        model.gradient_checkpointing_enable()
    model.passt.blocks[-1].mlp.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    for name, gradient in gradients(model).items():  # a missing one is an error there
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm(), name  # float32, other products
    assert set(seen) == {2}
    assert model.passt.blocks[-1].attention.qkv.weight.grad[:32].any(dim=1).all()  # the queries, of two tokens


def test_channels_last_gives_the_same_logits_and_gradients():
    model, inputs = small_model(), torch.randn(2, *SECOND)
    expected_logits, expected = model(inputs).logits, gradients(model)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model.eval()(inputs).logits, expected_logits, rtol=0, atol=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def assert_initialised(model: PasstForAudioClassification | PasstModel) -> None:
    """Checks that every tensor of the network has its initial distribution."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            spread = 5 / np.sqrt(2 * parameter.numel())  # five standard errors of a standard deviation
            assert abs(parameter.std().item() / 0.02 - 1) < spread, name


def test_initial_weights_are_narrow_normals():
    torch.manual_seed(0)
    assert_initialised(PasstForAudioClassification(PasstConfig(**SMALL)))
    assert_initialised(PasstModel(PasstConfig(**SMALL)))


def test_tokens_and_blocks_that_a_file_lacks_are_initialised(tmp_path):
    PasstModel(PasstConfig(**SMALL)).save_pretrained(tmp_path)
    torch.manual_seed(0)
    assert_initialised(PasstModel.from_pretrained(tmp_path, hidden_size=64, ignore_mismatched_sizes=True))


def test_other_classes_get_a_new_last_layer_and_keep_the_rest(tmp_path):
    model = small_model(num_labels=527)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    changed = PasstForAudioClassification.from_pretrained(tmp_path, num_labels=10, ignore_mismatched_sizes=True)
    new = {"classifier.linear.weight", "classifier.linear.bias", "unused_classifier.weight", "unused_classifier.bias"}
    for name, tensor in changed.state_dict().items():
        if name in new:
            assert tensor.shape[0] == 10 and tensor.std() < 0.03, name
        else:
            assert torch.equal(tensor, model.state_dict()[name]), name
    assert not changed.unused_classifier.weight.requires_grad


@pytest.mark.parametrize("is_loaded", [False, True])
def test_the_unused_classifier_takes_no_part_in_training(is_loaded, tmp_path):
    model = small_model()
    if is_loaded:  # from_pretrained puts new parameters in the place of frozen ones
        model.save_pretrained(tmp_path)
        model = PasstForAudioClassification.from_pretrained(tmp_path)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["unused_classifier.weight", "unused_classifier.bias"]
    before = model.unused_classifier.weight.clone()
    adam = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    assert all(gradient.any() for gradient in gradients(model).values())
    adam.step()
    assert torch.equal(model.unused_classifier.weight, before)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_ddp_needs_no_search_for_unused_parameters(process_group, tmp_path, is_checkpointed):
    small_model().save_pretrained(tmp_path / "saved")
    model = PasstForAudioClassification.from_pretrained(tmp_path / "saved").train()
    if is_checkpointed:
        model.gradient_checkpointing_enable()
    wrapped = DistributedDataParallel(model)
    for _ in range(2):  # a parameter without gradient stops the second step
        wrapped(torch.randn(2, *SECOND), labels=torch.arange(2)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
