"""Soups: one model whose weights are the mean of several models' weights, and what it is worth beside them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .data.collator import collate_clips
from .data.columns import DEVICE_IDS, INPUT_VALUES, LABELS, WAVEFORM
from .data.logits import LOGITS, some
from .denormals import zero_denormals
from .evaluation import accuracy_table, evaluate_logits, front_end_settings, predict_batches_of_many, usual_groups
from .files import new_folder, write_json
from .teachers import model_identity
from .transforms.frontend import AcousticFrontend

Members = Mapping[str, tuple[PreTrainedModel, AcousticFrontend]]

RESULTS_NAME = "soup.json"
COUNTER = "num_batches_tracked"  # of batch normalisation; of use only while it averages
SAVED_APART = ("_name_or_path", "auto_map", "transformers_version")  # say where a model lies, not what it is
MODEL_TYPE = "model_type"
CLASS_NAMES = ("id2label", "label2id")
_SOUP = object()  # stands beside the members' names, none of which it can be
HALF = 0.5  # of what the worst member knows above chance; a soup that has lost more is broken, not just unlucky
APART = "these weights do not lie in one basin."
ADVICE = (
    "Average runs that were fine-tuned from one set of weights (--initial_weights) or checkpoints of one run; of runs "
    "that began apart, average the logits (evaluate_ensemble.py) and distil them."
)


def check_alike(members: Members) -> None:
    """Checks that models differ in their weights alone: the same configuration, classes and front-end.

    Args:
        members (`Mapping[str, tuple[PreTrainedModel, AcousticFrontend]]`): models by name, each with its front-end.

    Raises:
        ValueError: two of them differ; the models, the fields and their values are named.
    """
    (first, *others) = members
    expected = _settings(*members[first])
    for name in others:
        found = _settings(*members[name])
        fields = [MODEL_TYPE] if found[MODEL_TYPE] != expected[MODEL_TYPE] else sorted(expected.keys() | found.keys())
        differing = [
            f"{field} is {expected.get(field)!r} in {first}, {found.get(field)!r} in {name}"
            for field in fields
            if expected.get(field) != found.get(field)
        ]
        if differing:
            raise ValueError(
                f"{name} and {first} are not alike: {'; '.join(differing)}. Expected models of one configuration, "
                "with the same classes and front-end."
            )


def _settings(model: PreTrainedModel, frontend: AcousticFrontend) -> dict[str, Any]:
    """Returns what makes a model besides its weights: fields of its configuration, its classes, its front-end."""
    config = model.config
    fields = {name: value for name, value in config.to_dict().items() if name not in (*SAVED_APART, *CLASS_NAMES)}
    classes = [config.id2label[index] for index in range(config.num_labels)]
    front_end = {f"front-end {name}": value for name, value in front_end_settings(frontend.extractor).items()}
    return {**fields, "classes": classes, **front_end}


def average_weights(members: Members) -> PreTrainedModel:
    """Averages the weights of several models into a new one: the uniform soup.

    Floating-point tensors are averaged in float64, batch normalisation's statistics among them, which
    [`reestimate_batch_norm`] then makes fit. Its counters `num_batches_tracked` become the largest of the members';
    any other whole numbers must be the same in all.

    Args:
        members (`Mapping[str, tuple[PreTrainedModel, AcousticFrontend]]`): two models or more by name, each with its
            front-end; they stay as they are.

    Returns:
        `PreTrainedModel`: the soup, in evaluation mode, on the CPU.

    Raises:
        ValueError: there are fewer than two models, they differ in more than their weights (see [`check_alike`]), or
            a weight is NaN or infinite; the model and the field or tensor are named.

    Source: Wortsman et al., *Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time*, 2022. It holds for models that lie in one basin of the loss: those that were fine-tuned
    from one set of weights. The mean of models that began apart is at chance.
    """
    if len(members) < 2:
        raise ValueError(f"a soup needs at least two models; given: {', '.join(members) or 'none'}.")
    check_alike(members)
    states = {name: model.state_dict() for name, (model, _) in members.items()}
    soup = copy.deepcopy(next(iter(members.values()))[0]).cpu().eval()
    soup.load_state_dict({tensor: _mean(tensor, states) for tensor in soup.state_dict()})
    zero_denormals(soup.state_dict().values())
    return soup


def _mean(name: str, states: Mapping[str, Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Returns the tensor of this name for the soup."""
    tensors = {member: state[name].cpu() for member, state in states.items()}
    first, *others = tensors.values()
    if not first.is_floating_point():
        if name.rpartition(".")[2] == COUNTER:
            return torch.stack([first, *others]).amax(0)
        if not all(torch.equal(first, other) for other in others):
            raise ValueError(f"{name} holds whole numbers that differ in {', '.join(tensors)}; they have no mean.")
        return first
    for member, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name} of {member} holds NaN or infinite numbers; leave {member} out or train it again."
            )
    return (sum(tensor.double() for tensor in tensors.values()) / len(tensors)).to(first.dtype)


