"""Opens a corpus the same way from its wav files and from a prepared store."""

from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from .store import MANIFEST_NAME, load_prepared
from .tau22 import load_tau22, select_listed

SPLITS = ("train", "evaluate")
ALL = "all"


def load_corpus(path: str | Path, *, train_list: str | Path | None = None) -> DatasetDict:
    """Opens the splits `train` and `evaluate` of a corpus.

    Args:
        path (`str | Path`): folder in TAU22's layout, or a store written by [`prepare`].
        train_list (`str | Path`, *optional*): csv of the training clips in place of all of them (a DCASE24 split).

    Raises:
        FileNotFoundError: the folder is neither.
        ValueError: the store lacks one of the splits.
    """
    if not is_store(path):
        return load_tau22(path, train_list=train_list)
    data = load_prepared(path)
    if not set(SPLITS) <= set(data):
        raise ValueError(f"{path} holds the splits {', '.join(data)}; expected train and evaluate; prepare both.")
    if train_list is not None:
        data["train"] = select_listed(data["train"], train_list)
    return data


def load_split(path: str | Path, split: str) -> Dataset:
    """Opens one split of a corpus, or every clip of it.

    Args:
        path (`str | Path`): folder in TAU22's layout, or a store written by [`prepare`].
        split (`str`): `train`, `evaluate`, or `all`: every row of meta.csv, every clip of a store.

    Raises:
        ValueError: there is no such split.
    """
    if is_store(path):
        data = load_prepared(path)
        if split == ALL and ALL not in data:
            clips = list(data.values())
            return concatenate_datasets([part.with_format(None) for part in clips]).with_transform(
                clips[0].format["format_kwargs"]["transform"]
            )
    else:
        data = load_tau22(path, splits=(split,))
    if split not in data:
        raise ValueError(f"{path} has no split {split!r}; expected one of {', '.join((*data, ALL))}.")
    return data[split]


def is_store(path: str | Path) -> bool:
    """Says whether a folder is a store written by [`prepare`]."""
    return (Path(path) / MANIFEST_NAME).exists()


__all__ = ["is_store", "load_corpus", "load_split"]
