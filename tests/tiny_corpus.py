"""A made-up corpus in TAU22's layout and names, 60 training and 30 evaluation clips, written once for all tests."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn

from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification, load_tau22, prepare, write_synthetic_corpus
from hf_ascdistill.data.synthetic import SyntheticSettings


@cache
def tiny_corpus(basetemp: Path) -> Path:
    """Folder of wav files: recordings of two slices in training, of one in evaluation."""
    folder = basetemp / "tiny-corpus"
    write_synthetic_corpus(folder, settings=SyntheticSettings.from_preset("tiny"), seed=1)
    return folder


@cache
def tiny_store(basetemp: Path) -> Path:
    """Folder of the prepared store of the same clips."""
    folder = basetemp / "tiny-store"
    prepare(load_tau22(tiny_corpus(basetemp)), folder, num_proc=1)
    return folder


def example_ids(clips: Dataset) -> list[str]:
    return clips.with_format(None)["example_id"][:]


def tiny_model(scenes: Sequence[str], seed: int = 0) -> nn.Module:
    """A small CP-Mobile with random weights, whose logits differ between clips as those of a trained one."""
    torch.manual_seed(seed)
    model = CpMobileForAudioClassification(CpMobileConfig(base_channels=8, id2label=dict(enumerate(scenes))))
    last_norm = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    nn.init.constant_(last_norm.weight, 1e3)
    return model
