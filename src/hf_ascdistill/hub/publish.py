"""Publishes trained models and teacher logits: stage, check, push in one commit."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..data.logits import MANIFEST_NAME, check_finished, load_logits, read_json
from ..files import check_unused, new_folder
from .card_context import CardContext
from .model_card import check_card, render_logits_card
from .repository import CARD_NAME, check_texts, stage_repository, validate_repository
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
REPLACED_IN_LOGITS = ("*.arrow", MANIFEST_NAME)


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

    if dry_run:
        return str(_staged(stage, staging))
    push = {"message": message or f"Publish {Path(run).name}", "replaced": REPLACED_IN_MODELS, "token": token}
    return _pushed(stage, target, staging=staging, push=push)


def publish_logits(
    logits: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    staging: str | Path | None = None,
    token: str | None = None,
    context: CardContext | None = None,
) -> str:
    """Puts a logits set on the Hub as a dataset repository; `hf://datasets/user/name` names it from then on.

    Args:
        logits (`str | Path`): folder of a finished set, from [`predict_logits`] or [`convert_logits`].
        repo_id (`str`): `user/name` on the Hub; it is made where there is none.
        private, revision, dry_run, staging, token: see [`publish`].
        context ([`CardContext`], *optional*): name and licence of the data, where they are not known by their classes.

    Returns:
        `str`: address of the commit; of a dry run, the staged folder.

    Raises:
        FileNotFoundError: the set is not finished.
        ValueError, PermissionError, ConnectionError: see [`publish`].

    Example: after `publish_logits("logits/cpr-128k-dirfms-s0", "user/cpr-logits")` a student is trained with
    `--teacher_logits hf://datasets/user/cpr-logits`.
    """
    logits, target = Path(logits), Target(repo_id, "dataset", private=private, revision=revision)
    check_finished(logits)

    def stage(folder: Path) -> None:
        _stage_logits(logits, folder, repo_id=repo_id, context=context)

    if dry_run:
        return str(_staged(stage, staging))
    push = {"message": f"Publish {logits.resolve().name}", "replaced": REPLACED_IN_LOGITS, "token": token}
    return _pushed(stage, target, staging=staging, push=push)


def _stage_logits(logits: Path, folder: Path, *, repo_id: str, context: CardContext | None) -> None:
    """Copies a set with a card, and reads the copy."""
    meta = read_json(logits / MANIFEST_NAME)
    card = render_logits_card(meta, repo_id=repo_id, context=context)
    check_card(card)
    with new_folder(folder) as partial:
        for name in (MANIFEST_NAME, *meta["files"]):
            shutil.copyfile(logits / name, partial / name)
        (partial / CARD_NAME).write_text(card, encoding="utf-8")
    load_logits(folder)
    check_texts(folder)


def _staged(stage: Callable[[Path], None], staging: str | Path | None) -> Path:
    """Stages into a folder that stays, and returns it."""
    folder = Path(tempfile.mkdtemp(prefix="ascdistill-")) if staging is None else Path(staging)
    stage(folder)
    return folder


def _pushed(
    stage: Callable[[Path], None], target: Target, *, staging: str | Path | None, push: Mapping[str, Any]
) -> str:
    """Stages and pushes, and returns the commit's address."""
    with ExitStack() as stack:
        if staging is None:
            staging = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "repository"
        check_unused(Path(staging))
        check_login(push["token"], target.repo_id)
        stage(Path(staging))
        url = upload_folder(staging, target, **push)
    logger.info(f"published: {url}")
    return url


__all__ = ["publish", "publish_logits"]
