"""Means over the last epochs of a run and over runs, as the paper's tables report them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from numbers import Real

LAST_EPOCHS = 4  # Morocutti et al. 2023: every figure is the mean of the last four epochs, no best-epoch selection
EPOCH = "epoch"  # the counter that transformers.Trainer puts beside the metrics


def mean_over_last_epochs(history: Sequence[Mapping[str, float]], last: int = LAST_EPOCHS) -> dict[str, float]:
    """Averages the metrics of a run's last epochs.

    A run shorter than `last` is averaged over all of its epochs; `epochs` in the result says how many were used.

    Args:
        history (`Sequence[Mapping[str, float]]`): metrics of each epoch, oldest first; an `epoch` entry is dropped.
        last (`int`, *optional*, defaults to 4): number of epochs to average.

    Returns:
        `dict[str, float]`: the mean of each metric, and `epochs` (`int`).

    Raises:
        ValueError: an empty history, `last` below 1, epochs with different metrics, or a value that is no number.
    """
    if last < 1:
        raise ValueError(f"last is {last}, expected at least 1 epoch")
    if not history:
        raise ValueError("history is empty: give the metrics of at least one epoch")
    used = [{name: value for name, value in metrics.items() if name != EPOCH} for metrics in history[-last:]]
    _check_same_metrics(used, "epoch")
    return {"epochs": len(used), **{name: _mean([metrics[name] for metrics in used]) for name in used[0]}}


def summarize_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | int | None]]:
    """Summarises the metrics of several runs (seeds) of one experiment.

    Args:
        runs (`Sequence[Mapping[str, float]]`): the metrics of each run, such as those of [`mean_over_last_epochs`].

    Returns:
        `dict[str, dict]`: for each metric its `mean`, the sample standard deviation `std` (`ddof=1`; `None` with one
        run) and the number of `runs`.

    Raises:
        ValueError: no runs, runs with different metrics, or a value that is no number.
    """
    if not runs:
        raise ValueError("runs is empty: give the metrics of at least one run")
    _check_same_metrics(runs, "run")
    return {name: _summary([metrics[name] for metrics in runs]) for name in runs[0]}


def _summary(values: list[float]) -> dict[str, float | int | None]:
    return {"mean": _mean(values), "std": _sample_deviation(values), "runs": len(values)}


def _sample_deviation(values: list[float]) -> float | None:
    if len(values) == 1:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _check_same_metrics(all_metrics: Sequence[Mapping[str, float]], unit: str) -> None:
    for position, metrics in enumerate(all_metrics):
        different = sorted(set(metrics) ^ set(all_metrics[0]))
        if different:
            raise ValueError(
                f"{unit}s 0 and {position} do not hold the same metrics, they differ in {different}; "
                f"average only what was measured in every {unit} on the same clips"
            )
        bad = {
            name: value for name, value in metrics.items() if isinstance(value, bool) or not isinstance(value, Real)
        }
        if bad:
            raise ValueError(f"{unit} {position} holds values that are no numbers: {bad}")


__all__ = ["LAST_EPOCHS", "mean_over_last_epochs", "summarize_runs"]
