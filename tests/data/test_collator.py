"""The collator stacks what the front-end and the loss read, and names the clip that does not fit."""

import numpy as np
import pytest
import torch

from hf_ascdistill import collate_clips


def row(name: str = "bus-lyon-1-10-0-a", samples: int = 4, **columns) -> dict:
    waveform = np.arange(samples, dtype=np.float32)
    return {"example_id": name, "city": "lyon", "waveform": waveform, "labels": 3, "device_ids": 1, **columns}


def test_numbers_are_stacked_and_names_stay_behind():
    batch = collate_clips([row(), row(labels=5)])
    assert {name: (tuple(values.shape), values.dtype) for name, values in batch.items()} == {
        "waveform": ((2, 4), torch.float32),
        "labels": ((2,), torch.int64),
        "device_ids": ((2,), torch.int64),
    }
    assert batch["labels"].tolist() == [3, 5]


@pytest.mark.parametrize("logits", [[0.5, -1.0], np.array([0.5, -1.0]), torch.tensor([0.5, -1.0]).double()])
def test_teacher_logits_are_float32_whatever_the_dataset_yields(logits):
    batch = collate_clips([row(teacher_logits=logits)])
    assert batch["teacher_logits"].dtype == torch.float32
    assert batch["teacher_logits"].tolist() == [[0.5, -1.0]]


def test_log_mels_of_the_workers_seat_pass():
    rows = [{"input_values": torch.full((2, 3), value), "labels": 0} for value in (1.0, 2.0)]
    assert collate_clips(rows)["input_values"].shape == (2, 2, 3)


def test_clips_of_different_lengths_raise_and_both_are_named():
    with pytest.raises(ValueError, match=r"waveform of long is \(6,\), of short \(4,\).*shifted_crops"):
        collate_clips([row("short"), row("also-short"), row("long", samples=6)])
