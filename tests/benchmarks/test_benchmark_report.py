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


def test_a_case_that_fails_costs_the_rest_of_its_section_alone():
    from bench import measure_all
    from timing import Case, Stopwatch

    def first():
        yield Case("A", "one", 1, ours=lambda: None)
        raise RuntimeError("two is\nwrong")

    def second():
        yield Case("B", "three", 1, ours=lambda: None)

    results, failures = measure_all([first(), second()], Stopwatch(torch.device("cpu"), 0))
    assert [result.case.name for result in results] == ["one", "three"]
    assert failures == ["first, behind A: one: RuntimeError: two is wrong"]


def test_what_a_program_printed_before_it_failed_is_filed(tmp_path, monkeypatch):
    import gpu

    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    (tmp_path / "half.py").write_text("print('| a row |')\nraise SystemExit(3)\n")
    (tmp_path / "none.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "whole.py").write_text("import sys\nprint(sys.argv[1:])\n")
    output = tmp_path / "RESULTS.md"
    output.write_text("## GPU: none\n\nbefore\n")
    assert not gpu.file_output("half", "half.py", output=output)
    assert not gpu.file_output("none", "none.py", output=output)
    assert gpu.file_output("whole", "whole.py", "--steps", 2, output=output)
    text = output.read_text()
    assert "## GPU: half\n\n| a row |\n\nThe program failed" in text and "## GPU: none\n\nbefore\n" in text
    assert "['--steps', '2']\n\nCommand: `python benchmarks/whole.py --steps 2`" in text


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
