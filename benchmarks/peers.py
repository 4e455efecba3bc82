"""Makes a throw-away environment with the packages that the benchmarks compare with.

python benchmarks/peers.py .venv-bench

It is a virtual environment that sees all of the one it was made with, torch and this package too, so that only the
other packages are installed. hear21passt, timm and the torchvision that timm asks for lie in a folder of their own,
FOLDER/hear21passt: its torchvision is a build for CUDA, beside which transformers cannot be imported. What the package
index does not have is named, and the benchmarks leave its cases out. Remove FOLDER to be rid of all of it.
"""

import argparse
import subprocess
import sysconfig
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
WITH_NEEDS = ("torch-audiomentations", "librosa>=0.11", "numpy-minmax", "numpy-rms", "python-stretch")
# audiomentations asks for an older soxr and torchlibrosa for nothing more than librosa.
WITHOUT_NEEDS = ("audiomentations>=0.43", "torchlibrosa")
HEAR21PASST = ("hear21passt", "timm", "torchvision")


def make_environment(folder: Path) -> Path:
    """Makes the empty environment.

    Args:
        folder (`Path`): where to.

    Returns:
        `Path`: its interpreter.
    """
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    shared = sysconfig.get_path("purelib")
    packages.joinpath("shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
    return python


def install(python: Path, packages: list[str], *options: str | Path) -> bool:
    """Installs packages under the project's constraints; says where that fails, and returns whether it did not."""
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", "--retries", "1", "-c", CONSTRAINTS]
    done = subprocess.run([*command, *options, *packages], check=False)
    if done.returncode != 0:
        print(f"not available, its cases are left out: {', '.join(packages)}", flush=True)
    return done.returncode == 0


def main() -> None:
    """Makes the environment and installs what can be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder; an old environment there is replaced")
    folder = parser.parse_args().folder
    python = make_environment(folder)
    for name in WITH_NEEDS:
        install(python, [name])
    for name in WITHOUT_NEEDS:
        install(python, [name], "--no-deps")
    if not install(python, list(HEAR21PASST), "--no-deps", "--target", folder / "hear21passt"):
        (folder / "hear21passt").mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
