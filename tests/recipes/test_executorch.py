"""The authors' trained student as programs for ExecuTorch, in whose own runtime they decide as it does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_ascdistill import SCENES, AscFeatureExtractor, load_split

JOB, RECIPE = Path(__file__).with_name("executorch_job.py"), Path(__file__).parents[2] / "recipes" / "export.py"
PYTHON = Path(sys.prefix) / "executorch" / "bin" / "python"  # `make test` makes it, where ExecuTorch is to be had


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([PYTHON, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def exported(shared, sample, run_recipe, tmp_path_factory) -> Path:
    """Folder of the files."""
    if not PYTHON.exists() or run("-c", "import executorch.runtime").returncode:
        pytest.skip("needs ExecuTorch, which `make test` installs beside this environment where it is made for it")
    folder = tmp_path_factory.mktemp("exported")
    model, files = folder / "student", folder / "files"
    run_recipe("convert_checkpoint", "--input", shared / "checkpoints/cpm_student_dcase23.ckpt", "--output", model)
    done = run(RECIPE, "--model", model, "--data", sample, "--output", files, "--formats", "executorch")
    assert done.returncode == 0, done.stderr[-12000:]
    assert sorted(path.name for path in files.iterdir()) == ["mel.pte", "waveform.pte"]
    return files


@pytest.fixture(scope="module")
def clips(sample):
    """The evaluate list."""
    return load_split(sample, "evaluate")


@pytest.fixture(scope="module")
def outputs(exported, clips, golden, tmp_path_factory):
    """What the files give in the runtime, by `FILE/NAME`: scores of the clips of both sets, and the texts."""
    folder = tmp_path_factory.mktemp("outputs")
    extractor = AscFeatureExtractor()
    waveforms = {"golden": golden("clips8")["wav"], "evaluate": np.stack([row["waveform"] for row in clips])}
    arrays = {}
    for name, waveform in waveforms.items():
        arrays[f"waveform/{name}"] = waveform
        arrays[f"mel/{name}"] = extractor.log_mel(torch.from_numpy(waveform)).numpy()
    np.savez(folder / "inputs.npz", **arrays)
    done = run(JOB, exported, folder / "inputs.npz", folder / "outputs.npz")
    assert done.returncode == 0, done.stderr[-12000:]
    return np.load(folder / "outputs.npz")


def test_programs_give_the_reference_logits(outputs, golden):
    expected = torch.from_numpy(golden("clips8")["logits"])
    np.testing.assert_allclose(outputs["mel/golden"], expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(outputs["waveform/golden"], expected.softmax(1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["waveform", "mel"])
def test_programs_decide_as_the_student(outputs, clips, name):
    labels = np.array(clips.with_format(None)["labels"][:])
    assert (outputs[f"{name}/evaluate"].argmax(1) == labels).sum() == 62


def test_programs_say_what_they_are(outputs):
    for name in ("waveform", "mel"):
        assert json.loads(str(outputs[f"{name}/labels"])) == list(SCENES)
        assert str(outputs[f"{name}/sampling_rate"]) == "32000"
        settings = AscFeatureExtractor(**json.loads(str(outputs[f"{name}/front_end"]))).to_dict()
        assert settings == AscFeatureExtractor().to_dict()
        assert str(outputs[f"{name}/source"]).endswith("student")
