"""Random crops: inside their recording, another place in each epoch, the same in every process and after a kill."""

import numpy as np
import pytest
import torch
from test_teachers import made_up
from test_trainer import StopAt, small_student, trainer_of, weights
from tiny_corpus import tiny_corpus, tiny_store

from hf_ascdistill import attach_logits, load_prepared, load_tau22, random_crops, shifted_crops
from hf_ascdistill.data.index import rows_of
from hf_ascdistill.data.random_crops import random_crops_of
from hf_ascdistill.data.store_reader import Store, read_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def clips(folder):
    """60 clips of 1 s, the slices of recordings of 2 s."""
    return load_prepared(folder)["train"]


def audio(crops, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    random_crops_of(crops).draw_anew(seed=seed, epoch=epoch)
    return np.stack([row["waveform"] for row in crops])


def starts(crops, folder, **draw) -> list[int]:
    """Finds the crops in their recordings."""
    store, found = Store(folder, read_manifest(folder)[0]), []
    for recording, waveform in zip(rows_of(crops)["recording"].to_pylist(), audio(crops, **draw), strict=True):
        whole = store.read(recording, 0, 64_000)
        windows = np.lib.stride_tricks.sliding_window_view(whole, 32_000)
        matches = np.flatnonzero((windows[:, ::1600] == waveform[::1600]).all(1))
        found.append(next(start for start in matches.tolist() if np.array_equal(windows[start], waveform)))
    return found


def test_crops_are_pieces_of_their_recordings_at_any_sample(clips, folder):
    places = starts(random_crops(clips), folder)
    assert len(places) == len(clips) == len(set(places))
    assert 0 <= min(places) < 5_000 and 27_000 < max(places) <= 32_000
    assert sum(place % 32 != 0 for place in places) > 50


def test_there_are_as_many_as_shifted_crops_with_their_names_and_labels(clips):
    random, shifted = random_crops(clips, hop_seconds=0.5), shifted_crops(clips, hop_seconds=0.5)
    for name in ("example_id", "labels", "device_ids"):
        assert random.with_format(None)[name][:] == shifted.with_format(None)[name][:]
    assert random[0].keys() == shifted[0].keys()


def test_epoch_and_seed_decide_the_places(clips):
    crops = random_crops(clips.select(range(6)))
    first = audio(crops, seed=1, epoch=2)
    assert np.array_equal(audio(random_crops(clips.select(range(6))), seed=1, epoch=2), first)
    assert not np.array_equal(audio(crops, seed=1, epoch=3), first)
    assert not np.array_equal(audio(crops, seed=2, epoch=2), first)


def test_places_do_not_depend_on_the_batch(clips):
    crops = random_crops(clips)
    assert np.array_equal(audio(crops)[7:9], np.stack(crops[7:9]["waveform"]))


def test_missing_slice_is_never_bridged(clips):
    lonely = clips.select(range(0, 10, 2))  # one slice of each recording
    plain = np.stack([row["waveform"] for row in lonely])
    assert all(np.array_equal(audio(random_crops(lonely), epoch=epoch), plain) for epoch in range(3))


def test_wav_files_raise(tmp_path_factory):
    data = load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()))
    with pytest.raises(ValueError, match="prepared store.*run prepare first"):
        random_crops(data["train"])


def test_cached_logits_raise(clips):
    with pytest.raises(ValueError, match="crops are random.*--teacher_mode online"):
        attach_logits(random_crops(clips), made_up(clips))


class Shown(list):
    """Keeps the label-independent fingerprint of each batch that a trainer is fed."""

    def watch(self, trainer):
        prepare = trainer._prepare_inputs
        trainer._prepare_inputs = lambda inputs: (
            self.append(inputs["waveform"].double().sum().item()),
            prepare(inputs),
        )[1]
        return trainer


def crop_trainer(folder, clips, model=None, **settings):
    model = small_student() if model is None else model
    return trainer_of(folder, model, dataset=random_crops(clips.select(range(32))), **settings)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_draw_the_same_crops_and_other_ones_in_each_epoch(tmp_path, clips, persistent):
    alone, working = Shown(), Shown()
    alone.watch(crop_trainer(tmp_path, clips)).train()
    settings = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent}
    working.watch(crop_trainer(tmp_path, clips, **settings)).train()
    assert working == alone
    assert len(set(alone)) == 4
    assert sum(alone[:2]) != pytest.approx(sum(alone[2:]), abs=1e-6)


@pytest.mark.parametrize("stop", [4, 5])
def test_resumed_training_draws_the_crops_of_an_uninterrupted_one(tmp_path, clips, stop):
    settings = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": stop - 1}
    straight, resumed = small_student(), small_student()
    crop_trainer(tmp_path / "straight", clips, straight, **settings).train()
    with pytest.raises(KeyboardInterrupt):
        crop_trainer(tmp_path / "resumed", clips, callbacks=[StopAt(stop)], **settings).train()
    crop_trainer(tmp_path / "resumed", clips, resumed, **settings).train(resume_from_checkpoint=True)
    assert torch.equal(weights(straight), weights(resumed))
