"""The authors' checkpoints become our models; anything else raises and leaves nothing behind."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_ascdistill import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
)
from hf_ascdistill.conversion import convert_checkpoint, load_checkpoint
from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES

MODELS = {"cp-mobile": CpMobileForAudioClassification, "cp-resnet": CpResNetForAudioClassification}
CONFIGS = {"cp-mobile": CpMobileConfig, "cp-resnet": CpResNetConfig}
DENORMALS = 12_109  # in the authors' trained student


def authors_tensors(name: str, **sizes) -> dict[str, torch.Tensor]:
    """A state dict in the authors' names and shapes; every tensor holds other numbers."""
    [architecture] = [known for known in ARCHITECTURES if known.name == name]
    with torch.device("meta"):
        model = MODELS[name](CONFIGS[name](**sizes))
    tensors = {architecture.tensor_name(ours): tensor for ours, tensor in model.state_dict().items()}
    return {
        name: torch.full(tensor.shape, number, dtype=tensor.dtype)
        for number, (name, tensor) in enumerate(tensors.items(), start=1)
    }


@pytest.fixture
def small_tensors() -> dict[str, torch.Tensor]:
    return authors_tensors("cp-mobile", base_channels=8)


def written(tensors, folder: Path) -> Path:
    path = folder / "checkpoint.pt"
    torch.save(tensors, path)
    return path


@pytest.fixture
def student_checkpoint(shared) -> Path:
    return shared / "checkpoints" / "cpm_student_dcase23.ckpt"


def test_the_converted_student_gives_the_reference_logits(student_checkpoint, golden, tmp_path):
    convert_checkpoint(student_checkpoint, tmp_path / "student")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "student")
    clips = golden("clips8")
    with torch.no_grad():
        logits = model(torch.from_numpy(clips["mel_cpm"])).logits
    np.testing.assert_allclose(logits, clips["logits"], rtol=0, atol=1e-3)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "student")
    assert extractor.hop_length == AscFeatureExtractor.from_preset("cp-mobile").hop_length
    assert model.config.id2label[9] == "tram"


def test_denormal_numbers_become_zero_and_are_counted(student_checkpoint, caplog):
    with caplog.at_level(logging.INFO, logger="hf_ascdistill.conversion"):
        model, _ = load_checkpoint(student_checkpoint)
    assert f"{DENORMALS:,} denormal numbers" in caplog.text
    smallest = torch.finfo(torch.float32).tiny
    for tensor in model.state_dict().values():
        assert not ((tensor != 0) & (tensor.abs() < smallest)).any()


