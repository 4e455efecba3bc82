"""What an exported file says about itself: classes, front-end, versions, source."""

import json
from importlib import import_module
from typing import Any

from transformers import PreTrainedModel

from ..models.feature_extraction_asc import AscFeatureExtractor

FRONT_END = (
    "n_fft",
    "win_length",
    "hop_length",
    "n_mels",
    "fmin",
    "fmax",
    "preemphasis",
    "log_offset",
    "shift",
    "scale",
)


def export_metadata(model: PreTrainedModel, extractor: AscFeatureExtractor, *, source: str) -> dict[str, str]:
    """Returns what every exported file carries, as text by key: lists and objects are JSON.

    Args:
        model (`PreTrainedModel`): the classifier.
        extractor ([`AscFeatureExtractor`]): its front-end.
        source (`str`): where the model comes from: a run, a folder or a name of the Hub.

    Returns:
        `dict[str, str]`: `labels` (a list, in the order of the outputs), `sampling_rate` (Hz), `min_samples` (of the
        shortest clip), `front_end` (settings of the log-mel), `architecture`, `source`, and `producer` (package and
        version).
    """
    package = __name__.partition(".")[0]
    values: dict[str, Any] = {
        "labels": [model.config.id2label[index] for index in range(model.config.num_labels)],
        "sampling_rate": extractor.sampling_rate,
        "min_samples": max(extractor.n_fft, (_min_frames(model) - 1) * extractor.hop_length + 1),
        "front_end": {name: getattr(extractor, name) for name in FRONT_END},
    }
    texts = {
        "architecture": model.config.model_type,
        "source": source,
        "producer": f"{package} {import_module(package).__version__}",
    }
    return {name: json.dumps(value) for name, value in values.items()} | texts


def _min_frames(model: PreTrainedModel) -> int:
    """Returns how many frames a log-mel has at least: those of a patch of PaSST."""
    return getattr(model.config, "patch_size", 1)


__all__ = ["FRONT_END", "export_metadata"]
