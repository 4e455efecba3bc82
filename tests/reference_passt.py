"""The reference's PaSST of random weights, for every way of computing it."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from hf_ascdistill import PasstConfig, PasstForAudioClassification
from hf_ascdistill.models import modeling_passt

REFERENCE = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384}
PUBLISHED_NAMES = [  # ours, theirs; applied one after the other
    ("passt.", ""),
    ("token_positions", "new_pos_embed"),
    ("frequency_positions", "freq_new_pos_embed"),
    ("time_positions", "time_new_pos_embed"),
    ("patch_projection", "patch_embed.proj"),
    ("attention.projection", "attn.proj"),
    ("attention", "attn"),
    ("mlp.up", "mlp.fc1"),
    ("mlp.down", "mlp.fc2"),
    ("unused_classifier", "head_dist"),
    ("classifier.norm", "head.0"),
    ("classifier.linear", "head.1"),
]


def published_name(name: str) -> str:
    for ours, theirs in PUBLISHED_NAMES:
        name = name.replace(ours, theirs)
    return name


def reference_passt(golden) -> tuple[Mapping[str, np.ndarray], PasstForAudioClassification]:
    """Random weights of the authors' network with what they give: arrays and model."""
    arrays = golden("passt_tiny_random")
    model = PasstForAudioClassification(PasstConfig(**REFERENCE))
    tensors = {name: torch.from_numpy(arrays[f"sd/{published_name(name)}"]) for name in model.state_dict()}
    model.load_state_dict(tensors)
    assert len(tensors) == sum(name.startswith("sd/") for name in arrays)
    return arrays, model.eval()


def assert_reference_outputs(
    model: PasstForAudioClassification, arrays: Mapping[str, np.ndarray], length: str
) -> None:
    """Compares logits and features of a length in evaluation."""
    inputs = torch.from_numpy(arrays[f"x_{length}"])[:, 0]
    with torch.no_grad():
        logits, features = model(inputs).logits, model.passt(inputs).pooler_output
    np.testing.assert_allclose(logits, arrays[f"logits_{length}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(features, arrays[f"feat_{length}"], rtol=0, atol=1e-4)


def assert_reference_gradients(
    model: PasstForAudioClassification, arrays: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compares logits, loss and gradients of a training step, with the reference's draws of patchout."""
    drawn = []

    def offset(largest):
        drawn.append(("offset", largest))
        return int(arrays["toffset"])

    def kept(count, drop):
        drawn.append(("kept", count, drop))
        return torch.from_numpy(arrays["f_keep"])

    monkeypatch.setattr(modeling_passt, "draw_offset", offset)
    monkeypatch.setattr(modeling_passt, "draw_kept", kept)
    output = model.train()(torch.from_numpy(arrays["x_1s"])[:, 0], labels=torch.from_numpy(arrays["label"]))
    output.loss.backward()
    assert drawn == [("offset", 90), ("kept", 12, 6)]
    np.testing.assert_allclose(output.logits.detach(), arrays["logits_train"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(output.loss.item(), arrays["loss_train"], rtol=0, atol=1e-4)
    for name, parameter in model.named_parameters():
        if name.startswith("unused_classifier"):
            assert parameter.grad is None
        else:
            gradient = arrays[f"grad/{published_name(name)}"]
            np.testing.assert_allclose(parameter.grad, gradient, rtol=0, atol=1e-4, err_msg=name)
