"""Clips in memory: the bits that the store's reader yields, in the bytes that were predicted, or one clear reason."""

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from test_teachers import made_up
from tiny_corpus import tiny_corpus, tiny_store
from torch.utils.data import DataLoader

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    attach_logits,
    load_prepared,
    load_tau22,
    random_crops,
    shifted_crops,
    with_frontend,
)
from hf_ascdistill.data import placement
from hf_ascdistill.data.collator import collate_clips
from hf_ascdistill.data.host_memory import Memory
from hf_ascdistill.data.placement import place, predicted_bytes
from hf_ascdistill.data.random_crops import random_crops_of
from hf_ascdistill.data.resident import ResidentClips, as_it_is

ROWS = torch.tensor([17, 3, 3, 0, 59, 41])  # any order, one twice
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """60 clips of 1 s, the slices of recordings of 2 s."""
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))["train"]


def assert_same_bits(batch, expected):
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        assert batch[name].dtype == tensor.dtype, name
        assert torch.equal(batch[name], tensor), name


def read(dataset, rows=ROWS):
    return collate_clips([dataset[int(row)] for row in rows])


CUTS = {
    "clips": lambda clips: clips,
    "shifted crops": lambda clips: shifted_crops(clips, hop_seconds=0.25),
    "random crops": random_crops,
    "rows in another order": lambda clips: clips.shuffle(seed=3),
    "half a recording": lambda clips: clips.select([*range(1, 60, 2), *range(0, 60, 2)]),
    "teacher logits": lambda clips: attach_logits(clips, made_up(clips)),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("where", ["ram", "device"])
def test_batch_is_bit_equal_to_what_the_store_yields(clips, cut, where):
    dataset = cut(clips)
    resident = place(dataset, where, device=CPU)
    assert isinstance(resident, ResidentClips) and len(resident) == len(dataset)
    assert_same_bits(resident.batch(ROWS), read(dataset))


def test_loader_yields_the_batches_of_the_ordinary_one(clips):
    dataset = CUTS["teacher logits"](clips)
    batches = []
    for rows, collate in ((dataset, collate_clips), (place(dataset, "ram", device=CPU), as_it_is)):
        torch.manual_seed(7)
        batches.append(list(DataLoader(rows, 16, shuffle=True, collate_fn=collate)))
    assert [len(batch["labels"]) for batch in batches[1]] == [16, 16, 16, 12]
    for own, expected in zip(*batches, strict=True):
        assert_same_bits(own, expected)


def test_random_crops_move_as_those_of_the_store(clips):
    dataset = random_crops(clips)
    resident, first = place(dataset, "ram", device=CPU), read(dataset)["waveform"]
    for epoch in (0, 5):
        random_crops_of(dataset).draw_anew(seed=4, epoch=epoch)
        resident.draw_anew(seed=4, epoch=epoch)
        assert_same_bits(resident.batch(ROWS), read(dataset))
    assert not torch.equal(first, read(dataset)["waveform"])


def test_random_crops_begin_where_they_were_drawn_last(clips):
    dataset = random_crops(clips)
    random_crops_of(dataset).draw_anew(seed=1, epoch=9)
    assert_same_bits(place(dataset, "ram", device=CPU).batch(ROWS), read(dataset))


def test_overlapping_crops_share_their_samples(clips):
    resident = place(shifted_crops(clips, hop_seconds=0.25), "ram", device=CPU)
    assert len(resident) > 2 * len(clips)
    assert len(resident.samples) == len(clips) * 32_000


def test_only_recordings_that_are_used_are_loaded(clips):
    assert len(place(clips.select([4]), "ram", device=CPU).samples) == 64_000


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_predicted_bytes_are_those_that_are_taken(clips, cut):
    dataset = cut(clips)
    assert predicted_bytes(dataset) == place(dataset, "ram", device=CPU).nbytes


def test_prediction_reads_no_audio(clips, monkeypatch):
    monkeypatch.setattr("hf_ascdistill.data.store_reader.Store.samples", None)
    assert predicted_bytes(clips) > 60 * 64_000


class Memories(dict):
    """Free bytes by device, in place of this machine's; keeps which were asked for."""

    def __call__(self, device):
        self.asked = [*getattr(self, "asked", []), device.type]
        return self[device.type]


@pytest.fixture
def warned(monkeypatch):
    texts = []
    monkeypatch.setattr(placement.logger, "warning", texts.append)
    return texts


@pytest.mark.parametrize(
    ("where", "free", "seats", "result"),
    [
        ("auto", {"cuda": 0}, ["cuda"], "disk"),
        ("device", {"cuda": 0, "cpu": 10**9}, ["cuda", "cpu"], "cpu"),
        ("device", {"cuda": 0, "cpu": 0}, ["cuda", "cpu"], "disk"),
        ("ram", {"cpu": 0}, ["cpu"], "disk"),
    ],
)
def test_too_little_memory_falls_back_with_a_message(clips, monkeypatch, warned, where, free, seats, result):
    memories = Memories(free)
    monkeypatch.setattr(placement, "free_memory", memories)
    placed = place(clips, where, device="cuda")
    assert (placed is clips) if result == "disk" else placed.device.type == result
    assert memories.asked == seats
    assert len(warned) == sum(free[seat] == 0 for seat in seats)
    assert f"60 clips need {predicted_bytes(clips):,} bytes of the memory of {seats[0]}" in warned[0]
    assert "where 0 are free" in warned[0] and f"data_placement is {where}" in warned[0]


def test_memory_that_others_have_taken_meanwhile_falls_back_with_a_message(clips, monkeypatch, warned):
    load = placement.Layout.load

    def load_on_host(layout, device):
        if device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return load(layout, device)

    monkeypatch.setattr(placement, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(placement.Layout, "load", load_on_host)
    assert place(clips, "device", device="cuda").device == CPU
    assert "looked free but was not: CUDA out of memory. Tried to allocate 2.00 GiB." in warned[0] and len(warned) == 1


def test_clips_that_just_fit_are_taken_and_those_one_byte_larger_are_not(clips, monkeypatch, warned):
    for spare, fits in ((0, True), (-1, False)):
        free = predicted_bytes(clips) + spare
        monkeypatch.setattr(placement, "free_memory", lambda device, free=free: free)
        assert isinstance(place(clips, "ram", device=CPU), ResidentClips) == fits


def test_each_process_of_a_machine_needs_its_own_copy(clips, monkeypatch, warned):
    monkeypatch.setattr(placement, "free_memory", lambda device: 2 * predicted_bytes(clips) - 1)
    assert isinstance(place(clips, "ram", device=CPU), ResidentClips)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert place(clips, "ram", device=CPU) is clips
    assert f"{2 * predicted_bytes(clips):,} bytes" in warned[0]


def test_free_memory_of_the_host_leaves_a_share_for_training(monkeypatch):
    for memory, free in ((Memory(free=3000, total=4000), 2000), (Memory(free=900, total=4000), 0)):
        monkeypatch.setattr(placement, "host_memory", lambda memory=memory: memory)
        assert placement.free_memory(CPU) == free


def test_auto_stays_on_disk_without_a_cuda_device(clips, monkeypatch):
    monkeypatch.setattr(placement, "free_memory", None)
    assert place(clips, "auto", device=CPU) is clips


def test_disk_and_resident_clips_stay_as_they_are(clips):
    assert place(clips, "disk", device=CPU) is clips
    resident = place(clips, "ram", device=CPU)
    assert place(resident, "device", device=CPU) is resident


@pytest.fixture(scope="module")
def unfit(clips, tmp_path_factory):
    frontend = AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))
    one, two = shifted_crops(clips, length_seconds=0.5), shifted_crops(clips, length_seconds=1.0)
    lengths = concatenate_datasets([one.with_format(None), two.with_format(None)])
    return {
        "wav files": load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()))["train"],
        "log-mels": with_frontend(clips, frontend),
        "made-up rows": Dataset.from_dict({"waveform": [np.zeros(4, np.float32)]}),
        "several lengths": lengths.with_transform(clips.format["format_kwargs"]["transform"]),
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wav files", "not read straight from a prepared store: run prepare_data.py"),
        ("log-mels", "leave the front-end on the accelerator"),
        ("made-up rows", "run prepare_data.py"),
        ("several lengths", r"2 lengths, \[16000\] to \[32000\] samples: cut them into crops"),
    ],
)
def test_what_cannot_be_resident_raises_where_it_is_asked_for_and_stays_on_disk_else(unfit, name, reason):
    dataset = unfit[name]
    for where in ("ram", "device"):
        with pytest.raises(ValueError, match=f"data_placement is {where}, but .*{reason}.*--data_placement disk"):
            place(dataset, where, device=CPU)
    with pytest.raises(ValueError, match=reason):
        predicted_bytes(dataset)
    assert place(dataset, "auto", device="cuda") is dataset


