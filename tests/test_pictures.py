"""Pictures of a run show what results.json holds."""

import sys

import pytest

from hf_ascdistill import draw_device_accuracy, draw_training_curve
from hf_ascdistill.pictures import GROUP_COLOURS, OTHER_COLOUR, require_matplotlib

DEVICES, GROUPS = ("a", "s1", "s4", "phone"), {"real": ("a",), "seen": ("s1",), "unseen": ("s4",)}
RESULTS = {
    "run": "student-kd",
    "training": [{"epoch": 1.0, "loss": 2.0, "teacher_loss": 1.5}, {"epoch": 2.0, "loss": 1.0, "teacher_loss": 0.5}],
    "epochs": [{"epoch": 1.0, "accuracy": 0.25}, {"epoch": 2.0, "accuracy": 0.5}],
    "last_epochs": {"accuracy_a": 0.5, "accuracy_s1": 0.4, "accuracy_s4": 0.25},
}


@pytest.fixture
def figures(monkeypatch):
    """Figures that were drawn, kept open."""
    pyplot, drawn = require_matplotlib(), []
    close = pyplot.close
    monkeypatch.setattr(pyplot, "close", drawn.append)
    yield drawn
    for figure in drawn:
        close(figure)


def is_png(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def points(axes) -> dict[str, list[list[float]]]:
    return {line.get_label(): [line.get_xdata().tolist(), line.get_ydata().tolist()] for line in axes.lines}


def test_training_curve_shows_losses_and_accuracies(tmp_path, figures):
    draw_training_curve(RESULTS, tmp_path / "curve.png")
    losses, accuracies = figures[0].axes
    assert points(losses) == {"loss": [[1, 2], [2, 1]], "teacher loss": [[1, 2], [1.5, 0.5]]}
    assert points(accuracies) == {"all devices": [[1, 2], [25, 50]]}
    assert is_png(tmp_path / "curve.png")


def test_training_curve_of_a_run_without_evaluations_is_drawn(tmp_path, figures):
    draw_training_curve({**RESULTS, "epochs": []}, tmp_path / "curve.png")
    assert is_png(tmp_path / "curve.png")


def test_bars_of_one_run_are_its_devices_in_the_colours_of_their_groups(tmp_path, figures):
    from matplotlib.colors import to_hex

    last = {**RESULTS["last_epochs"], "accuracy_phone": 0.125}
    draw_device_accuracy([{**RESULTS, "last_epochs": last}], tmp_path / "devices.png", devices=DEVICES, groups=GROUPS)
    axes = figures[0].axes[0]
    assert [bar.get_height() for bar in axes.patches] == [50, 40, 25, 12.5]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [*GROUP_COLOURS.values(), OTHER_COLOUR]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a\nreal", "s1\nseen", "s4\nunseen", "phone\n"]
    assert is_png(tmp_path / "devices.png")


def test_bars_of_several_runs_stand_side_by_side(tmp_path, figures):
    other = {"run": "alone", "last_epochs": {"accuracy_a": 0.3}}
    draw_device_accuracy([RESULTS, other], tmp_path / "devices.png", devices=DEVICES, groups=GROUPS)
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["student-kd", "alone"]
    assert [bar.get_height() for bar in axes.patches] == [50, 40, 25, 30, 0, 0]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(left[1] <= right[0] + 1e-9 for left, right in zip(edges, edges[1:], strict=False))


def test_missing_matplotlib_raises_and_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"hf_ascdistill\[plot\].*--pictures false"):
        require_matplotlib()