def reestimate_batch_norm(
    model: nn.Module, clips: Dataset, *, frontend: AcousticFrontend, batch_size: int = 64, seed: int = 0
) -> int:
    """Measures the statistics of batch normalisation anew: the mean over the batches of one pass over the clips.

    The mean of the members' statistics is not that of the soup's activations. The pass takes unaugmented clips in an
    order that the seed shuffles, so that batches mix scenes and devices; a last batch that is not full is left out,
    unless it is the only one. Dropout and the like stay off, no weight changes.

    Args:
        model (`nn.Module`): an audio classifier; its statistics change in place, it is left in evaluation mode.
        clips (`datasets.Dataset`): training clips of one length with `waveform`.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.
        seed (`int`, *optional*, defaults to 0): of the order of the clips.

    Returns:
        `int`: number of layers whose statistics were measured; 0 where the model has no batch normalisation.

    Source: Izmailov et al., *Averaging weights leads to wider optima and better generalization*, 2018, section 3.2.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return 0
    generator = torch.Generator().manual_seed(seed)
    is_cut = len(clips) > batch_size
    settings = {"shuffle": True, "generator": generator, "drop_last": is_cut, "collate_fn": collate_clips}
    batches = DataLoader(clips, batch_size, **settings)
    momenta = [layer.momentum for layer in norms]
    device = next(model.eval().parameters()).device
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # torch then averages over all batches alike
            layer.train()
        with torch.inference_mode():
            for batch in tqdm(batches, desc="batch normalisation", unit="batch", disable=None):
                model(frontend.evaluation()({WAVEFORM: batch[WAVEFORM].to(device)})[INPUT_VALUES])
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        model.eval()
    return len(norms)


def soup_metrics(
    soup: PreTrainedModel,
    members: Members,
    clips: Dataset,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Evaluates a soup, each member, and the ensemble of the members: is the soup worth it?

    Args:
        soup (`PreTrainedModel`): what [`average_weights`] returned; it has the members' front-end.
        members (`Mapping[str, tuple[PreTrainedModel, AcousticFrontend]]`): the members by name.
        clips (`datasets.Dataset`): clips of one length; their audio is read once.
        groups (`Mapping[str, Sequence[str]]`, *optional*): devices of each group; unset: TAU22's groups where the
            devices are TAU22's.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.

    Returns:
        `dict`: `soup`, the metrics of [`evaluate_clips`]; `members`, the same for each name; `ensemble`, those of the
        mean of the members' raw logits; `is_worse_than_every_member` and a `verdict` in words; `scenes`, `devices` and
        `groups`.
    """
    frontend = next(iter(members.values()))[1]
    scenes, devices = clips.features[LABELS].names, clips.features[DEVICE_IDS].names
    groups = usual_groups(devices) if groups is None else groups
    parts: dict[Any, list[np.ndarray]] = {name: [] for name in (*members, _SOUP)}
    batches = predict_batches_of_many({**members, _SOUP: (soup, frontend)}, clips, batch_size=batch_size)
    for batch in tqdm(batches, total=-(-len(clips) // batch_size), desc="evaluate", unit="batch", disable=None):
        for name, logits in batch[LOGITS].items():
            parts[name].append(logits.numpy())
    logits = {name: np.concatenate(of_batches) for name, of_batches in parts.items()}
    metrics = {name: evaluate_logits(values, clips, groups=groups) for name, values in logits.items()}
    of_soup, mean = metrics.pop(_SOUP), np.mean([logits[name] for name in members], axis=0, dtype=np.float64)
    accuracies = [of_member["accuracy"] for of_member in metrics.values()]
    return {
        "soup": of_soup,
        "members": metrics,
        "ensemble": evaluate_logits(mean.astype(np.float32), clips, groups=groups),
        **_judgement(of_soup["accuracy"], accuracies, chance=1 / len(scenes)),
        "scenes": list(scenes),
        "devices": list(devices),
        "groups": {group: list(of_group) for group, of_group in groups.items()},
    }


def _judgement(soup: float, members: Sequence[float], *, chance: float) -> dict[str, Any]:
    """Says in words whether a soup is better than its members, from their accuracies and that of guessing."""
    worst, best = min(members), max(members)
    if soup >= best:
        verdict = f"The soup, {100 * soup:.2f} %, is at least as good as its best member, {100 * best:.2f} %."
    elif soup >= worst:
        verdict = f"The soup, {100 * soup:.2f} %, lies between its members, {100 * worst:.2f} to {100 * best:.2f} %."
    else:
        verdict = f"The soup, {100 * soup:.2f} %, is WORSE than its worst member, {100 * worst:.2f} %: "
        is_broken = soup - chance < HALF * (worst - chance)
        verdict += f"{APART} {ADVICE}" if is_broken else "averaging did not pay; take a member."
    return {"is_worse_than_every_member": soup < worst, "verdict": verdict}


def write_soup(soup: PreTrainedModel, members: Members, folder: str | Path, *, results: Mapping[str, Any]) -> None:
    """Writes model, configuration, code, front-end and `soup.json`; the folder appears only when all is written.

    Args:
        soup (`PreTrainedModel`): what [`average_weights`] returned.
        members (`Mapping[str, tuple[PreTrainedModel, AcousticFrontend]]`): what it was made of.
        folder (`str | Path`): a new folder.
        results (`Mapping[str, Any]`): how it was made, and what [`soup_metrics`] returned, if anything.

    Raises:
        ValueError: the folder exists and is not empty.
        OSError: it cannot be written, as on a full disk; nothing is left of it.
    """
    made_of = [{"name": name, "model": model_identity(model)} for name, (model, _) in members.items()]
    with new_folder(Path(folder)) as partial:
        soup.save_pretrained(partial)
        next(iter(members.values()))[1].extractor.save_pretrained(partial)
        write_json(partial / RESULTS_NAME, {"made_of": made_of, **results})


def soup_summary(results: Mapping[str, Any], members: Members, folder: str | Path) -> str:
    """Returns what was made of what, the table of accuracies where there is one, and the verdict, to be printed.

    Args:
        results (`Mapping[str, Any]`): how the soup was made, and what [`soup_metrics`] returned, if anything.
        members (`Mapping[str, tuple[PreTrainedModel, AcousticFrontend]]`): what it was made of.
        folder (`str | Path`): where it is.
    """
    lines = [f"soup of {len(members)} models ({some(list(members))}): {folder}"]
    if "soup" not in results:
        return "\n".join([*lines, f"Not evaluated: pass --data to see whether it is worth it. {ADVICE}"])
    rows = {**results["members"], "ensemble (mean of raw logits)": results["ensemble"], "soup": results["soup"]}
    return "\n".join([accuracy_table(rows), results["verdict"], *lines])


__all__ = [
    "average_weights",
    "check_alike",
    "reestimate_batch_norm",
    "soup_metrics",
    "soup_summary",
    "write_soup",
]