def of_tensors(**changes) -> ResidentClips:
    settings = {
        "samples": torch.arange(20, dtype=torch.int16),
        "offset": torch.tensor([0, 3, 16]),
        "scale": torch.tensor([1.0, 0.5, 2.0]),
        "length": 4,
        "columns": {"labels": torch.tensor([5, 6, 7])},
    }
    return ResidentClips(**{**settings, **changes})


def test_clips_of_plain_tensors_are_scaled_windows():
    batch = of_tensors().batch(torch.tensor([1, 2]))
    assert batch["waveform"].tolist() == [[1.5, 2.0, 2.5, 3.0], [32.0, 34.0, 36.0, 38.0]]
    assert batch["waveform"].dtype == torch.float32 and batch["labels"].tolist() == [6, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": torch.zeros(20)}, r"torch.float32 of shape \(20,\); expected int16"),
        ({"scale": torch.ones(2)}, "offset has 3 clips, scale 2"),
        ({"columns": {"labels": torch.ones(4)}}, "offset has 3 clips, labels 4"),
        ({"offset": torch.tensor([0, 3, 17])}, "begin at samples 0 to 17 and last 4, but there are 20"),
        ({"offset": torch.tensor([0, 3, -1])}, "begin at samples -1 to 3"),
    ],
)
def test_tensors_that_do_not_fit_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        of_tensors(**changes)


def test_drawn_crops_outside_of_the_samples_raise():
    clips = of_tensors(draw=lambda seed, epoch: torch.full((3,), 10 * epoch))
    clips.draw_anew(seed=0, epoch=1)
    assert clips.batch(torch.tensor([0]))["waveform"].tolist() == [[10, 11, 12, 13]]
    with pytest.raises(ValueError, match="begin at samples 20 to 20"):
        clips.draw_anew(seed=0, epoch=2)
