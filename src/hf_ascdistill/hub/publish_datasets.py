"""Publishes what students are trained from, as dataset repositories: teacher logits, and the index of the crops."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset

from ..data.crops_index import SUFFIX, check_indexable, crops_summary, read_crops_index, write_crops_index
from ..data.logits import MANIFEST_NAME, check_finished, file_names, load_logits, read_json
from ..data.sources import as_splits
from ..data.store import load_prepared
from ..files import new_folder
from .card_context import CardContext
from .model_card import check_card, render_crops_card, render_logits_card
from .publish import stage_and_push
from .repository import CARD_NAME, check_texts
from .upload import Target

# Files of an earlier commit that would contradict the new ones; all others of the repository stay.
REPLACED_IN_LOGITS = ("*.arrow", MANIFEST_NAME)
REPLACED_IN_CROPS = (f"*{SUFFIX}",)


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

    push = {"message": f"Publish {logits.resolve().name}", "replaced": REPLACED_IN_LOGITS, "token": token}
    return stage_and_push(stage, target, dry_run=dry_run, staging=staging, push=push)


def _stage_logits(logits: Path, folder: Path, *, repo_id: str, context: CardContext | None) -> None:
    """Copies a set with a card, and reads the copy."""
    meta = read_json(logits / MANIFEST_NAME)
    card = render_logits_card(meta, repo_id=repo_id, context=context)
    check_card(card)
    with new_folder(folder) as partial:
        for name in (MANIFEST_NAME, *file_names(logits, meta)):
            shutil.copyfile(logits / name, partial / name)
        (partial / CARD_NAME).write_text(card, encoding="utf-8")
    load_logits(folder)
    check_texts(folder)


def publish_crops_index(
    crops: Dataset | Mapping[str, Dataset] | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    staging: str | Path | None = None,
    token: str | None = None,
    context: CardContext | None = None,
) -> str:
    """Puts the index of crops on the Hub as a dataset repository: where each lies and what it shows, without audio.

    Whoever has the same audio cuts the same crops from it with [`load_crops_index`], and attaches published logits.

    Args:
        crops (`Dataset | Mapping[str, Dataset] | str | Path`): clips or shifted crops of a prepared store, one split
            or several; or the store's folder, for its clips.
        repo_id (`str`): `user/name` on the Hub; it is made where there is none.
        private, revision, dry_run, staging, token: see [`publish`].
        context ([`CardContext`], *optional*): name and licence of the data, where they are not known by their classes.

    Returns:
        `str`: address of the commit; of a dry run, the staged folder.

    Raises:
        FileNotFoundError: the folder holds no finished store.
        ValueError: there are no crops, they are random ones or not of a prepared store.
        ValueError, PermissionError, ConnectionError: see [`publish`].

    Example:

    ```python
    >>> from hf_ascdistill import load_prepared, publish_crops_index, shifted_crops

    >>> data = load_prepared("prepared/tau22")
    >>> data["train"] = shifted_crops(data["train"])
    >>> publish_crops_index(data, "user/tau22-crops")
    ```"""
    target = Target(repo_id, "dataset", private=private, revision=revision)
    splits = as_splits(load_prepared(crops) if isinstance(crops, str | Path) else crops)
    check_indexable(splits)

    def stage(folder: Path) -> None:
        _stage_crops(splits, folder, repo_id=repo_id, context=context)

    push = {"message": f"Publish the index of {', '.join(splits)}", "replaced": REPLACED_IN_CROPS, "token": token}
    return stage_and_push(stage, target, dry_run=dry_run, staging=staging, push=push)


def _stage_crops(splits: Mapping[str, Dataset], folder: Path, *, repo_id: str, context: CardContext | None) -> None:
    """Writes an index with a card, and reads it."""
    card = render_crops_card(crops_summary(splits), repo_id=repo_id, context=context)
    check_card(card)
    with new_folder(folder) as partial:
        write_crops_index(splits, partial)
        (partial / CARD_NAME).write_text(card, encoding="utf-8")
    read_crops_index(folder)
    check_texts(folder)


__all__ = ["publish_crops_index", "publish_logits"]
