"""Stages a trained model as a complete repository of the Hub, and checks that it loads by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, logging

from ..denormals import zero_denormals
from ..files import new_folder
from ..models import MODELS, AscFeatureExtractor
from . import fresh_process, handler
from .card_context import CardContext, resolve_context
from .card_facts import check_results, starts_from_weights
from .card_tables import TYPES
from .model_card import check_card, render_model_card

logger = logging.get_logger(__name__)

CARD_NAME = "README.md"
HANDLER_NAME = "handler.py"
REQUIREMENTS_NAME = "requirements.txt"
RESULTS_NAME = "results.json"
PICTURES = ("devices.png", "training_curve.png")  # taken along where the run has them
# What the modelling files and the handler import, in the ranges of the package.
REQUIREMENTS = ("torch>=2.11,<2.15", "transformers>=5.17,<6", "soundfile>=0.13", "soxr>=1.0", "numpy>=2")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


def stage_repository(
    run: str | Path,
    folder: str | Path,
    *,
    repo_id: str,
    results: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the files of a Hub repository: weights, configuration, front-end, their code, handler and model card.

    The model is loaded and saved anew, so that its code is that of this package, wherever the run was saved; nothing
    else of the run's folder is taken, no checkpoints and no pickled training arguments (those may hold a token).

    Args:
        run (`str | Path`): folder of a finished run, or of a converted model.
        folder (`str | Path`): folder to make; a new or empty one.
        repo_id (`str`): `user/name`, for the card.
        results (`Mapping`, *optional*): what the card tells; unset: the run's `results.json`.
        card (`Mapping`, *optional*): further arguments of [`render_model_card`]: `runs`, `baseline`, `context`.

    Returns:
        `Path`: `folder`.

    Raises:
        FileNotFoundError: there is no model in `run`, or no `results.json`.
        ValueError: the model is none of this package's architectures, the card needs a context (see
            [`render_model_card`]), or `folder` is in use.
    """
    run, folder = Path(run), Path(folder)
    if not (run / CONFIG_NAME).exists():
        raise FileNotFoundError(f"{run} holds no model ({CONFIG_NAME} is missing); name the folder of a finished run.")
    results = read_results(run) if results is None else results
    check_results(results)
    model, extractor = _load(run)
    zero_denormals(model.state_dict().values())  # of a run that was saved by other means
    pictures = [name for name in PICTURES if (run / name).exists()]
    picture = PICTURES[0] if PICTURES[0] in pictures else None
    context = _context(results, (card or {}).get("context"), config=model.config)
    settings = {**(card or {}), "extractor_settings": extractor.to_dict(), "picture": picture, "context": context}
    text = render_model_card(results, repo_id=repo_id, **settings)
    with new_folder(folder) as partial:
        model.save_pretrained(partial)
        extractor.save_pretrained(partial)
        shutil.copyfile(handler.__file__, partial / HANDLER_NAME)
        for name in pictures:
            shutil.copyfile(run / name, partial / name)
        (partial / REQUIREMENTS_NAME).write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
        (partial / CARD_NAME).write_text(text, encoding="utf-8")
    return folder


def _load(run: Path) -> tuple[PreTrainedModel, AscFeatureExtractor]:
    """Loads a run's model with this package's code."""
    model = AutoModelForAudioClassification.from_pretrained(run)
    if type(model) not in {classifier for *_, classifier in MODELS}:
        known = ", ".join(classifier.__name__ for *_, classifier in MODELS)
        raise ValueError(f"{run} holds a {type(model).__name__}; expected one of {known}.")
    return model, AutoFeatureExtractor.from_pretrained(run)


def read_results(run: Path) -> dict[str, Any]:
    """Reads the results that a model card is made from.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are no JSON.
    """
    path = run / RESULTS_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{run} holds no {RESULTS_NAME}, which the model card is made from: train the run to its end, or pass the "
            "results of a model that was not trained here."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); evaluate the run again.") from error


def _context(results: Mapping[str, Any], context: CardContext | None, *, config: PreTrainedConfig) -> CardContext:
    """Returns the context of a card; where the results do not say which network it is, its configuration does."""
    context = resolve_context(results["scenes"], results["devices"], context)
    is_known = "configuration" in results and not starts_from_weights(results["configuration"])
    return context if is_known or context.network else replace(context, network=network_name(config))


def network_name(config: PreTrainedConfig) -> str:
    """Returns the name of a network with its size, where it is one of the paper's: `CP-Mobile (128K)`."""
    kind, own = (
        type(config),
        {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)},
    )
    for size in kind.PRESETS:
        preset = kind.from_preset(size)
        if all(getattr(config, name) == getattr(preset, name) for name in own):
            return f"{TYPES[config.model_type]} ({size.upper()})"
    return f"{TYPES[config.model_type]}, of a size of its own"


def validate_repository(folder: str | Path) -> None:
    """Loads a staged repository as a stranger would, and checks its card.

    A new process, in which neither this package nor torchaudio, datasets or the network is to be had, loads
    configuration, model, classifier and front-end with `trust_remote_code`, and sends a second of noise through them
    and through the handler.

    Args:
        folder (`str | Path`): a folder from [`stage_repository`].

    Raises:
        ValueError: a file is missing or holds a token, the card is not complete, the model does not load, or handler
            and model disagree.
    """
    folder = Path(folder)
    check_texts(folder)
    check_card((folder / CARD_NAME).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as modules:
        # -B: the folder is published as it stands, without a __pycache__ of the check
        command = [sys.executable, "-B", "-P", fresh_process.__file__, str(folder.resolve())]
        # no token either: nothing is to be asked of the Hub
        environment = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = result.stderr.rpartition(fresh_process.MARK)[2].strip()
        raise ValueError(f"{folder} does not work by itself: {reason[-1000:]} Stage it anew with this package.")
    logger.info(f"{folder} loads without the package and answers.")


def check_texts(folder: Path) -> None:
    """Checks that a staged folder has a card, and that none of its texts holds an access token of the Hub.

    Raises:
        ValueError: one of it is not so; the token is not repeated.
    """
    if not (folder / CARD_NAME).exists():
        raise ValueError(f"{folder} holds no {CARD_NAME}; stage it anew.")
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".json", ".py", ".txt") and TOKEN.search(path.read_text(encoding="utf-8")):
            raise ValueError(f"{path} holds what looks like an access token of the Hub; take it out.")


__all__ = ["check_texts", "network_name", "read_results", "stage_repository", "validate_repository"]
