"""Quantisation from the command line: what the folder of a run gets, and what onnxruntime makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_main_job import launch_two
from tiny_corpus import tiny_model, tiny_store

from hf_ascdistill import AscFeatureExtractor, fuse, load_classifier, load_prepared, prepare_qat, quantized_runs

pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "qat.yaml"
NETWORKS = ("float", "ptq", "qat")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The prepared store of the made-up clips."""
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def arguments(clips, run_recipe, tmp_path_factory):
    """Arguments of a short run on the logits of the student itself."""
    root = tmp_path_factory.mktemp("quantize")
    tiny_model(load_prepared(clips)["train"].features["labels"].names).save_pretrained(root / "student")
    AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(root / "student")
    run_recipe("cache_logits", "--data", clips, "--model", root / "student", "--output", root / "logits")
    steps = ["--num_train_epochs", 2, "--frozen_epochs", 1, "--per_device_train_batch_size", 20]
    settings = ["--use_cpu", "true", "--disable_tqdm", "true", "--pictures", "false"]
    inputs = ["--initial_weights", root / "student", "--teacher_logits", root / "logits", "--data", clips]
    return ["--config", CONFIG, *inputs, *steps, *settings, "--output_dir", root / "run"]


@pytest.fixture(scope="module")
def run(arguments, run_recipe):
    """Folder of the run."""
    run_recipe("quantize", *arguments)
    return Path(arguments[-1])


def logits_of(path, log_mels) -> np.ndarray:
    return quantized_runs.run_onnx(path.read_bytes(), log_mels.numpy())


@pytest.fixture(scope="module")
def log_mels(clips):
    rows = load_prepared(clips)["evaluate"]
    waveforms = torch.stack([torch.as_tensor(rows[index]["waveform"]) for index in range(20)])
    return AscFeatureExtractor.from_preset("cp-mobile").log_mel(waveforms)


def test_int8_file_computes_what_the_last_checkpoint_simulates(run, log_mels):
    model, _ = load_classifier(run)
    simulated = prepare_qat(fuse(model)).eval()
    checkpoint = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    simulated.load_state_dict(load_file(checkpoint / "model.safetensors"))
    with torch.inference_mode():
        expected = simulated(log_mels).logits.numpy()
    found = logits_of(run / "qat.onnx", log_mels)
    assert np.abs(found - expected).max() <= 0.02 * np.ptp(expected)
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9


def test_float_file_computes_what_the_student_does(run, arguments, log_mels):
    student, _ = load_classifier(arguments[arguments.index("--initial_weights") + 1])
    with torch.inference_mode():
        expected = student.eval()(log_mels).logits.numpy()
    np.testing.assert_allclose(logits_of(run / "float.onnx", log_mels), expected, atol=1e-4 * np.ptp(expected))
    assert np.abs(logits_of(run / "ptq.onnx", log_mels) - expected).max() < 0.2 * np.ptp(expected)


def test_onnxruntime_runs_every_convolution_in_integers(run, tmp_path):
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(run / "qat.onnx", options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("QLinearConv") == 2 + 6 * 3 + 1
    assert not {"Conv", "FusedConv"} & set(operators)


def test_table_and_record_hold_the_three_networks(run, arguments, run_recipe, capsys):
    capsys.readouterr()
    run_recipe("quantize", *arguments)  # finished: nothing is trained or written again
    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows == ["", *NETWORKS]
    record = json.loads((run / "quantization.json").read_text())
    assert tuple(record) == NETWORKS
    for name, row in record.items():
        assert row["file_bytes"] == (run / f"{name}.onnx").stat().st_size and row["clips"] == 30
    assert (
        record["ptq"]["parameter_bytes"] == record["qat"]["parameter_bytes"] < record["float"]["parameter_bytes"] / 3
    )
    results = json.loads((run / "results.json").read_text())
    assert [row["epoch"] for row in results["epochs"]] == [1, 2] and len(results["teachers"]) == 1


def test_file_that_computes_something_else_is_not_written(run, log_mels, monkeypatch, tmp_path):
    import onnx

    model, extractor = load_classifier(run)
    other = onnx.load(run / "ptq.onnx")
    monkeypatch.setattr(quantized_runs, "mel_graph", lambda *_: other)
    frontend = quantized_runs.AcousticFrontend(extractor)
    with pytest.raises(ValueError, match="float.onnx gives logits that differ by .*; expected .* at most"):
        quantized_runs.write_network(fuse(model), tmp_path / "float.onnx", frontend=frontend, log_mels=log_mels)
    assert not list(tmp_path.iterdir())


@pytest.mark.dist
def test_two_processes_quantise_together(arguments, tmp_path):
    halved = ["--per_device_train_batch_size", 10, "--num_train_epochs", 1, "--output_dir", tmp_path / "run"]
    printed = launch_two("quantize", *arguments[:-2], *halved)
    assert tuple(json.loads((tmp_path / "run" / "quantization.json").read_text())) == NETWORKS
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["epochs"]) == 1
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows == ["", *NETWORKS]


def test_nothing_to_quantise_raises(arguments, run_recipe, tmp_path):
    at = arguments.index("--initial_weights")
    others = [*arguments[:at], *arguments[at + 2 : -1], tmp_path / "run"]
    with pytest.raises(ValueError, match="nothing to quantise: pass the folder of a finished student"):
        run_recipe("quantize", *others)
    assert not (tmp_path / "run").exists()