@pytest.mark.parametrize(("name", "file"), [("cp-mobile", "cpm32_random"), ("cp-resnet", "cpr32_random")])
@pytest.mark.parametrize("is_lightning", [True, False])
def test_both_kinds_of_files_give_the_reference_logits(name, file, is_lightning, golden, tmp_path):
    arrays = golden(file)
    tensors = {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("sd/")}
    if is_lightning:
        tensors = {"epoch": 3, "state_dict": {f"model.{key}": tensor for key, tensor in tensors.items()}}
    model, extractor = load_checkpoint(written(tensors, tmp_path))
    assert extractor.to_dict() == AscFeatureExtractor.from_preset(name).to_dict()
    assert not model.training
    with torch.no_grad():
        logits = model(torch.from_numpy(arrays["x"])[:, 0]).logits
    np.testing.assert_allclose(logits, arrays["out_eval"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", ["128k", "450k", "1m", "4m", "8m"])
def test_every_size_is_recognised_by_its_tensors(name, size, tmp_path):
    tensors = authors_tensors(name, **CONFIGS[name].PRESETS[size])
    model, extractor = load_checkpoint(written(tensors, tmp_path))
    assert extractor.to_dict() == AscFeatureExtractor.from_preset(name).to_dict()
    assert model.config.to_dict() == CONFIGS[name].from_preset(size).to_dict()
    ours = dict(zip(model.state_dict(), tensors, strict=True))
    assert all(torch.equal(tensor, tensors[ours[key]]) for key, tensor in model.state_dict().items())


def test_class_names_are_neutral_or_given_where_there_are_not_ten(tmp_path):
    path = written(authors_tensors("cp-resnet", base_channels=16, num_labels=3), tmp_path)
    assert load_checkpoint(path)[0].config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    named = load_checkpoint(path, id2label={0: "dog", 1: "rain", 2: "sea"})[0]
    assert named.config.label2id == {"dog": 0, "rain": 1, "sea": 2}
    with pytest.raises(ValueError, match="num_labels is 3, but id2label names 1"):
        load_checkpoint(path, id2label={0: "dog"})


def test_half_precision_is_widened(small_tensors, tmp_path):
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in small_tensors.items()}
    model, _ = load_checkpoint(written(halved, tmp_path))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


BAD_TENSORS = {
    "missing: stages.s1.b2.after_block_norm.gamma": lambda t: without(t, "stages.s1.b2.after_block_norm.gamma"),
    "missing: feed_forward.0.weight": lambda t: without(t, "feed_forward.0.weight"),
    "missing: feed_forward.1.num_batches": lambda t: without(t, "feed_forward.1.num_batches_tracked"),
    "unknown: mel.window": lambda t: {**t, "mel.window": torch.ones(3)},
    "unknown: extra0, .* and 2 more": lambda t: {**t, **{f"extra{n}": torch.ones(1) for n in range(12)}},
    r"shape: in_c.0.1.bias \(9,\), expected \(2,\)": lambda t: {**t, "in_c.0.1.bias": torch.ones(9)},
    "missing: in_c.0.1.weight; unknown: strange": lambda t: {
        **without(t, "in_c.0.1.weight"),
        "strange": torch.ones(2),
    },
    "not finite.*: in_c.0.1.running_var": lambda t: {**t, "in_c.0.1.running_var": torch.tensor([1, float("nan")])},
    "right kind: in_c.0.1.bias": lambda t: {**t, "in_c.0.1.bias": torch.ones(2, dtype=torch.int64)},
    "no tensors: in_c.0.1.bias": lambda t: {**t, "in_c.0.1.bias": [1.0, 2.0]},
    "prefix 'model.'": lambda t: {**t, "model.in_c.0.1.bias": torch.ones(2)},
    r"exactly one of in_c.1.0.weight \(cp-mobile\) or in_c.0.weight \(cp-resnet\) or .*, found weight": lambda t: {
        "weight": torch.ones(3)
    },
    "exactly one of": lambda t: {**t, "in_c.0.weight": torch.ones(8, 1, 5, 5)},
    r"shape: in_c.1.0.weight \(\), expected 4 dimensions": lambda t: {**t, "in_c.1.0.weight": torch.tensor(1.0)},
    "base_channels is 12": lambda t: {**t, "in_c.1.0.weight": torch.ones(12, 3, 3, 3)},
    "at least one": lambda t: {**t, "feed_forward.0.weight": torch.ones(0, 40, 1, 1)},
    "no weights": lambda t: {},
    "holds no weights": lambda t: [1, 2],
    "no tensors: epoch": lambda t: {"epoch": 3},
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_tensors_that_do_not_fit_raise_and_are_named(message, small_tensors, tmp_path):
    path = written(BAD_TENSORS[message](small_tensors), tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(path, tmp_path / "model")
    assert str(path) in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("is_torch_file", [True, False])
def test_code_in_a_file_is_not_run(is_torch_file, small_tensors, tmp_path):
    proof, path = tmp_path / "ran", tmp_path / "checkpoint.pt"
    content = {"state_dict": small_tensors, "hyper_parameters": Intruder(proof)}
    if is_torch_file:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=f"{path} cannot be read as weights"):
        load_checkpoint(path)
    assert not proof.exists()
    torch.load(path, weights_only=False) if is_torch_file else pickle.loads(path.read_bytes())
    assert proof.exists()  # the file was able to


@pytest.mark.parametrize("is_zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 100, 10_000, -1])
def test_a_truncated_file_raises(kept, is_zipped, small_tensors, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(small_tensors, path, _use_new_zipfile_serialization=is_zipped)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} cannot be read as weights"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_file_raises_or_is_whole(small_tensors, tmp_path):
    """Whatever a changed byte makes of the file, the only error is a clear one."""
    path = tmp_path / "checkpoint.pt"
    torch.save(small_tensors, path, _use_new_zipfile_serialization=False)
    content, generator = path.read_bytes(), np.random.default_rng(0)
    errors = 0
    for position in generator.integers(0, 20_000, size=60):
        changed = bytearray(content)
        changed[position] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        try:
            load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)
            errors += 1
    assert errors > 20


def test_a_missing_file_raises(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path} is not a file"):
            load_checkpoint(path)


def test_a_folder_in_use_is_left_alone(small_tensors, tmp_path):
    path, folder = written(small_tensors, tmp_path), tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for output in (folder, folder / "notes.txt"):
        with pytest.raises(ValueError, match="exists already"):
            convert_checkpoint(path, output)
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]


def test_an_empty_folder_and_what_a_killed_run_left_are_replaced(small_tensors, tmp_path):
    path, folder = written(small_tensors, tmp_path), tmp_path / "deep" / "model"
    folder.mkdir(parents=True)
    (folder.parent / ".model.partial").mkdir()
    (folder.parent / ".model.partial" / "half.bin").touch()
    convert_checkpoint(path, folder)
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]
    assert not (folder / "half.bin").exists()
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("interrupt", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(interrupt, small_tensors, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise interrupt

    path = written(small_tensors, tmp_path)
    monkeypatch.setattr(AscFeatureExtractor, "save_pretrained", stop)
    with pytest.raises(type(interrupt)):
        convert_checkpoint(path, tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
