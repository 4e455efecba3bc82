"""The figures by which a scene classifier is judged: overall, per scene, per device and per group of devices."""

from collections.abc import Mapping, Sequence

import numpy as np


def scene_metrics(
    logits,
    labels,
    device_ids,
    *,
    scenes: Sequence[str],
    devices: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """Scores logits: accuracies as fractions 0..1 and the log loss in nats.

    Group accuracies pool the clips of all devices of the group; they are no mean over devices. A scene, device or
    group without a clip has no entry.

    Args:
        logits (`np.ndarray`): raw scores, `(N, C)`.
        labels (`np.ndarray`): scene of each clip, index into `scenes`, `(N,)`.
        device_ids (`np.ndarray`): device of each clip, index into `devices`, `(N,)`.
        scenes (`Sequence[str]`): names of the `C` scenes, in the order of the logits.
        devices (`Sequence[str]`): names of the devices, in the order of their ids.
        groups (`Mapping[str, Sequence[str]]`): group name -> names of its devices, such as `{"unseen": ("s4", "s5")}`.

    Returns:
        `dict[str, float]`: `accuracy`; `macro_accuracy`, the mean over the scenes that occur (the ranking measure of
        DCASE 2024 and 2025); `log_loss`, the mean cross-entropy; `accuracy_{group}`, `accuracy_{device}` and
        `accuracy_scene_{scene}`.

    Raises:
        ValueError: no clips, lengths that differ, another class count than `scenes`, logits that are NaN or infinite,
            an id outside its list, a group with an unknown device, or two entries of one name.
    """
    logits = _checked_logits(logits, scenes)
    labels = _checked_ids(labels, "labels", scenes, len(logits))
    device_ids = _checked_ids(device_ids, "device_ids", devices, len(logits))
    is_right = logits.argmax(axis=1) == labels
    named = [(f"accuracy_{group}", _is_member(device_ids, group, groups, devices)) for group in groups]
    named += [(f"accuracy_{device}", device_ids == index) for index, device in enumerate(devices)]
    named += [(f"accuracy_scene_{scene}", labels == index) for index, scene in enumerate(scenes)]
    _check_unique([name for name, _ in named])
    per_scene = [is_right[labels == index].mean() for index in np.unique(labels)]
    return {
        "accuracy": float(is_right.mean()),
        "macro_accuracy": float(np.mean(per_scene)),
        "log_loss": mean_cross_entropy(logits, labels),
        **{name: float(is_right[chosen].mean()) for name, chosen in named if chosen.any()},
    }


def mean_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Averages the cross-entropy of softmax(logits) in nats, without overflow for logits of any size.

    Args:
        logits (`np.ndarray`): raw scores, `(N, C)`.
        labels (`np.ndarray`): class indices, `(N,)`.

    Returns:
        `float`: the mean over the clips.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_normaliser = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_normaliser - shifted[np.arange(len(labels)), labels]))


def _checked_logits(logits, scenes: Sequence[str]) -> np.ndarray:
    try:
        logits = np.asarray(logits, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"logits must all hold {len(scenes)} scores, one per scene: {error}") from error
    if logits.size == 0:
        raise ValueError("no clips to score: logits is empty; give the logits of at least one clip")
    if logits.ndim != 2 or logits.shape[1] != len(scenes):
        raise ValueError(
            f"logits have shape {logits.shape}, expected (clips, {len(scenes)}): one score for each of {list(scenes)}"
        )
    is_bad = ~np.isfinite(logits).all(axis=1)
    if is_bad.any():
        raise ValueError(
            f"logits of {is_bad.sum()} of {len(logits)} clips are NaN or infinite, first at row {is_bad.argmax()}; "
            "the model or its input is broken, no accuracy is given for it"
        )
    return logits


def _checked_ids(ids, name: str, names: Sequence[str], clips: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.shape != (clips,):
        raise ValueError(f"{name} has shape {ids.shape}, expected ({clips},): one for each row of logits")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    is_outside = (ids < 0) | (ids >= len(names))
    if is_outside.any():
        row = int(is_outside.argmax())
        raise ValueError(f"{name}[{row}] is {ids[row]}, expected 0..{len(names) - 1}: the ids of {list(names)}")
    return ids


def _is_member(device_ids: np.ndarray, group: str, groups: Mapping, devices: Sequence[str]) -> np.ndarray:
    unknown = [device for device in groups[group] if device not in devices]
    if unknown:
        raise ValueError(f"group {group!r} names the devices {unknown}, which are not among {list(devices)}")
    return np.isin(device_ids, [list(devices).index(device) for device in groups[group]])


def _check_unique(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the metrics {twice} are named twice; rename the group, device or scene of that name")


__all__ = ["mean_cross_entropy", "scene_metrics"]
