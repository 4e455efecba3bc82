"""repair_torchaudio mends what is broken, and only that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ascdistill import repair_torchaudio as module
from hf_ascdistill.repair_torchaudio import repair_torchaudio

NEEDS_CUDA = """
from pathlib import Path
if list((Path(__file__).parent / "lib").glob("*.so")):
    raise OSError("libcudart.so.13: cannot open shared object file")
"""


@pytest.fixture
def site_packages(tmp_path):
    """Writes a made-up torch and torchaudio into a folder and returns it."""

    def write(torchaudio: str, torch: str = "") -> Path:
        for name, body in {"torch": torch, "torchaudio": torchaudio}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(body)
        (tmp_path / "torchaudio" / "lib").mkdir()
        for name in ("_torchaudio.abi3.so", "libtorchaudio.abi3.so"):
            (tmp_path / "torchaudio" / "lib" / name).write_bytes(name.encode())
        return tmp_path

    return write


def libraries(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "torchaudio" / "lib").iterdir())


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, module.__file__, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_broken_extension_is_renamed_once(site_packages):
    folder = site_packages(NEEDS_CUDA)
    renamed = repair_torchaudio(folder)
    assert [path.name for path in renamed] == ["_torchaudio.abi3.so.disabled", "libtorchaudio.abi3.so.disabled"]
    assert libraries(folder) == [path.name for path in renamed]
    assert renamed[0].read_bytes() == b"_torchaudio.abi3.so"
    assert repair_torchaudio(folder) == []


def test_a_later_installation_is_mended_again(site_packages):
    folder = site_packages(NEEDS_CUDA)
    repair_torchaudio(folder)
    (folder / "torchaudio" / "lib" / "_torchaudio.abi3.so").write_bytes(b"new")
    [renamed] = repair_torchaudio(folder)
    assert renamed.read_bytes() == b"new"


def test_working_pair_is_left_alone(site_packages):
    folder = site_packages("")
    assert repair_torchaudio(folder) == []
    assert libraries(folder) == ["_torchaudio.abi3.so", "libtorchaudio.abi3.so"]


def test_folder_without_torchaudio_is_left_alone(tmp_path):
    assert repair_torchaudio(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_other_damage_is_reported_and_nothing_stays_renamed(site_packages):
    folder = site_packages("import no_such_dependency")
    with pytest.raises(RuntimeError, match="no_such_dependency.*constraints.txt"):
        repair_torchaudio(folder)
    assert libraries(folder) == ["_torchaudio.abi3.so", "libtorchaudio.abi3.so"]


def test_broken_torch_is_not_blamed_on_torchaudio(site_packages):
    folder = site_packages(NEEDS_CUDA, torch="raise ImportError('libtorch.so: not found')")
    with pytest.raises(RuntimeError, match="torch itself cannot be imported .*libtorch.so"):
        repair_torchaudio(folder)
    assert libraries(folder) == ["_torchaudio.abi3.so", "libtorchaudio.abi3.so"]


def test_script_checks_mends_and_is_content(site_packages):
    folder = site_packages(NEEDS_CUDA)
    broken = run_script(folder, "--check")
    assert broken.returncode == 1
    assert "libcudart.so.13" in broken.stdout and f"python {Path(module.__file__).resolve()}" in broken.stdout
    assert "_torchaudio.abi3.so" in libraries(folder)

    mended = run_script(folder)
    assert mended.returncode == 0
    assert "disabled _torchaudio.abi3.so, libtorchaudio.abi3.so in" in mended.stdout

    assert "nothing to repair" in run_script(folder).stdout
    content = run_script(folder, "--check")
    assert content.returncode == 0
    assert "works" in content.stdout
