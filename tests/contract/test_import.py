"""What `import hf_ascdistill` does, leaves alone, and says where torchaudio is broken."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hf_ascdistill

SOURCE = Path(hf_ascdistill.__file__).resolve().parent


def run_python(code: str, *paths: Path) -> subprocess.CompletedProcess:
    """Runs `code` in a new process that finds `paths` first and this very package after them."""
    search_path = os.pathsep.join(map(str, [*paths, SOURCE.parent]))
    environment = {**os.environ, "PYTHONPATH": search_path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def fake_torchaudio(folder: Path, body: str) -> Path:
    package = folder / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text(body)
    return folder


def test_import_registers_the_models_and_leaves_heavy_libraries_alone():
    code = """
import sys, hf_ascdistill, transformers
heavy = {"datasets", "evaluate", "soundfile", "soxr", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
for model_type in ("asc-cp-mobile", "asc-cp-resnet", "asc-passt"):
    assert transformers.AutoConfig.for_model(model_type).model_type == model_type
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("error", ["OSError('libcudart.so.13: no such file')", "RuntimeError('other CUDA versions')"])
def test_broken_torchaudio_is_named_in_one_sentence_with_the_command(tmp_path, error):
    result = run_python("import hf_ascdistill", fake_torchaudio(tmp_path, f"raise {error}"))
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: torchaudio does not fit the installed torch")
    program, script = shlex.split(re.search("`(.+)`", message)[1])
    assert (program, Path(script)) == ("python", SOURCE / "repair_torchaudio.py")
    assert message.replace(script, "").count(".") == 1 and message.endswith(".")


def test_a_machine_without_torchaudio_is_no_error():
    result = run_python("import sys; sys.modules['torchaudio'] = None; import hf_ascdistill")
    assert result.returncode == 0, result.stderr


def test_a_missing_dependency_of_torchaudio_is_not_hidden(tmp_path):
    result = run_python("import hf_ascdistill", fake_torchaudio(tmp_path, "import no_such_dependency"))
    assert result.stderr.strip().endswith("ModuleNotFoundError: No module named 'no_such_dependency'")


@pytest.mark.parametrize("name", hf_ascdistill.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hf_ascdistill, name) is not None
    assert name in dir(hf_ascdistill)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'hf_ascdistill' has no attribute 'load_tau23'"):
        hf_ascdistill.load_tau23  # noqa: B018
