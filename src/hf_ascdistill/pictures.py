"""Pictures of a run: its training curve and its accuracy per device."""

from collections.abc import Mapping, Sequence
from pathlib import Path

GROUP_COLOURS = {"real": "#2a6f97", "seen": "#61a5c2", "unseen": "#e07a5f"}
OTHER_COLOUR = "#8d99ae"
CURVES = {"accuracy": "all devices", "accuracy_seen": "seen devices", "accuracy_unseen": "unseen devices"}


def require_matplotlib():
    """Returns `matplotlib.pyplot` with a backend that needs no screen.

    Raises:
        ImportError: matplotlib is absent; the extra that brings it is named.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install 'hf_ascdistill[plot]', or pass --pictures false."
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_training_curve(results: Mapping, path: str | Path) -> None:
    """Draws loss and accuracy over the epochs of a run.

    Args:
        results (`Mapping`): what `results.json` holds: `run`, `training` and `epochs`.
        path (`str | Path`): the picture, png or svg.
    """
    pyplot = require_matplotlib()
    figure, (losses, accuracies) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name in ("loss", "label_loss", "teacher_loss"):
        points = [(row["epoch"], row[name]) for row in results["training"] if name in row]
        if points:
            losses.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    for name, label in CURVES.items():
        points = [(row["epoch"], 100 * row[name]) for row in results["epochs"] if name in row]
        if points:
            accuracies.plot(*zip(*points, strict=True), label=label)
    losses.set(xlabel="epoch", ylabel="training loss")
    accuracies.set(xlabel="epoch", ylabel="accuracy on the evaluate list (%)")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    figure.suptitle(results["run"])
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_device_accuracy(
    results: Sequence[Mapping], path: str | Path, *, devices: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> None:
    """Draws the accuracy of one or more runs as a bar per device.

    Args:
        results (`Sequence[Mapping]`): what the runs' `results.json` hold: `run` and `last_epochs`.
        path (`str | Path`): the picture, png or svg.
        devices (`Sequence[str]`): devices in the order of the bars.
        groups (`Mapping[str, Sequence[str]]`): devices of each group; a single run's bars are coloured by them.
    """
    pyplot = require_matplotlib()
    shown = [device for device in devices if any(f"accuracy_{device}" in run["last_epochs"] for run in results)]
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.75 * len(shown), 3.4), layout="constrained")
    width = 0.8 / len(results)
    group_of = {device: group for group, members in groups.items() for device in members}
    colours = [GROUP_COLOURS.get(group_of.get(device, ""), OTHER_COLOUR) for device in shown]
    for index, run in enumerate(results):
        heights = [100 * run["last_epochs"].get(f"accuracy_{device}", 0) for device in shown]
        places = [place + (index - (len(results) - 1) / 2) * width for place in range(len(shown))]
        bars = axes.bar(places, heights, width, label=run["run"], color=colours if len(results) == 1 else None)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(shown)), [f"{device}\n{group_of.get(device, '')}" for device in shown])
    axes.set(ylabel="accuracy (%)", ylim=(0, 100))
    axes.set_title(results[0]["run"] if len(results) == 1 else "accuracy per device")
    if len(results) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=len(results))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


__all__ = ["draw_device_accuracy", "draw_training_curve", "require_matplotlib"]
