"""Training on clips in memory: the numbers of training from disk, and a clear reason where that cannot be."""

import numpy as np
import pytest
import torch
from test_teachers import made_up
from test_trainer import StopAt, augmenting_frontend, small_student, weights
from tiny_corpus import tiny_corpus, tiny_store

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    DistillationTrainer,
    DistillationTrainingArguments,
    attach_logits,
    collate_clips,
    load_prepared,
    load_tau22,
    random_crops,
)
from hf_ascdistill.building import build_trainer
from hf_ascdistill.data.resident import ResidentClips

BATCH = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def taught(data):
    """32 clips: batches of 12, 12 and 8."""
    clips = data["train"].select(range(32))
    return attach_logits(clips, made_up(clips))


def trainer_of(folder, clips, placement, *, model=None, callbacks=(), collator=None, **settings):
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": BATCH, "eval_strategy": "no", "seed": 5}
    arguments = DistillationTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        disable_tqdm=True,
        data_placement=placement,
        **{**defaults, "save_strategy": "no", **settings},
    )
    model = small_student() if model is None else model
    others = {} if collator is None else {"data_collator": collator}
    frontend = augmenting_frontend()
    return DistillationTrainer(
        model, arguments, frontend=frontend, train_dataset=clips, callbacks=list(callbacks), **others
    )


def trained(folder, clips, placement, **settings) -> torch.Tensor:
    trainer = trainer_of(folder, clips, placement, **settings)
    trainer.train()
    assert isinstance(trainer.train_dataset, ResidentClips) == (placement in ("ram", "device"))
    return weights(trainer.model)


@pytest.fixture(scope="module")
def from_disk(taught, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("disk"), taught, "disk")


@pytest.mark.parametrize("placement", ["ram", "device"])
def test_clips_in_memory_give_the_weights_of_those_on_disk(tmp_path, taught, from_disk, placement):
    assert torch.equal(trained(tmp_path, taught, placement), from_disk)


def test_auto_reads_from_disk_on_a_cpu(tmp_path, taught, from_disk):
    assert torch.equal(trained(tmp_path, taught, "auto"), from_disk)


def test_workers_and_accumulation_change_nothing_of_it(tmp_path, taught):
    settings = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    disk = trained(tmp_path / "disk", taught, "disk", **settings)
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}  # for evaluation, then
    assert torch.equal(trained(tmp_path / "ram", taught, "ram", **settings, **workers), disk)


def test_random_crops_in_memory_move_in_each_epoch_as_those_on_disk(tmp_path, data):
    clips = random_crops(data["train"].select(range(32)))
    disk, ram = (trained(tmp_path / placement, clips, placement) for placement in ("disk", "ram"))
    assert torch.equal(disk, ram)


def test_training_resumed_inside_an_epoch_ends_as_an_uninterrupted_one(tmp_path, taught, from_disk):
    settings = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path, taught, "ram", callbacks=[StopAt(3)], **settings).train()
    resumed = trainer_of(tmp_path, taught, "ram", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), from_disk)


def test_sequential_sampling_and_dropped_rests_are_kept(tmp_path, taught):
    settings = {"train_sampling_strategy": "sequential", "dataloader_drop_last": True}
    disk, ram = (trainer_of(tmp_path, taught, placement, **settings) for placement in ("disk", "ram"))
    ram.place_data()
    batches = [list(trainer.get_train_dataloader()) for trainer in (disk, ram)]
    assert [len(batch["labels"]) for batch in batches[1]] == [BATCH, BATCH]
    for own, expected in zip(*batches, strict=True):
        assert all(torch.equal(own[name], expected[name]) for name in expected)


def evaluated(folder, data, placement, **settings) -> tuple[dict[str, float], int]:
    """What the evaluation after an epoch finds, and of how many clips."""
    settings = {"num_train_epochs": 1, "save_strategy": "no", "per_device_eval_batch_size": 7, **settings}
    arguments = DistillationTrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, data_placement=placement, **settings
    )
    frontend = AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))
    trainer = build_trainer(small_student(), arguments, data, frontend=frontend)
    trainer.train()
    assert isinstance(trainer.eval_dataset, ResidentClips) == (placement == "ram")
    [row] = [row for row in trainer.state.log_history if "eval_accuracy" in row]
    clips = sum(len(batch["labels"]) for batch in trainer.get_eval_dataloader())
    return {name: value for name, value in row.items() if "second" not in name and "runtime" not in name}, clips


def test_evaluation_in_memory_gives_the_numbers_of_that_from_disk(tmp_path, data):
    disk, clips = evaluated(tmp_path, data, "disk")
    assert evaluated(tmp_path, data, "ram") == (disk, clips) and clips == len(data["evaluate"])


def test_clips_in_memory_can_be_predicted(tmp_path, data):
    trainer = trainer_of(tmp_path, data["train"].select(range(BATCH)), "ram")
    trainer.eval_dataset = data["evaluate"]
    trainer.place_data()
    own = trainer.predict(trainer.eval_dataset).predictions
    assert np.array_equal(own, trainer.predict(data["evaluate"]).predictions)


@pytest.mark.parametrize("placement", ["disk", "ram"])
def test_rests_are_dropped_in_training_alone(tmp_path, data, placement):
    _, clips = evaluated(tmp_path, data, placement, dataloader_drop_last=True, per_device_train_batch_size=7)
    assert clips == len(data["evaluate"]) and clips % 7
    trainer = trainer_of(tmp_path, data["train"], "disk", dataloader_drop_last=True)
    assert len(trainer.predict(data["evaluate"]).predictions) == len(data["evaluate"])
    assert trainer.args.dataloader_drop_last


def test_evaluation_clips_that_cannot_be_held_stay_on_disk(tmp_path, taught, tmp_path_factory):
    evaluation = load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()))["evaluate"]
    trainer = trainer_of(tmp_path, taught, "ram")
    trainer.eval_dataset = evaluation
    trainer.place_data()
    assert isinstance(trainer.train_dataset, ResidentClips) and trainer.eval_dataset is evaluation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_placement": "gpu"}, "'gpu'; expected one of auto, disk, ram, device"),
        (
            {"data_placement": "ram", "frontend_seat": "workers"},
            "frontend_seat is workers.*--frontend_seat accelerator",
        ),
        ({"data_placement": "device", "frontend_seat": "workers"}, "data_placement is device"),
    ],
)
def test_arguments_that_contradict_each_other_raise(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationTrainingArguments(str(tmp_path), use_cpu=True, **settings)


def test_wav_files_raise_before_training(tmp_path, tmp_path_factory):
    clips = load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()))["train"]
    with pytest.raises(ValueError, match="data_placement is device.*run prepare_data.py"):
        trainer_of(tmp_path, clips, "device").train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"collator": lambda rows: collate_clips(rows[:8])}, "data_collator of its own.*--data_placement disk"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy is group_by_length"),
    ],
)
def test_what_clips_in_memory_would_pass_over_raises(tmp_path, taught, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, taught, "ram", **settings).train()


def test_own_collator_is_used_from_disk(tmp_path, taught):
    trainer = trainer_of(tmp_path, taught, "auto", collator=lambda rows: collate_clips(rows[:8]), num_train_epochs=1)
    trainer.train()
    assert trainer.train_dataset is taught
