"""The networks of the benchmarks: the package's, and the same weights in a network that has nothing of it."""

import copy
from pathlib import Path

import torch
from plain_network import plain_cp_mobile
from torch import nn
from workload import CLASSES

from hf_ascdistill import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
)

NETWORKS = {
    "cp-mobile": (CpMobileConfig, CpMobileForAudioClassification),
    "cp-resnet": (CpResNetConfig, CpResNetForAudioClassification),
}
SPREAD = 0.02  # added to fresh weights, for CP-ResNet starts with zeros that would hide a difference


class Logits(nn.Module):
    """A network of transformers that returns nothing but its logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs).logits


def fresh_model(architecture: str) -> nn.Module:
    """Returns the 128K network of an architecture, a little away from its initialisation; the same at every call."""
    config_class, model_class = NETWORKS[architecture]
    torch.manual_seed(0)
    model = model_class(config_class.from_preset("128k", num_labels=CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    return model


def plain_model(model: nn.Module) -> nn.Module:
    """Returns a contiguous network of the same weights: of CP-Mobile the plain one, of CP-ResNet the package's."""
    if isinstance(model, CpMobileForAudioClassification):
        return plain_cp_mobile(model.state_dict().values()).train(model.training)
    return Logits(copy.deepcopy(model))


def open_checkpoint(path: Path) -> tuple[nn.Module, AscFeatureExtractor, nn.Module]:
    """Opens a published CP-Mobile: as the package converts it, its front-end, and plain with the weights as published.

    Args:
        path (`Path`): the authors' file.

    Raises:
        ValueError: it holds another network, or is damaged.
    """
    from hf_ascdistill import load_checkpoint  # conversion needs datasets, which a GPU's machine may lack
    from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES
    from hf_ascdistill.conversion.tensors import read_tensors

    model, extractor = load_checkpoint(path)
    if not isinstance(model, CpMobileForAudioClassification):
        raise ValueError(f"{path} holds a {type(model).__name__}; expected a published CP-Mobile 128K.")
    tensors, names = read_tensors(path), ARCHITECTURES[0].tensor_name
    published = plain_cp_mobile(tensors[names(ours)] for ours in model.state_dict())
    return model, extractor, published.eval()


def count_denormals(network: nn.Module) -> int:
    """Counts the weights that are not 0 and smaller than the smallest normal number of their type."""
    return sum(
        int(((tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)).sum())
        for tensor in network.state_dict().values()
        if tensor.is_floating_point()
    )


__all__ = ["Logits", "count_denormals", "fresh_model", "open_checkpoint", "plain_model"]
