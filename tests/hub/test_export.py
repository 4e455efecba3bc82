"""What cannot be exported, and why: one clear error before anything is written."""

import copy
import sys

import numpy as np
import pytest
import torch
from tiny_corpus import tiny_model, tiny_store
from tiny_teachers import tiny_passt

from hf_ascdistill import AscFeatureExtractor, ExportSettings, export_model, load_prepared
from hf_ascdistill.export import checks
from hf_ascdistill.export.graphs import MelToLogits
from hf_ascdistill.export.metadata import export_metadata
from hf_ascdistill.export.onnx_int8 import quantize_onnx
from hf_ascdistill.hub import export


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))["evaluate"]


@pytest.fixture(scope="module")
def model(clips):
    return tiny_model(clips.features["labels"].names)


@pytest.fixture
def run(model, clips, tmp_path):
    def run(*, extractor=None, **settings):
        parts = {"clips": clips, "calibration_clips": clips}
        parts |= {name: settings.pop(name) for name in list(settings) if name in parts}
        extractor = AscFeatureExtractor() if extractor is None else extractor
        return export_model(model, extractor, tmp_path / "out", settings=ExportSettings(**settings), **parts)

    yield run
    assert not (tmp_path / "out").exists()


INT8 = {"formats": ["onnx-int8"]}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"formats": ["onnx", "tflite"]}, "the formats are .*'tflite'.*expected one or more of onnx, onnx-int8"),
        ({"formats": []}, "the formats are"),
        ({"opset": 11}, "opset is 11; expected one of 18 to 23"),
        ({"opset": 99}, "opset is 99"),
        ({**INT8, "calibration_method": "guess"}, "'guess'; expected one of minmax, entropy, percentile"),
        ({**INT8, "max_bytes": 1000}, r"[\d,]+ bytes of parameters, over the budget of 1,000.*allow_over_budget"),
        ({**INT8, "calibration_clips": None}, "no clips to calibrate int8 on"),
        ({"check_clips": 0}, "no clips to check the files on"),
    ],
)
def test_a_setting_that_cannot_be_met_raises(run, settings, text):
    with pytest.raises(ValueError, match=text):
        run(**settings)


def test_an_empty_calibration_set_raises(run, clips):
    with pytest.raises(ValueError, match="no clips to calibrate int8 on"):
        run(**INT8, calibration_clips=clips.select([]))


def test_clips_of_another_rate_than_the_front_end_raise(run):
    with pytest.raises(ValueError, match="have 32000 Hz, the model's front-end 16000 Hz"):
        run(**INT8, extractor=AscFeatureExtractor(sampling_rate=16_000, fmax=8000))


@pytest.mark.parametrize(
    ("module", "format_name", "extra"),
    [("onnx", "onnx", "export"), ("onnxruntime", "onnx-int8", "export"), ("executorch", "executorch", "executorch")],
)
def test_a_missing_extra_is_named(run, monkeypatch, module, format_name, extra):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.exir", None)
    with pytest.raises(ImportError, match=rf"pip install 'hf_ascdistill\[{extra}\]'"):
        run(formats=[format_name])


def test_the_bytes_of_int8_are_one_for_a_weight_of_a_convolution_and_four_for_any_other(model, clips, tmp_path):
    parts = {"clips": clips, "calibration_clips": clips, "settings": ExportSettings(**INT8, min_agreement=0)}
    files = export_model(model, AscFeatureExtractor(), tmp_path, **parts)
    network = MelToLogits(model)
    weights = sum(module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    expected = weights + 4 * (sum(parameter.numel() for parameter in network.parameters()) - weights)
    assert [file.parameter_bytes for file in files] == [expected] * 2


def test_int8_of_a_passt_raises_before_any_work(clips, tmp_path):
    model = tiny_passt(clips.features["labels"].names)
    parts = {"clips": clips, "calibration_clips": clips, "settings": ExportSettings(**INT8)}
    with pytest.raises(ValueError, match="of the type asc-passt.*expected one of asc-cp-mobile, asc-cp-resnet"):
        export_model(model, AscFeatureExtractor.from_preset("passt"), tmp_path / "out", **parts)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_raises_before_any_work(model, clips, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError, match="out is a file; expected a folder"):
        export_model(model, AscFeatureExtractor(), tmp_path / "out", clips=clips)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_exported_in_float32(model, clips, tmp_path, dtype):
    half = copy.deepcopy(model).to(dtype)
    settings = ExportSettings(formats=["torch-export"], check_clips=4)
    files = export_model(half, AscFeatureExtractor(), tmp_path, clips=clips, settings=settings)
    assert max(file.max_difference for file in files) < 1e-4
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}


@pytest.mark.parametrize(("preset", "build", "frames"), [("cp-mobile", tiny_model, 1), ("passt", tiny_passt, 16)])
def test_the_shortest_clip_of_the_metadata_is_one_that_the_model_takes(clips, preset, build, frames):
    model, extractor = build(clips.features["labels"].names), AscFeatureExtractor.from_preset(preset)
    shortest = int(export_metadata(model, extractor, source="")["min_samples"])
    assert extractor.log_mel(torch.zeros(1, shortest)).shape[2] >= frames
    assert shortest == extractor.n_fft or extractor.log_mel(torch.zeros(1, shortest - 1)).shape[2] < frames
    with torch.no_grad():
        model.eval()(extractor.log_mel(torch.zeros(1, shortest)))


def test_a_file_that_computes_something_else_is_not_written(run, monkeypatch):
    monkeypatch.setattr(export, "run_torch_program", lambda content, inputs: np.zeros((len(inputs), 10), np.float32))
    with pytest.raises(ValueError, match="waveform.pt2 differs from the model by .* nothing was written"):
        run(formats=["torch-export"])


def test_other_decisions_and_nan_do_not_pass_the_checks():
    expected = np.eye(4, dtype=np.float32)
    checks.check_float("a", expected + 5e-4, expected=expected)
    checks.check_int8("a", expected * 3, expected=expected, min_agreement=1)
    for outputs in (expected + 2e-3, expected * np.nan):
        with pytest.raises(ValueError, match="a differs from the model"):
            checks.check_float("a", outputs, expected=expected)
    with pytest.raises(ValueError, match="a or the model gives NaN or infinite numbers; nothing was written"):
        checks.check_int8("a", expected * np.nan, expected=expected, min_agreement=0)
    with pytest.raises(ValueError, match="25.0 % of 4 clips, less than 50 %"):
        checks.check_int8("a", np.roll(expected, 1, 0) + [[2, 0, 0, 0]], expected=expected, min_agreement=0.5)


@pytest.mark.parametrize(("mels", "text"), [(np.zeros((0, 256, 64)), "are none"), (np.full((1, 2, 3), np.nan), "NaN")])
def test_calibration_on_no_numbers_raises(mels, text):
    with pytest.raises(ValueError, match=f"the calibration clips .*{text}"):
        quantize_onnx(None, mels)


def test_exporting_leaves_the_model_alone(model, clips, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    settings = ExportSettings(formats=["torch-export"], check_clips=2)
    files = export_model(model, AscFeatureExtractor(), tmp_path, clips=clips, settings=settings)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mel.pt2", "waveform.pt2"]
    assert [file.size for file in files] == [(tmp_path / file.name).stat().st_size for file in files]
