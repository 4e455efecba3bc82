"""The authors' trained student as files: they decide as it does, say what they are, and run without the package."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch

from hf_ascdistill import SCENES, AscFeatureExtractor, load_split
from hf_ascdistill.export.onnx_graphs import run_onnx
from hf_ascdistill.export.programs import run_torch_program

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "onnx_example.py"
FLOAT_FILES, INT8_FILES = (
    ("waveform.onnx", "mel.onnx", "waveform.pt2", "mel.pt2"),
    ("waveform-int8.onnx", "mel-int8.onnx"),
)


@pytest.fixture(scope="module")
def exported(shared, sample, run_recipe, tmp_path_factory) -> Path:
    """Folder of the files."""
    folder = tmp_path_factory.mktemp("exported")
    model, files = folder / "student", folder / "files"
    run_recipe("convert_checkpoint", "--input", shared / "checkpoints/cpm_student_dcase23.ckpt", "--output", model)
    formats = ["onnx", "onnx-int8", "torch-export"]
    run_recipe("export", "--model", model, "--data", sample, "--output", files, "--formats", *formats)
    return files


@pytest.fixture(scope="module")
def clips(sample):
    """The evaluate list: waveforms (80, 32000), labels (80,)."""
    data = load_split(sample, "evaluate")
    return np.stack([data[row]["waveform"] for row in range(len(data))]), np.array(data.with_format(None)["labels"][:])


def outputs(path: Path, waveforms: np.ndarray) -> np.ndarray:
    inputs = waveforms
    if path.name.startswith("mel"):
        inputs = AscFeatureExtractor().log_mel(torch.from_numpy(waveforms)).numpy()
    return (run_onnx if path.suffix == ".onnx" else run_torch_program)(path.read_bytes(), inputs)


@pytest.mark.parametrize("name", FLOAT_FILES)
def test_float_files_give_the_reference_logits_and_decisions(exported, golden, clips, name):
    reference = golden("clips8")
    expected = torch.from_numpy(reference["logits"])
    expected = expected.softmax(1) if name.startswith("waveform") else expected
    np.testing.assert_allclose(outputs(exported / name, reference["wav"]), expected, rtol=0, atol=1e-3)
    assert (outputs(exported / name, clips[0]).argmax(1) == clips[1]).sum() == 62


@pytest.mark.parametrize("name", INT8_FILES)
def test_int8_files_keep_the_accuracy(exported, clips, name):
    assert (outputs(exported / name, clips[0]).argmax(1) == clips[1]).sum() >= 60  # float: 62 of 80


def test_int8_files_hold_every_convolution_as_int8_within_the_budget(exported):
    graph = onnx.load(exported / "mel-int8.onnx").graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    sizes = []
    for conv in (node for node in graph.node if node.op_type == "Conv"):
        weight, bias = (tensors[producers[name].input[0]] for name in conv.input[1:])
        scales = tensors[producers[conv.input[1]].input[1]]
        assert (weight.dtype, bias.dtype, scales.shape) == (np.int8, np.int32, (len(weight),))
        sizes += [weight.nbytes, bias.nbytes]
    assert len(sizes) == 2 * 21
    assert sum(sizes) == 121_088  # of 128,000; gain and offset of six response normalisations stay float
    assert all(node.op_type != "BatchNormalization" for node in graph.node)


@pytest.mark.parametrize("name", ["waveform.onnx", "waveform-int8.onnx", "waveform.pt2"])
def test_files_take_any_batch_and_length(exported, clips, name):
    recording = clips[0][:3].reshape(1, -1)
    single = outputs(exported / name, recording)
    assert single.shape == (1, 10) and single.sum() == pytest.approx(1, abs=1e-5)
    batch = outputs(exported / name, np.concatenate([recording] * 5))
    np.testing.assert_allclose(batch, np.repeat(single, 5, 0), rtol=0, atol=1e-5)


def test_files_say_what_they_are(exported):
    extra = {"metadata.json": ""}
    torch.export.load(io.BytesIO((exported / "mel.pt2").read_bytes()), extra_files=extra)
    found = [json.loads(extra["metadata.json"])]
    for path in exported.glob("*.onnx"):
        found.append(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map)
    assert len(found) == 5 and all(metadata == found[0] for metadata in found)
    metadata = found[0]
    assert json.loads(metadata["labels"]) == list(SCENES)
    assert (metadata["sampling_rate"], metadata["min_samples"]) == ("32000", "4096")
    settings = AscFeatureExtractor(**json.loads(metadata["front_end"])).to_dict()
    assert settings == AscFeatureExtractor().to_dict()
    assert metadata["source"].endswith("student") and metadata["producer"].startswith("hf_ascdistill ")


def classify(model: Path, wav: Path) -> subprocess.CompletedProcess:
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'soxr', 'hf_ascdistill')))"
    script = f"{hidden}; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run([sys.executable, "-c", script, EXAMPLE, model, wav], capture_output=True, text=True)


def test_the_example_classifies_a_wav_without_torch(exported, clips, tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, clips[0][0], 32_000, subtype="FLOAT")
    answer = classify(exported / "waveform-int8.onnx", path)
    assert answer.returncode == 0, answer.stderr
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert {label for label, _ in rows} == set(SCENES)
    assert rows[0][0] == SCENES[outputs(exported / "waveform-int8.onnx", clips[0][:1]).argmax()]


@pytest.mark.parametrize(("rate", "samples", "text"), [(44_100, 44_100, "pip install soxr"), (32_000, 900, "4096 or")])
def test_the_example_says_what_it_cannot_read(exported, tmp_path, rate, samples, text):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(samples), rate)
    answer = classify(exported / "waveform.onnx", path)
    assert answer.returncode == 1 and text in answer.stderr and "Traceback" not in answer.stderr
