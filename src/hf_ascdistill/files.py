"""Files that are there whole or not at all: written beside, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it when the block ends without an error.

    Args:
        path (`Path`): the file; what stood there before stays until the new one is complete.
    """
    staged = path.with_name(f"{path.name}.tmp")
    try:
        yield staged
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all.

    Args:
        path (`Path`): the file.
        value (`Any`): what `json.dumps` takes; its keys keep their order.
    """
    with written_whole(path) as staged:
        staged.write_text(json.dumps(value, indent=1) + "\n")


__all__ = ["write_json", "written_whole"]
