"""Does an exported file run where onnxruntime, numpy and soundfile are all that is installed?

python benchmarks/bare_onnx.py --model exported/student/waveform.onnx --wav clip.wav [--python other-venv/bin/python]

Makes a virtual environment with the three packages in the versions of constraints.txt, runs docs/onnx_example.py there
on a 32 kHz copy of the wav, and once more on a copy of another rate, for which it has to ask for a resampler. Exits
with 1 where an answer is not what was expected. Takes about a minute.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import soundfile
import soxr

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("onnxruntime", "numpy", "soundfile")
ABSENT = ("hf_ascdistill", "torch", "transformers", "onnx", "soxr", "scipy")
RATE, OTHER_RATE = 32_000, 44_100


def make_environment(folder: Path) -> Path:
    """Makes a virtual environment with the three packages, and returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", CHECKOUT / "constraints.txt", *PACKAGES]
    subprocess.run([str(part) for part in install], check=True)
    return python


def classify(python: Path, model: Path, wav: Path) -> subprocess.CompletedProcess:
    """Runs the example."""
    command = [python, "-I", CHECKOUT / "docs" / "onnx_example.py", model, wav]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def check(python: Path, model: Path, wav: Path) -> bool:
    """Prints what the environment holds and answers; returns whether it is as expected."""
    script = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    present = subprocess.run([str(python), "-I", "-c", script], check=True, capture_output=True, text=True).stdout
    print(f"of {', '.join(ABSENT)} are there: {present.strip()}")
    samples, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for target in (RATE, OTHER_RATE):
            copy = Path(folder, f"{target}.wav")
            resampled = samples if rate == target else soxr.resample(samples, rate, target)
            soundfile.write(copy, resampled, target, subtype="FLOAT")
            answers[target] = classify(python, model, copy)
            print(f"{target} Hz, exit {answers[target].returncode}:\n{answers[target].stdout}{answers[target].stderr}")
    asks = "pip install soxr" in answers[OTHER_RATE].stderr
    return present.strip() == "[]" and answers[RATE].returncode == 0 and answers[OTHER_RATE].returncode == 1 and asks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="waveform.onnx or waveform-int8.onnx")
    parser.add_argument("--wav", type=Path, required=True, help="a recording of a second or more")
    parser.add_argument("--python", type=Path, help="Python of such an environment, in place of a new one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = arguments.python or make_environment(Path(folder, "venv"))
        sys.exit(not check(python, arguments.model, arguments.wav))


if __name__ == "__main__":
    main()
