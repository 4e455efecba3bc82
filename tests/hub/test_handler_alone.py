"""The handler at work in a model repository, where neither the package nor more than it needs is installed."""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from serving_parts import malformed, noise, save_model

from hf_ascdistill.hub import handler as handler_module
from hf_ascdistill.hub.handler import EndpointHandler

ABSENT = ("hf_ascdistill", "torchaudio", "datasets", "evaluate", "accelerate", "soxr", "fastapi", "uvicorn", "scipy")

# As the inference toolkit does it: by the file's path, the folder on the path, no package around.
CODE = """
import importlib.util, json, sys
from pathlib import Path

for name in ABSENT:
    assert importlib.util.find_spec(name) is None, name
answers = []
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.EndpointHandler(folder)
    assert type(handler.model).__module__.startswith("transformers_modules."), type(handler.model)
    clips = [(Path(folder) / name).read_bytes() for name in ("clip.wav", "clip44.flac")]
    answers.append(handler({"inputs": clips}))
    try:
        handler({"inputs": b"hello, world"})
    except module.BadRequest as error:
        assert "expected an audio file" in str(error)
    else:
        raise AssertionError("no error")
print(json.dumps(answers))
""".replace("ABSENT", repr(ABSENT))


def bare_site(folder: Path) -> Path:
    """Links to all installed packages but those that are to be absent, and nothing of ours."""
    folder.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}:
        for path in Path(place).iterdir():
            name = path.name.lower().lstrip("_")
            if not name.startswith(ABSENT) and path.suffix != ".pth" and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> list[Path]:
    """One repository of each architecture, with the copied handler and two recordings."""
    folders = [save_model(family, tmp_path_factory.mktemp(family)) for family in ("cp-mobile", "cp-resnet", "passt")]
    for folder in folders:
        shutil.copy(handler_module.__file__, folder / "handler.py")
        (folder / "clip.wav").write_bytes(malformed.audio_file(noise(1.7)))
        (folder / "clip44.flac").write_bytes(malformed.audio_file(noise(1.7, rate=44_100), 44_100, file_format="FLAC"))
    return folders


def test_the_copied_handler_works_without_the_package(repositories, tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PYTHONPATH": str(bare_site(tmp_path / "site")),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    command = [sys.executable, "-S", "-c", CODE, *map(str, repositories)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "soxr is not installed: audio is resampled by FFT" in result.stderr
    for folder, answers in zip(repositories, json.loads(result.stdout), strict=True):
        names = ("clip.wav", "clip44.flac")
        here = EndpointHandler(str(folder))({"inputs": [(folder / name).read_bytes() for name in names]})
        for answer, expected, tolerance in zip(answers, here, (1e-6, 1e-2), strict=True):  # 1e-2: without soxr
            scores, others = ({entry["label"]: entry["score"] for entry in part} for part in (answer, expected))
            assert scores == pytest.approx(others, abs=tolerance)
            assert np.ptp(list(scores.values())) > 0.01
