"""A file in the layout of every published family converts, and a process without the package gives its logits."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from published import passt_tensors, small_passt, with_random_weights, written
from safetensors import SafetensorError

from hf_ascdistill import (
    SCENES,
    AscFeatureExtractor,
    CpResNetConfig,
    CpResNetForAudioClassification,
    convert_checkpoint,
    convert_logits,
)
from hf_ascdistill.conversion.cp_checkpoints import ARCHITECTURES

JOB = Path(__file__).with_name("load_folders_job.py")
CPR_FRONT_END = {"n_fft": 4096, "win_length": 3072, "hop_length": 750, "n_mels": 256, "fmax": 15_500.0}


@dataclass(frozen=True)
class Family:
    """What a published file holds, how it is converted, and the front-end that it must get."""

    fields: dict = field(default_factory=dict)
    prefix: str = ""
    is_lightning: bool = False
    settings: dict = field(default_factory=dict)
    hop_length: int = 320
    fmax: float = 15_000.0

    def network(self) -> torch.nn.Module:
        return small_passt(**self.fields)

    def tensors(self) -> dict[str, torch.Tensor]:
        return passt_tensors(self.network())

    def front_end(self) -> dict[str, float]:
        own = {"hop_length": self.hop_length, "fmax": self.fmax}
        return {"n_fft": 1024, "win_length": 800, "n_mels": 128, **own}

    def content(self) -> dict:
        content = {f"{self.prefix}{name}": tensor for name, tensor in self.tensors().items()}
        return {"epoch": 24, "state_dict": content} if self.is_lightning else content


class CpResNetFamily(Family):
    """CP-ResNet at its published size."""

    def network(self) -> torch.nn.Module:
        return with_random_weights(CpResNetForAudioClassification(CpResNetConfig.from_preset("128k")).eval(), seed=0)

    def tensors(self) -> dict[str, torch.Tensor]:
        [architecture] = [known for known in ARCHITECTURES if known.name == "cp-resnet"]
        return {architecture.tensor_name(name): tensor for name, tensor in self.network().state_dict().items()}

    def front_end(self) -> dict[str, float]:
        return CPR_FRONT_END


def audioset(**fields) -> dict:
    return {"num_labels": 527, **fields}


FAMILIES = {
    "passt-s10": Family(audioset()),
    "passt-s11": Family(audioset(patch_stride=11)),
    "passt-s12": Family(audioset(patch_stride=12)),
    "passt-s13": Family(audioset(patch_stride=13)),
    "passt-s14": Family(audioset(patch_stride=14)),
    "passt-s15": Family(audioset(patch_stride=15)),
    "passt-s16": Family(audioset(patch_stride=16)),
    "passt-20s": Family(audioset(max_frames=2000), settings={"hop_length": 320}),
    "passt-30s": Family(audioset(max_frames=3000)),
    "passt-hop160": Family(audioset(max_frames=2000), settings={"hop_length": 160}, hop_length=160),
    "passt-hop100": Family(audioset(max_frames=3200), hop_length=100),
    "passt-light": Family(audioset(num_hidden_layers=1)),
    "passt_dirfms_1": Family(fmax=15_500.0),
    "passt_fms_1": Family(prefix="net.", is_lightning=True, fmax=15_500.0),
    "passt_fms_2": Family(prefix="model.", fmax=15_500.0),
    "cpr_128k_dirfms_1": CpResNetFamily(),
    "cpr_128k_fms_1": CpResNetFamily(prefix="model.", is_lightning=True),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """Folder of all converted files: of the logits, those of a clip per scene."""
    folder, files = tmp_path_factory.mktemp("converted"), tmp_path_factory.mktemp("files")
    for name, family in FAMILIES.items():
        convert_checkpoint(written(family.content(), files, f"{name}.pt"), folder / name, **family.settings)
    (files / "meta.csv").write_text("filename\tscene_label\n" + "".join(f"audio/{s}-0.wav\t{s}\n" for s in SCENES))
    path = written(5 * torch.eye(10), files, "ensemble_logits.pt")
    convert_logits(path, folder / "ensemble_logits", meta_csv=files / "meta.csv")
    return folder


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)


@pytest.fixture(scope="module")
def fresh(converted, clip, tmp_path_factory) -> dict[str, np.ndarray]:
    """Logits of the clip by all converted files in a process that never sees the package."""
    folder = tmp_path_factory.mktemp("fresh")
    np.save(folder / "clip.npy", clip)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(
        [sys.executable, JOB, converted, folder / "clip.npy", folder / "logits.npz"],
        check=True,
        cwd=folder,
        env={**os.environ, **threads, "HF_HOME": str(folder / "home")},
    )
    with np.load(folder / "logits.npz") as logits:
        return dict(logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fresh_process_gives_the_logits_of_the_same_weights(name, clip, fresh):
    extractor = AscFeatureExtractor(**FAMILIES[name].front_end())
    with torch.no_grad():
        expected = FAMILIES[name].network()(extractor.log_mel(torch.from_numpy(clip)[None])).logits
    np.testing.assert_allclose(fresh[name], expected, rtol=0, atol=1e-4)
    assert expected.std() > 1e-2  # classes differ


def test_a_fresh_process_gives_the_published_logits(fresh):
    np.testing.assert_array_equal(fresh["ensemble_logits"], 5 * np.eye(10))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_front_end_is_written_beside_the_model(name, converted):
    settings = json.loads((converted / name / "preprocessor_config.json").read_text())
    assert settings.items() >= FAMILIES[name].front_end().items()
    if "max_frames" in FAMILIES[name].fields:
        config = json.loads((converted / name / "config.json").read_text())
        assert config["max_frames"] == FAMILIES[name].fields["max_frames"]


def test_a_convolutional_teacher_takes_a_new_classifier(tmp_path):
    family = FAMILIES["cpr_128k_fms_1"]
    model = convert_checkpoint(written(family.content(), tmp_path), tmp_path / "model", num_labels=3)
    before, after = family.network().state_dict(), model.state_dict()
    kept = [name for name in after if not name.startswith("classifier.")]
    assert len(after) - len(kept) == 6  # the convolution and its normalisation
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert not after["classifier.conv.weight"].any()  # as CP-ResNet starts
    assert torch.equal(after["classifier.norm.running_var"], torch.ones(3))


@pytest.mark.parametrize(
    "settings", [{"hop_length": 320}, {"fmax": 15_000.0}, {"num_attention_heads": 12}, {"patch_stride": 10}]
)
def test_settings_of_passt_do_not_fit_a_convolutional_network(settings, tmp_path):
    path = written(FAMILIES["cpr_128k_fms_1"].content(), tmp_path)
    with pytest.raises(ValueError, match=f"{path}: this is a cp-resnet, {next(iter(settings))} belong"):
        convert_checkpoint(path, tmp_path / "model", **settings)


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        (CpResNetForAudioClassification, SafetensorError("I/O error: No space left on device (os error 28)")),
        (AscFeatureExtractor, OSError(errno.ENOSPC, "No space left on device")),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_full_disk_leaves_nothing_and_changes_no_folder(writer, error, is_there, tmp_path, monkeypatch):
    path = written(FAMILIES["cpr_128k_dirfms_1"].content(), tmp_path)
    target = tmp_path / "deep" / "model"
    if is_there:
        target.mkdir(parents=True)
    save = writer.save_pretrained

    def fill_the_disk(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        assert any(Path(folder).iterdir())
        raise error

    monkeypatch.setattr(writer, "save_pretrained", fill_the_disk)
    with pytest.raises(OSError, match=f"{target} cannot be written, and nothing .*No space left"):
        convert_checkpoint(path, target)
    left = {entry.relative_to(tmp_path).as_posix() for entry in tmp_path.rglob("*")}
    assert left == {path.name, *(("deep", "deep/model") if is_there else ())}
