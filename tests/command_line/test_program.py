"""The command as a whole: exit codes, help, pipes, and the commands that are thin over one function."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from published import passt_tensors, small_passt, written

import hf_ascdistill.command_line
from hf_ascdistill import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    check_budget,
    measure_complexity,
)
from hf_ascdistill.command_line import program

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_package_installs_the_command():
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ascdistill": "hf_ascdistill.command_line:main"}
    assert callable(hf_ascdistill.command_line.main)


@pytest.mark.parametrize("command", [(), ("classify",), ("info",), ("convert",), ("publish",)])
def test_help_tells_the_exit_codes(ascdistill, command):
    result = ascdistill(*command, "--help")
    assert result.code == 0 and "some files could not be classified" in result.out


@pytest.mark.parametrize(
    "arguments", [(), ("nothing",), ("classify",), ("classify", "a.wav"), ("info",), ("convert",), ("publish",)]
)
def test_wrong_usage_ends_with_2(ascdistill, arguments):
    result = ascdistill(*arguments)
    assert result.code == 2 and result.err.startswith("usage: ascdistill")


def test_info_tells_what_a_model_is_and_costs(ascdistill, model_folder):
    model = CpMobileForAudioClassification(CpMobileConfig(base_channels=8))
    complexity = measure_complexity(model, (1, 256, 64))
    result = ascdistill("info", model_folder, "--json")
    assert result.code == 0
    told = json.loads(result.out)
    assert (told["architecture"], told["network"]["base_channels"]) == ("asc-cp-mobile", 8)
    assert told["front_end"]["hop_length"] == 500
    assert len(told["classes"]) == 10
    assert told["complexity"] == vars(complexity)
    assert told["fits"] and told["verdict"] == check_budget(complexity).text
    lines = {line.partition("  ")[0]: line for line in ascdistill("info", model_folder).out.splitlines()}
    assert lines["parameters"].split()[-1] == f"{complexity.parameters:,}"
    assert "fits DCASE 2023" in lines["verdict"]


def test_info_names_a_network_of_the_paper(ascdistill, tmp_path):
    CpMobileForAudioClassification(CpMobileConfig.from_preset("128k")).save_pretrained(tmp_path)
    AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(tmp_path)
    result = ascdistill("info", tmp_path)
    assert "CP-Mobile (128K)" in result.out and "126,952" in result.out


def test_info_of_no_model_is_one_line(ascdistill, tmp_path):
    result = ascdistill("info", tmp_path / "absent")
    assert result.code == 2 and len(result.err.splitlines()) == 1 and "absent" in result.err


def test_convert_takes_the_settings_of_a_checkpoint(ascdistill, tmp_path):
    path, folder = written(passt_tensors(small_passt(num_labels=527, max_frames=2000)), tmp_path), tmp_path / "model"
    command = ("convert", "--input", path, "--output", folder, "--num_labels", 10)
    result = ascdistill(*command)
    assert result.code == 2 and "hop_length" in result.err and not folder.exists()
    result = ascdistill(*command, "--hop_length", 160, "--json")
    assert json.loads(result.out) == {"output": str(folder), "content": "asc-passt, 10 classes"}
    assert ascdistill(*command, "--hop_length", 160).code == 2  # the folder is in use


def test_publish_says_what_is_lacking(ascdistill, model_folder, tmp_path):
    result = ascdistill("publish", "--repo", "user/name")
    assert result.code == 2 and "expected one of them" in result.err
    staging = tmp_path / "staged"
    command = ("publish", "--run", model_folder, "--repo", "user/name", "--dry_run", "--staging", staging)
    result = ascdistill(*command)
    assert result.code == 2 and "holds no results.json" in result.err and not staging.exists()


def test_an_interrupted_command_ends_with_130(ascdistill, model_folder, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(program.COMMANDS["info"], "describe", interrupt)
    result = ascdistill("info", model_folder)
    assert (result.code, result.err) == (130, "ascdistill info: interrupted\n")


def test_a_reader_that_goes_away_is_no_error(model_folder):
    command = [sys.executable, "-m", "hf_ascdistill.command_line", "info", str(model_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 130
    process.stderr.close()
