"""Folders that lie in dataset repositories of the Hub, by the name `hf://datasets/user/name`."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

PREFIX = "hf://"
NAME = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>[^@]+?))?/?")


def local_folder(path: str | Path, patterns: Sequence[str]) -> Path:
    """Returns a folder as it is, or downloads files of one that lies on the Hub; those that are here are not again.

    Args:
        path (`str | Path`): a folder, or `hf://datasets/user/name[@revision][/folder]`.
        patterns (`Sequence[str]`): which files of a folder on the Hub are wanted.

    Raises:
        ValueError: the name begins as one of the Hub, but is none.
        FileNotFoundError: the Hub has no such repository, or cannot be reached and the files are not here.
    """
    if not str(path).startswith(PREFIX):
        return Path(path)
    named = NAME.fullmatch(str(path))
    if named is None:
        raise ValueError(f"{path} names no folder of the Hub; expected hf://datasets/user/name[@revision][/folder].")
    folder, revision = named["folder"] or "", named["revision"]
    wanted = [f"{folder}/{pattern}".lstrip("/") for pattern in patterns]
    try:
        snapshot = snapshot_download(
            named["repo"],
            repo_type="dataset",
            revision=None if revision is None else unquote(revision),
            allow_patterns=wanted,
        )
    except (HTTPError, OSError) as error:
        raise FileNotFoundError(f"{path} cannot be had from the Hub, nor is it in the cache: {error}") from error
    return Path(snapshot) / folder


__all__ = ["local_folder"]
