"""Makes torchaudio importable beside a torch that its compiled extension was not built for.

The Linux wheel of torchaudio 2.11 holds an extension built for CUDA. Beside a CPU build of torch, or one for another
CUDA version, `import torchaudio` fails, and with it transformers' `Trainer`, `pipeline` and audio feature extractors.
Without the extension torchaudio runs in pure PyTorch, so this script renames it where, and only where, the import
fails:

    python src/hf_ascdistill/repair_torchaudio.py           # mends it; does nothing beside a working pair
    python src/hf_ascdistill/repair_torchaudio.py --check   # changes nothing; exit status 1 where it is broken

It runs by its path with the standard library alone, since `hf_ascdistill` itself refuses to be imported until then.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DISABLED_SUFFIX = ".disabled"

# What it prints says how far it came, so that nothing has to be caught: a crash of the interpreter counts too.
_PROBE = """
import importlib.util
spec = importlib.util.find_spec("torchaudio")
print(spec.origin if spec else "", flush=True)
if spec:
    import torch
    print("torch", flush=True)
    import torchaudio
    print("torchaudio", flush=True)
"""


class _State(NamedTuple):
    package: Path | None  # folder of torchaudio; None where it is not installed
    is_importable: bool
    reason: str  # last line of the failed import, else empty


def repair_torchaudio(site_packages: str | os.PathLike | None = None) -> list[Path]:
    """
    Renames `torchaudio/lib/*.so` to `*.so.disabled` where torchaudio cannot be imported beside the installed torch.

    Does nothing where torchaudio can be imported or is not installed, so that it may run any number of times. Where
    the import still fails without the extension, the files get their names back.

    Args:
        site_packages (`str` or `os.PathLike`, *optional*):
            Folder that holds the package `torchaudio`. Defaults to the one that this interpreter imports it from.

    Returns:
        `list[Path]`: the files under their new names; empty where nothing had to be done.

    Raises:
        RuntimeError: torch itself cannot be imported, or torchaudio cannot even without its extension.
    """
    state = _probe(site_packages)
    if state.package is None or state.is_importable:
        return []
    extensions = sorted((state.package / "lib").glob("*.so"))
    disabled = [_rename(path, path.with_name(path.name + DISABLED_SUFFIX)) for path in extensions]
    after = _probe(site_packages)
    if not after.is_importable:
        for path, extension in zip(disabled, extensions, strict=True):
            _rename(path, extension)
        raise RuntimeError(
            f"torchaudio in {state.package} cannot be imported, with its compiled extension ({state.reason}) or "
            f"without ({after.reason}); install torch and torchaudio again, with the versions of constraints.txt."
        )
    return disabled


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where it is broken")
    if parser.parse_args(arguments).check:
        return _check()
    disabled = repair_torchaudio()
    if disabled:
        names = ", ".join(path.name.removesuffix(DISABLED_SUFFIX) for path in disabled)
        print(f"torchaudio: disabled {names} in {disabled[0].parent}; it now runs in pure PyTorch.")
    else:
        print("torchaudio: nothing to repair.")
    return 0


def _check() -> int:
    state = _probe(None)
    if state.package is None:
        print("torchaudio: not installed.")
    elif state.is_importable:
        print(f"torchaudio: works ({state.package}).")
    else:
        print(f"torchaudio: broken ({state.reason}); mend it with `python {Path(__file__).resolve()}`.")
    return 0 if state.package is None or state.is_importable else 1


def _probe(site_packages: str | os.PathLike | None) -> _State:
    environment = dict(os.environ)
    if site_packages is not None:
        if not (Path(site_packages) / "torchaudio").is_dir():
            return _State(None, False, "not installed")
        paths = [os.fspath(site_packages), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # A new process, since an import that failed half-way cannot be tried again; -P keeps the working directory out.
    command = [sys.executable, "-P", "-c", _PROBE]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    origin, *reached = result.stdout.splitlines() or [""]
    reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    if not origin:
        return _State(None, False, "not installed")
    if "torch" not in reached:
        raise RuntimeError(f"torch itself cannot be imported ({reason}); install it before torchaudio is repaired.")
    is_importable = "torchaudio" in reached
    return _State(Path(origin).parent, is_importable, "" if is_importable else reason)


def _rename(source: Path, target: Path) -> Path:
    os.replace(source, target)
    return target


__all__ = ["DISABLED_SUFFIX", "main", "repair_torchaudio"]


if __name__ == "__main__":
    sys.exit(main())
