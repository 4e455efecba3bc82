"""Stacks the rows of a dataset into the batch that the front-end or a model takes."""

from collections.abc import Sequence
from typing import Any

import torch

from .columns import DEVICE_IDS, EXAMPLE_ID, INPUT_VALUES, LABELS, TEACHER_LOGITS, WAVEFORM

TENSOR_COLUMNS = (WAVEFORM, INPUT_VALUES, LABELS, DEVICE_IDS, TEACHER_LOGITS)


def collate_clips(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks the columns that hold numbers; names and cities stay behind.

    Args:
        rows (`Sequence[dict]`): rows as a dataset yields them, all with the same columns.

    Returns:
        `dict[str, torch.Tensor]`: those of `waveform` (B, T), `input_values` (B, M, F), `labels` (B,), `device_ids`
        (B,) and `teacher_logits` (B, C) that the rows have.

    Raises:
        ValueError: the clips of the batch have different lengths.
    """
    batch = {}
    for name in TENSOR_COLUMNS:
        if name not in rows[0]:
            continue
        values = [torch.as_tensor(row[name]) for row in rows]
        odd = [row for row, value in zip(rows, values, strict=True) if value.shape != values[0].shape]
        if odd:
            raise ValueError(
                f"{name} of {odd[0].get(EXAMPLE_ID, 'a clip')} is {tuple(torch.as_tensor(odd[0][name]).shape)}, of "
                f"{rows[0].get(EXAMPLE_ID, 'another')} {tuple(values[0].shape)}; a batch needs clips of one length: "
                "cut the recordings with shifted_crops."
            )
        batch[name] = torch.stack(values)
    if TEACHER_LOGITS in batch:
        batch[TEACHER_LOGITS] = batch[TEACHER_LOGITS].float()
    return batch


__all__ = ["collate_clips"]
