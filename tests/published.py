"""Files as they are published: weights of our networks under the authors' names, which are written out here."""

from pathlib import Path

import torch

from hf_ascdistill import PasstConfig, PasstForAudioClassification

WIDTH = 64  # one attention head
PASST_NAMES = {
    "passt.token_positions": "new_pos_embed",
    "passt.frequency_positions": "freq_new_pos_embed",
    "passt.time_positions": "time_new_pos_embed",
    "passt.patch_projection": "patch_embed.proj",
    "attention.qkv": "attn.qkv",
    "attention.projection": "attn.proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "unused_classifier": "head_dist",
    "classifier.norm": "head.0",
    "classifier.linear": "head.1",
    "passt.": "",
}


def small_passt(*, seed: int = 0, **fields) -> PasstForAudioClassification:
    """A PaSST of few, narrow blocks, all of whose tensors hold other numbers."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 128}
    model = PasstForAudioClassification(PasstConfig(**{**sizes, **fields})).eval()
    return with_random_weights(model, seed)


def with_random_weights(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            if name.endswith("running_var"):
                tensor.abs_().add_(1)
    return model


def passt_tensors(model: PasstForAudioClassification) -> dict[str, torch.Tensor]:
    """Its state dict under the published names."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in PASST_NAMES.items():
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    return tensors


def written(content, folder: Path, name: str = "checkpoint.pt") -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def without(tensors: dict, *prefixes: str) -> dict:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
