"""The benchmarks' report says which goals are reached, and keeps what other programs measured."""

from pathlib import Path

import pytest
import torch

from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CPU_REPORT = "# Speed\n\nwords\n\n## Data\n\nnew\n\n## GPU: not measured yet\n\nnothing\n"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def result(ratio: float, goal: float | None):
    from timing import Case, Result

    case = Case("Training", "step", 64, ours=lambda: None, plain=lambda: None, goal=goal)
    return Result(case, ours=2.0, plain=2.0 * ratio, ratios=(ratio, ratio, ratio), repetitions=5)


def merged(tmp_path, old: str, new: str) -> str:
    from report import merge_sections

    path = tmp_path / "RESULTS.md"
    path.write_text(old, encoding="utf-8")
    merge_sections(path, new)
    assert list(tmp_path.iterdir()) == [path]
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("ratio", "words"), [(2.5, "**reached**"), (2.4, "**not reached**")])
def test_a_goal_is_reached_from_its_ratio_on(ratio, words):
    assert words in result(ratio, goal=2.5).verdict()


def test_a_case_without_a_goal_has_no_verdict():
    assert result(1.0, goal=None).verdict() is None


def test_a_report_lists_goals_and_what_was_left_out(tmp_path):
    from report import write_report
    from workload import Workload

    batch = {"waveform": torch.zeros(2, 8), "labels": torch.zeros(2), "teacher": torch.zeros(2, 10)}
    work = Workload(torch.device("cpu"), responses=torch.ones(1, 4), folder=tmp_path, **batch)
    text = write_report([result(3.0, goal=2.5)], work, command="bench", left_out=["hear21passt: not installed"])
    assert "- Training: step: 3.00 times, goal 2.5: **reached**." in text
    assert "- Not measured: hear21passt: not installed." in text
    assert "| step | 500 | 2.00 | 6.00 | **3.00** (3.00 to 3.00) |" in text


def test_a_cpu_report_replaces_its_sections_and_keeps_the_others(tmp_path):
    old = "# Speed\n\nold words\n\n## Data\n\nold\n\n## Training\n\nold\n\n## By hand\n\nkept\n"
    text = merged(tmp_path, old, CPU_REPORT)
    assert "old" not in text
    assert text.startswith("# Speed\n\nwords\n\n## Data\n\nnew\n\n")
    assert text.endswith("## By hand\n\nkept\n")


def test_what_a_gpu_measured_stands_below_and_says_so_no_longer(tmp_path):
    text = merged(tmp_path, CPU_REPORT, "## GPU: Training\n\nfast\n")
    assert text == "# Speed\n\nwords\n\n## Data\n\nnew\n\n## GPU: Training\n\nfast\n"
    assert merged(tmp_path, text, CPU_REPORT) == text


@torch.no_grad()
def test_the_plain_network_is_ours():
    from plain_network import plain_cp_mobile

    torch.manual_seed(0)
    model = CpMobileForAudioClassification(CpMobileConfig.from_preset("128k")).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    plain = plain_cp_mobile(model.state_dict().values()).eval()
    inputs = torch.randn(2, 256, 64)
    expected = model(inputs).logits
    torch.testing.assert_close(plain(inputs), expected, atol=1e-5, rtol=1e-5)
