"""The reference's training steps of CP-Mobile, for every way of training it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification
from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES


def reference_model(weights: Callable[[str], object]) -> tuple[CpMobileForAudioClassification, dict[str, str]]:
    """The student's network with weights under `weights(authors' name)`, and the authors' name of each tensor."""
    model = CpMobileForAudioClassification(CpMobileConfig())
    names = {name: ARCHITECTURES[0].tensor_name(name) for name in model.state_dict()}
    model.load_state_dict({ours: torch.as_tensor(weights(theirs)) for ours, theirs in names.items()})
    return model, names


def reference_batch(arrays) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(arrays["x"])[:, 0], torch.from_numpy(arrays["label"])


def assert_reference_step(prepare: Callable[[nn.Module], nn.Module], golden, *, gradient_limit: float) -> None:
    """Compares logits, loss, gradients and running statistics of a step of the model that `prepare` returns."""
    arrays = golden("cpm32_random")
    model, names = reference_model(lambda name: arrays[f"sd/{name}"])
    inputs, labels = reference_batch(arrays)
    output = prepare(model.train())(inputs, labels=labels)
    output.loss.backward()
    np.testing.assert_allclose(output.logits.detach(), arrays["out_train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(output.loss.item(), arrays["loss_train"], rtol=0, atol=1e-6)
    for name, parameter in model.named_parameters():
        expected = torch.from_numpy(arrays[f"grad/{names[name]}"])
        if "response_norm" in name:  # a sum with heavy cancellation
            torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=2e-3, msg=name)
        else:
            limit = 2e-2 if name == "cp_mobile.stem.first.conv.weight" else gradient_limit
            assert (parameter.grad - expected).norm() <= limit * expected.norm(), name
    for name, buffer in model.named_buffers():
        if "running" in name:
            expected = torch.from_numpy(arrays[f"after/{names[name]}"])
            torch.testing.assert_close(buffer, expected, rtol=0, atol=1e-6, msg=name)
        else:
            assert buffer == torch.from_numpy(arrays[f"sd/{names[name]}"]) + 1


def assert_reference_losses(prepare: Callable[[nn.Module], nn.Module], golden, shared: Path) -> None:
    """Compares the losses of three Adam steps of the published checkpoint."""
    arrays, clips = golden("cpm_ckpt_3steps"), golden("clips8")
    content = torch.load(shared / "checkpoints" / "cpm_student_dcase23.ckpt", map_location="cpu", weights_only=True)
    model, _ = reference_model(lambda name: content["state_dict"][f"model.{name}"])
    model = prepare(model.train())
    optimizer = torch.optim.Adam(model.parameters(), lr=9e-4, weight_decay=1e-4)
    inputs, labels, teacher = (
        torch.from_numpy(array) for array in (clips["mel_cpm"], arrays["label"], arrays["teacher"])
    )
    for step in range(3):
        logits = model(inputs).logits
        log_student, log_teacher = (functional.log_softmax(values / 2, dim=1) for values in (logits, teacher))
        divergence = (log_teacher.exp() * (log_teacher - log_student)).mean()  # over batch and classes
        loss = 0.02 * functional.cross_entropy(logits, labels) + 0.98 * 4 * divergence
        np.testing.assert_allclose(loss.item(), arrays[f"loss{step}"], rtol=0, atol=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
