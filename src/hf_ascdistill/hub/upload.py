"""Puts a staged folder on the Hub in one commit, or leaves the repository as it was."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The client repeats uploads by itself, but neither the commit nor what comes before it.
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; doubled from attempt to attempt, unless the Hub names a time
PASSING = (408, 409, 429, 500, 502, 503, 504)  # 409: another commit is being made
OVERTAKEN = 412  # the branch has moved on since it was looked at


@dataclass(frozen=True)
class Target:
    """Where a folder goes.

    Args:
        repo_id (`str`): `user/name`.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`, *optional*, defaults to `False`): a new repository is private, and a public one is refused.
        revision (`str`, *optional*): branch, made where there is none; unset: the main one.

    Raises:
        ValueError: the repository's name is none.
    """

    repo_id: str
    repo_type: str = "model"
    private: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        expected = "expected `user/name`, of letters, digits, '-', '_' and '.'"
        if str(self.repo_id).count("/") != 1:
            raise ValueError(f"repo_id is {self.repo_id!r}; {expected}.")
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ValueError(f"repo_id is {self.repo_id!r}; {expected} ({error}).") from error


def check_login(token: str | None, repo_id: str) -> None:
    """Checks that the Hub accepts the token, before work is put into a repository.

    Raises:
        PermissionError: it does not.
        ConnectionError: the Hub cannot be reached.
    """
    _with_retries(lambda: HfApi(token=token).whoami(), f"log in for {repo_id}")


def upload_folder(
    folder: str | Path, target: Target, *, message: str, replaced: Sequence[str] = (), token: str | None = None
) -> str:
    """Puts a folder's files into a repository, in one commit on top of the one that is there now.

    Whatever fails, the branch either holds the complete new commit or is as it was; what can stay behind is an empty
    new repository, or a new branch at the old commit. Trouble that passes is waited for: the Hub's own waiting time,
    else twice as long from attempt to attempt.

    Args:
        folder (`str | Path`): the files.
        target ([`Target`]): where they go.
        message (`str`): title of the commit.
        replaced (`Sequence[str]`): patterns of files that are removed from the repository where the folder lacks them.
        token (`str`, *optional*): token with the right to write; unset: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: address of the commit.

    Raises:
        PermissionError: the token is refused, or may not write there.
        ValueError: the repository is public and is to be private, or the Hub refuses the card.
        ConnectionError: the Hub cannot be reached, gives up, or the branch got another commit meanwhile.
    """
    api, place = HfApi(token=token), {"repo_id": target.repo_id, "repo_type": target.repo_type}
    name = f"publish to {target.repo_id}"
    # None: the account's own setting decides
    _with_retries(lambda: api.create_repo(**place, private=target.private or None, exist_ok=True), name)
    info = _with_retries(lambda: api.repo_info(**place), name)
    if target.private and not info.private:
        raise ValueError(
            f"{target.repo_id} is public, so nothing was published there; make it private on the Hub or take another."
        )
    if target.revision is not None:
        _with_retries(lambda: api.create_branch(**place, branch=target.revision, exist_ok=True), name)
        info = _with_retries(lambda: api.repo_info(**place, revision=target.revision), name)
    changes = {"delete_patterns": list(replaced), "commit_message": message, "revision": target.revision}
    # On top of that commit and no other: to repeat it after a lost answer changes nothing.
    commit = _with_retries(
        lambda: api.upload_folder(**place, folder_path=str(folder), parent_commit=info.sha, **changes), name
    )
    return str(commit.commit_url)


def _with_retries(call, name: str):
    """Returns what a call returns; repeats it after trouble that passes."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except (HTTPError, RuntimeError, json.JSONDecodeError) as error:
            # uploads wrap the error, and the check of the card cannot read a page that says "500"
            trouble = _http_error(error)
            if trouble is None and not isinstance(error, json.JSONDecodeError):
                raise
            status = trouble.response.status_code if isinstance(trouble, HfHubHTTPError) else None
            if attempt == ATTEMPTS or not (status is None or status in PASSING):
                raise _explained(name, trouble or error, status) from error
            wait = _retry_after(trouble) or min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)
            logger.warning(f"{name}: {_reason(status)}; attempt {attempt} of {ATTEMPTS}, the next in {wait:g} s.")
            time.sleep(wait)


def _http_error(error: BaseException | None) -> HTTPError | None:
    while error is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def _retry_after(error: HTTPError | None) -> float | None:
    text = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(text) if text.isdigit() else None


def _reason(status: int | None) -> str:
    return "no answer from the Hub" if status is None else f"the Hub answered {status}"


def _explained(name: str, error: Exception, status: int | None) -> OSError:
    """Returns the error that says what to do."""
    if status == 401:
        return PermissionError(f"{name}: the Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN.")
    if status == 403:
        return PermissionError(f"{name}: the token may not do that. Take one with the right to write there. {error}")
    if status in (409, OVERTAKEN):
        return ConnectionError(
            f"{name}: the repository got another commit meanwhile, and nothing of this one. Look at it, publish again."
        )
    return ConnectionError(
        f"{name}: {_reason(status)} ({error}), after {ATTEMPTS} attempts or for good. The repository is as it was, "
        "unless the last answer was lost on its way; to publish again does no harm."
    )


__all__ = ["Target", "check_login", "upload_folder"]
