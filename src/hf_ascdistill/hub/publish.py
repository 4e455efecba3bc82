"""Publishes trained models: stage, check, push in one commit; what else is published goes the same way."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..files import check_unused
from .repository import stage_repository, validate_repository
from .upload import Target, check_login, upload_folder

logger = logging.get_logger(__name__)

# Files of an earlier commit that would contradict the new ones; all others of the repository stay.
REPLACED_IN_MODELS = (
    "*.py",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "devices.png",
    "training_curve.png",
)


def publish(
    run: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    staging: str | Path | None = None,
    token: str | None = None,
    results: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    message: str | None = None,
) -> str:
    """Puts a finished run on the Hub as a repository that loads anywhere, see [`stage_repository`].

    The repository is staged in a folder, loaded there in a fresh process (see [`validate_repository`]), and pushed in
    one commit: where that fails, the Hub's repository is as it was.

    Args:
        run (`str | Path`): folder of a finished run, or of a converted model.
        repo_id (`str`): `user/name` on the Hub; it is made where there is none.
        private (`bool`, *optional*, defaults to `False`): make it private; a public one that is there is refused.
        revision (`str`, *optional*): branch to push to, made where there is none; unset: the main one.
        dry_run (`bool`, *optional*, defaults to `False`): stage and check, and ask nothing of the Hub.
        staging (`str | Path`, *optional*): a new or empty folder to stage in, which stays; unset: one that is removed
            after the push, and stays after a dry run.
        token (`str`, *optional*): access token with the right to write; unset: the one of `hf auth login` or
            `HF_TOKEN`.
        results (`Mapping`, *optional*): what the model card tells; unset: the run's `results.json`.
        card (`Mapping`, *optional*): further arguments of [`render_model_card`]: `runs`, `baseline`, `context`.
        message (`str`, *optional*): title of the commit.

    Returns:
        `str`: address of the commit; of a dry run, the staged folder.

    Raises:
        FileNotFoundError: `run` holds no model or no results.
        ValueError: the repository's name is none, it does not load by itself, its card is not complete, `staging` is
            in use, or a public repository is to be private.
        PermissionError: the token is refused or may not write there.
        ConnectionError: the Hub cannot be reached or gives up, or the branch got another commit meanwhile.

    Example: `publish("runs/student-cpr-128k-dirfms-s0", "user/cpm-student")`.
    """
    target = Target(repo_id, private=private, revision=revision)

    def stage(folder: Path) -> None:
        stage_repository(run, folder, repo_id=repo_id, results=results, card=card)
        validate_repository(folder)

    push = {"message": message or f"Publish {Path(run).name}", "replaced": REPLACED_IN_MODELS, "token": token}
    return stage_and_push(stage, target, dry_run=dry_run, staging=staging, push=push)


def stage_and_push(
    stage: Callable[[Path], None],
    target: Target,
    *,
    dry_run: bool,
    staging: str | Path | None,
    push: Mapping[str, Any],
) -> str:
    """Stages a repository and pushes it in one commit.

    Args:
        stage (`Callable[[Path], None]`): fills a new folder, and checks what it wrote.
        target ([`Target`]): where the folder goes.
        dry_run (`bool`): stage, and ask nothing of the Hub.
        staging (`str | Path`, *optional*): folder to stage in, which stays; unset: see [`publish`].
        push (`Mapping`): `message`, `replaced` and `token` of [`upload_folder`].

    Returns:
        `str`: address of the commit; of a dry run, the staged folder.
    """
    if dry_run:
        folder = Path(tempfile.mkdtemp(prefix="ascdistill-")) if staging is None else Path(staging)
        stage(folder)
        return str(folder)
    with ExitStack() as stack:
        if staging is None:
            staging = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "repository"
        check_unused(Path(staging))
        check_login(push["token"], target.repo_id)
        stage(Path(staging))
        url = upload_folder(staging, target, **push)
    logger.info(f"published: {url}")
    return url


__all__ = ["publish", "stage_and_push"]
