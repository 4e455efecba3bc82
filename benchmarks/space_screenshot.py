"""Takes the picture of the Space in docs/: runs the app, uploads recordings, joined to one, in a headless Chromium.

python benchmarks/space_screenshot.py --model models/cpm-student --audio park.wav tram.wav --output docs/space.png
"""

import argparse
import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from chromium import ANSWER_SECONDS, Page, browsing, find_chromium
from PIL import Image

APP = Path(__file__).resolve().parents[1] / "model_cards" / "space" / "app.py"
COLOURS = 256  # of the picture, which stays small
FILE_INPUT = "input[type=file]"
BEST_SCENE = "document.querySelector('#scene h2')?.innerText"
PICTURE = "document.querySelector('#picture img')?.naturalWidth > 0"
SETTLE = "document.getAnimations().every(animation => animation.playState !== 'running')"


@contextlib.contextmanager
def running_space(models: Sequence[str | Path]) -> Iterator[str]:
    """Runs the app offline on a free port, and yields its address.

    Raises:
        RuntimeError: the app ended; what it printed is told.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment["ASCDISTILL_MODELS"] = ",".join(map(str, models))
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with tempfile.TemporaryDirectory() as uploads:
        environment["GRADIO_TEMP_DIR"] = uploads
        process = subprocess.Popen([sys.executable, str(APP)], env=environment, **output)
        try:
            lines: list[str] = []
            while "Running on local URL" not in "".join(lines[-1:]):
                lines.append(process.stdout.readline())
                if not lines[-1]:
                    raise RuntimeError(f"the app ended before it ran: {''.join(lines)}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=ANSWER_SECONDS)


def show_recording(page: Page, url: str, path: Path) -> str:
    """Opens the Space, uploads a recording, waits for the answer, and returns the best scene."""
    page.open(url, height=1060)
    page.upload(FILE_INPUT, path)
    scene = page.wait_for(BEST_SCENE)
    page.wait_for(PICTURE)
    page.wait_for(SETTLE)
    return scene


def join_recordings(paths: Sequence[Path], output: Path) -> None:
    """Writes recordings of one rate one after the other."""
    parts, rates = zip(*(soundfile.read(path) for path in paths), strict=True)
    soundfile.write(output, np.concatenate(parts), *set(rates))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, nargs="+", help="folders or Hub names of the models to offer")
    parser.add_argument("--audio", required=True, nargs="+", type=Path, help="recordings of one rate, joined")
    parser.add_argument("--output", default=Path("docs/space.png"), type=Path)
    arguments = parser.parse_args(argv)
    executable = find_chromium()
    if executable is None:
        parser.error("neither Chromium nor Chrome is installed.")
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "recording.wav"
        join_recordings(arguments.audio, recording)
        with running_space(arguments.model) as url, browsing(executable) as page:
            print(show_recording(page, url, recording))
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS).save(
                arguments.output, optimize=True
            )


if __name__ == "__main__":
    main()
