"""Files and folders that are there whole or not at all: written beside, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

STAGED_SUFFIX = ".tmp"  # of a file that is being written


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it when the block ends without an error.

    Args:
        path (`Path`): the file; what stood there before stays until the new one is complete.
    """
    staged = path.with_name(f"{path.name}.{os.getpid()}{STAGED_SUFFIX}")  # others may write the same file
    try:
        yield staged
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def is_staged(path: Path, name: str) -> bool:
    """Returns whether a file is one that [`written_whole`] began, for the file of that name beside it."""
    return path.name.startswith(f"{name}.") and path.suffix == STAGED_SUFFIX


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all.

    Args:
        path (`Path`): the file.
        value (`Any`): what `json.dumps` takes; its keys keep their order.
    """
    with written_whole(path) as staged:
        staged.write_text(json.dumps(value, indent=1) + "\n")


def check_unused(path: Path) -> None:
    """Checks that a folder can be made.

    Args:
        path (`Path`): the folder to make.

    Raises:
        ValueError: it exists and is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists already; name a new or empty folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to write into, beside `path`, and renames it to `path` once all is written.

    Args:
        path (`Path`): the folder to make.

    Raises:
        ValueError: it exists and is not empty.
        OSError: it cannot be written, as on a full disk; then nothing of it is left, folders above it included.
    """
    check_unused(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, path)
        made = []
    except (OSError, SafetensorError) as error:  # safetensors wraps what its file says
        raise OSError(f"{path} cannot be written, and nothing of it was left behind: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


__all__ = ["STAGED_SUFFIX", "check_unused", "is_staged", "new_folder", "write_json", "written_whole"]
