"""What the tests of the command line share: a small saved model, some recordings, and the command in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

sys.path.append(str(Path(__file__).resolve().parents[1] / "hub"))  # parts of the tests of serving and publishing

from serving_parts import noise, save_model

from hf_ascdistill.command_line import main


class Result(NamedTuple):
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def ascdistill(capsys) -> Callable[..., Result]:
    """Runs the command in this process: `ascdistill("info", folder)`."""

    def run(*arguments) -> Result:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A small CP-Mobile, saved."""
    return save_model("cp-mobile", tmp_path_factory.mktemp("model"))


@pytest.fixture
def recordings(tmp_path) -> Path:
    """A folder of four recordings of other rates, lengths and channels, in two levels, and a text."""
    folder = tmp_path / "recordings"
    (folder / "below").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(1, seed=0), 32_000)
    soundfile.write(folder / "b.FLAC", noise(1, seed=1), 32_000)
    soundfile.write(folder / "below" / "c.ogg", noise(1, seed=2, rate=44_100, channels=2), 44_100)
    soundfile.write(folder / "below" / "d.wav", noise(3.2, seed=3), 32_000)
    (folder / "notes.txt").write_text("no audio")
    (folder / "._a.wav").write_text("what a Mac leaves beside its files")
    return folder
