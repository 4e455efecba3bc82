"""Figures show the complete cells of a table, ours beside the paper's."""

import dataclasses
import json
import math

import pytest
import torch
from finished_plan import DEVICE_OFFSETS, DEVICES, paper_table, write_plan, write_run

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    collect_table,
)
from hf_ascdistill.experiments.figures import (
    PARAMETERS,
    draw_ensemble_map,
    draw_figures,
    draw_student_devices,
    draw_teacher_sizes,
    figure_names,
)
from hf_ascdistill.pictures import require_matplotlib


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were drawn, kept open."""
    pyplot, figures = require_matplotlib(), []
    close = pyplot.close
    monkeypatch.setattr(pyplot, "close", figures.append)
    yield figures
    for figure in figures:
        close(figure)


def finished(root, number: int, **means):
    table = paper_table(number)
    means = {"teacher": lambda kind: 0.60, "student": lambda cell: 0.63, **means}
    write_plan(root, (table,), **means)
    return collect_table(table, root)


def remove(root, pattern: str) -> None:
    for path in root.glob(f"{pattern}/results.json"):
        path.unlink()


def test_each_table_has_the_figures_that_fit_it(tmp_path):
    names = {number: list(figure_names(collect_table(paper_table(number), tmp_path))) for number in (1, 2, 3, 4)}
    assert names == {
        1: ["table1_sizes.png", "table1_devices.png"],
        2: ["table2_devices.png"],
        3: ["table3_devices.png"],
        4: ["table4_ensembles.png", "table4_devices.png"],
    }


def test_nothing_is_drawn_of_nothing(tmp_path, drawn):
    for number in (1, 2, 3, 4):
        assert draw_figures(collect_table(paper_table(number), tmp_path)) == {}
    assert drawn == []


@pytest.mark.parametrize(
    ("architecture", "config", "model"),
    [
        ("cpm", CpMobileConfig, CpMobileForAudioClassification),
        ("cpr", CpResNetConfig, CpResNetForAudioClassification),
    ],
)
def test_the_papers_sizes_are_those_of_the_presets(architecture, config, model):
    for size, expected in PARAMETERS[architecture].items():
        with torch.device("meta"):
            network = model(config.from_preset(size))
        assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_accuracy_is_drawn_against_the_parameters_of_the_teacher(tmp_path, drawn):
    collected = finished(tmp_path, 1)
    assert draw_teacher_sizes(collected, tmp_path / "sizes.png")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    lines = [line for line in axes.lines if line.get_linestyle() in ("-", "--")]
    paper = [line for line in lines if line.get_markerfacecolor() == "none"]
    assert len(paper) == len(lines) / 2 == 6
    assert list(paper[0].get_xdata()) == list(PARAMETERS["cpr"].values())
    assert list(paper[0].get_ydata()) == [60.28, 62.05, 62.58, 62.74, 63.28]  # teachers, dashed
    assert paper[0].get_linestyle() == "--" and paper[1].get_linestyle() == "-"
    ours = [line for line in lines if line not in paper]
    assert list(ours[0].get_ydata()) == pytest.approx([60.0] * 5)
    assert list(ours[1].get_ydata()) == pytest.approx([63.0] * 5)
    assert list(ours[0].get_xdata()) == [126_952] * 5  # as results.json says
    assert len(axes.containers) == 6  # error bars
    segments = axes.containers[0].lines[2][0].get_segments()
    assert segments[0][:, 1].tolist() == pytest.approx([59.6, 60.4])


def test_an_incomplete_teacher_is_a_gap_in_its_line(tmp_path, drawn):
    finished(tmp_path, 1)
    remove(tmp_path, "students/cpr-1m-dirfms-x1-s1")
    draw_teacher_sizes(collect_table(paper_table(1), tmp_path), tmp_path / "sizes.png")
    lines = [line for line in drawn[0].axes[0].lines if line.get_linestyle() in ("-", "--")]
    assert [sum(map(math.isnan, line.get_ydata())) for line in lines] == [0, 0, 0, 1] + [0] * 8


def test_students_are_bars_per_device(tmp_path, drawn):
    collected = finished(tmp_path, 2, student=lambda cell: 0.65 if cell.row == "DIRFMS" else 0.61)
    assert draw_student_devices(collected, tmp_path / "devices.png")
    parts = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in parts] == ["CPR", "CPM", "PaSST"]
    heights = [bar.get_height() for bar in parts[0].patches]
    assert heights == pytest.approx([100 * (m + DEVICE_OFFSETS[d]) for m in (0.65, 0.61, 0.61, 0.61) for d in DEVICES])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["DIRFMS", "DIR", "FMS", "no DG"]
    labels = [label.get_text() for label in parts[-1].get_xticklabels()]
    assert labels[0] == "a\nreal" and labels[3] == "s1\nseen" and labels[8] == "s6\nunseen"
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in parts[0].patches)
    assert all(left[1] <= right[0] + 1e-9 for left, right in zip(edges, edges[1:], strict=False))


def test_incomplete_students_are_no_bars(tmp_path, drawn):
    finished(tmp_path, 2)
    remove(tmp_path, "students/passt-*-s0")
    remove(tmp_path, "students/cpm-128k-fms-x1-s2")
    draw_student_devices(collect_table(paper_table(2), tmp_path), tmp_path / "devices.png")
    counts = {axes.get_title(loc="left"): len(axes.patches) for axes in drawn[0].axes}
    assert counts == {"CPR": 4 * 9, "CPM": 3 * 9}


def test_devices_that_were_not_evaluated_have_no_bars(tmp_path, drawn):
    table = paper_table(2)
    table = dataclasses.replace(table, cells=table.cells[:1])
    write_plan(tmp_path, (table,), teacher=lambda kind: 0.6, student=lambda cell: 0.6)
    for path in tmp_path.glob("students/*/results.json"):
        results = json.loads(path.read_text())
        del results["last_epochs"]["accuracy_c"]
        path.write_text(json.dumps(results))
    draw_student_devices(collect_table(table, tmp_path), tmp_path / "devices.png")
    assert len(drawn[0].axes[0].patches) == 8


def test_map_shows_ours_beside_the_papers_and_blanks(tmp_path, drawn):
    finished(tmp_path, 4, student=lambda cell: 0.62 if cell.column == "CPM" else 0.65)
    remove(tmp_path, "students/cpr-128k-dir+cpr-128k-fms-x3-s1")
    assert draw_ensemble_map(collect_table(paper_table(4), tmp_path), tmp_path / "map.png")
    ours, paper = (axes.images[0].get_array() for axes in drawn[0].axes)
    assert ours.shape == paper.shape == (5, 7)
    assert paper[3, 3] == 65.81 and ours[3, 3] == pytest.approx(65) and ours[3, 1] == pytest.approx(62)
    is_blank = [math.isnan(value) for value in paper[0].filled(math.nan)]
    assert is_blank == [False] * 3 + [True] * 4  # the paper has no such ensembles
    assert math.isnan(ours.filled(math.nan)[0, 0])
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert "2 of\n3 runs" in texts and len(texts) == 27


def test_a_map_of_equal_accuracies_is_drawn(tmp_path):
    assert draw_ensemble_map(finished(tmp_path, 4), tmp_path / "map.png")


def test_pictures_say_nothing_of_who_drew_them(tmp_path):
    [picture] = draw_figures(finished(tmp_path, 2)).values()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"Software" not in picture and b"tEXt" not in picture and b"tIME" not in picture
    assert picture == draw_figures(collect_table(paper_table(2), tmp_path))["table2_devices.png"]


def test_a_single_student_is_drawn(tmp_path, drawn):
    table = paper_table(2)
    table = dataclasses.replace(table, cells=table.cells[:1], rows=table.rows[:1], columns=table.columns[:1])
    write_run(tmp_path / "students" / "cpr-450k-dirfms-x1-s0", 0.1)
    assert draw_student_devices(collect_table(table, tmp_path, seeds=(0,)), tmp_path / "devices.png")
    assert len(drawn[0].axes[0].patches) == 9 and not drawn[0].legends
