"""What to say when the memory of an accelerator does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def out_of_memory_advice(work: str, *ways: str) -> Iterator[None]:
    """Says what did not fit an accelerator, and what to do, where torch only counts bytes.

    Args:
        work (`str`): what is done within.
        ways (`str`): settings that make it need less.

    Raises:
        torch.OutOfMemoryError: in place of torch's own, whose first sentence it repeats: `auto_find_batch_size` of
            transformers' Trainer looks for it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition("\n")[0]
        raise torch.OutOfMemoryError(f"{work} did not fit: {first} To need less: {'; or '.join(ways)}.") from error


__all__ = ["out_of_memory_advice"]
