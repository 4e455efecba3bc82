"""Tiny teachers of all architectures, with the front-ends that belong to them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_corpus import tiny_model
from torch import nn

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
)

Teacher = tuple[nn.Module, AcousticFrontend]


def front_end(preset: str) -> AcousticFrontend:
    return AcousticFrontend(AscFeatureExtractor.from_preset(preset))


def tiny_cpr(scenes: Sequence[str], seed: int = 0) -> nn.Module:
    """A small CP-ResNet with random weights; a new one's logits are all zero."""
    torch.manual_seed(seed)
    model = CpResNetForAudioClassification(CpResNetConfig(base_channels=16, id2label=dict(enumerate(scenes))))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def tiny_passt(scenes: Sequence[str], seed: int = 0) -> nn.Module:
    """A small PaSST with random weights, large enough that its logits differ between clips."""
    torch.manual_seed(seed)
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return PasstForAudioClassification(PasstConfig(**size, initializer_range=0.3, id2label=dict(enumerate(scenes))))


def tiny_teachers(scenes: Sequence[str]) -> dict[str, Teacher]:
    """Two CP-Mobiles of one front-end, a CP-ResNet and a PaSST."""
    return {
        "cpm-s0": (tiny_model(scenes, seed=0), front_end("cp-mobile")),
        "cpm-s1": (tiny_model(scenes, seed=1), front_end("cp-mobile")),
        "cpr-s0": (tiny_cpr(scenes), front_end("cp-resnet")),
        "passt-s0": (tiny_passt(scenes), front_end("passt")),
    }


def save_runs(teachers: dict[str, Teacher], folder: Path) -> dict[str, Path]:
    """Saves teachers as the folders of their runs."""
    for name, (model, frontend) in teachers.items():
        model.save_pretrained(folder / name)
        frontend.extractor.save_pretrained(folder / name)
    return {name: folder / name for name in teachers}
