"""From arguments to parts: data, network, front-end, teachers, and both seats of the front-end."""

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from test_teachers import made_up
from tiny_corpus import tiny_corpus, tiny_model, tiny_store

from hf_ascdistill import (
    AscFeatureExtractor,
    AugmentationArguments,
    CpMobileForAudioClassification,
    CpResNetForAudioClassification,
    DataArguments,
    DeviceImpulseResponse,
    DistillationTrainingArguments,
    FreqMixStyle,
    ModelArguments,
    TeacherArguments,
    attach_teachers,
    build_model,
    build_trainer,
    build_training_frontend,
    load_classifier,
    load_online_teachers,
    load_training_data,
    prepare_recordings,
)
from hf_ascdistill.building import ConciseProgress
from hf_ascdistill.data.logits import FORMAT, MANIFEST_NAME, write_logits_file
from hf_ascdistill.data.random_crops import random_crops_of
from hf_ascdistill.files import write_json

SCENES = ["bus", "park", "tram"]
DEVICES = ["a", "b", "s1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def data(store):
    return load_training_data(DataArguments(str(store)))


@pytest.fixture(scope="module")
def extractor():
    return AscFeatureExtractor.from_preset("cp-mobile")


def test_training_clips_become_crops_and_evaluation_clips_stay(store, data):
    cut = load_training_data(DataArguments(str(store), crop_hop=0.5))
    assert (len(data["train"]), len(cut["train"])) == (60, 90)
    assert (len(data["evaluate"]), len(cut["evaluate"])) == (30, 30)


@pytest.mark.parametrize(("hop", "crops"), [(None, 60), (0.5, 90)])
def test_training_clips_become_random_crops(store, data, hop, crops):
    cut = load_training_data(DataArguments(str(store), crop_hop=hop, random_crops=True))
    assert (len(cut["train"]), len(cut["evaluate"])) == (crops, 30)
    assert not np.array_equal(cut["train"][0]["waveform"], data["train"][0]["waveform"])
    assert np.array_equal(cut["evaluate"][0]["waveform"], data["evaluate"][0]["waveform"])


@pytest.fixture(scope="module")
def own_recordings(tmp_path_factory):
    """A store of recordings that last 2 and 2.5 s, as a visitor's own may."""
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 80_000)).astype(np.float32)
    rows = [{"audio": {"array": noise[0][:64_000], "sampling_rate": 32_000}, "label": "bus", "device": "a"}]
    rows += [{"audio": {"array": noise[1], "sampling_rate": 32_000}, "label": "park", "device": "b"}]
    folder = tmp_path_factory.mktemp("own") / "store"
    prepare_recordings(
        {split: Dataset.from_list(rows) for split in ("train", "evaluate")}, folder, id_column=None, num_proc=1
    )
    return folder


def test_longer_evaluation_recordings_become_clips_of_one_second(own_recordings):
    cut = load_training_data(DataArguments(str(own_recordings), crop_hop=0.5))
    assert {len(row["waveform"]) for split in cut.values() for row in split} == {32_000}
    assert (len(cut["train"]), len(cut["evaluate"])) == (3 + 4, 2 + 2)


def test_clips_of_several_lengths_raise_before_training(own_recordings):
    with pytest.raises(ValueError, match=r"clips of train .* last 2 to 2.5 s; .* --crop_hop"):
        load_training_data(DataArguments(str(own_recordings)))


def test_train_list_is_cut_into_crops_too(store, tmp_path, tmp_path_factory):
    lines = (tiny_corpus(tmp_path_factory.getbasetemp()) / "evaluation_setup/fold1_train.csv").read_text().splitlines()
    (tmp_path / "split5.csv").write_text("\n".join([*lines[:3], ""]))  # both slices of one recording
    cut = load_training_data(DataArguments(str(store), train_list=str(tmp_path / "split5.csv"), crop_hop=0.25))
    assert len(cut["train"]) == 5


@pytest.mark.parametrize(
    ("architecture", "size", "model_class", "parameters"),
    [
        ("cp-mobile", "128k", CpMobileForAudioClassification, 126_952 - 7 * (168 + 2)),
        ("cp-resnet", "450k", CpResNetForAudioClassification, 427_180 - 7 * (188 + 2)),
    ],
)
def test_new_model_has_the_size_and_the_classes_that_are_asked_for(architecture, size, model_class, parameters):
    model, extractor = build_model(ModelArguments(architecture, size), SCENES)
    assert isinstance(model, model_class)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters  # three classes, not ten
    assert model.config.id2label == dict(enumerate(SCENES))
    assert extractor.to_dict() == AscFeatureExtractor.from_preset(architecture).to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ModelArguments("resnet50"), "'resnet50'; expected one of cp-mobile, cp-resnet"),
        (ModelArguments("cp-mobile", "2m"), "'2m'; expected one of 128k, 450k, 1m, 4m, 8m"),
    ],
)
def test_unknown_architecture_or_size_raises_with_the_known_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(arguments, SCENES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, extractor):
    """Folder of a saved model and its front-end, and the model."""
    folder, model = tmp_path_factory.mktemp("saved"), tiny_model(SCENES)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder, model


def test_training_starts_from_saved_weights_whatever_size_is_named(saved):
    folder, model = saved
    loaded, _ = build_model(ModelArguments("cp-resnet", "8m", initial_weights=str(folder)), SCENES)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("scenes", [["bus", "park"], ["park", "bus", "tram"]])
def test_saved_model_of_other_classes_raises_and_both_are_named(saved, scenes):
    message = f"the model's 3 classes are bus, park, tram; the data's {len(scenes)} are {', '.join(scenes)}"
    with pytest.raises(ValueError, match=message):
        build_model(ModelArguments(initial_weights=str(saved[0])), scenes)
    with pytest.raises(ValueError, match=message):
        load_classifier(saved[0], scenes)


@pytest.mark.parametrize(
    ("switch", "kinds"),
    [
        ("none", set()),
        ("dir", {DeviceImpulseResponse}),
        ("fms", {FreqMixStyle}),
        ("dirfms", {DeviceImpulseResponse, FreqMixStyle}),
    ],
)
def test_switch_chooses_the_device_generalisation(extractor, switch, kinds):
    frontend = build_training_frontend(extractor, AugmentationArguments(switch), DataArguments("x"), devices=DEVICES)
    transforms = {type(transform) for transform in (*frontend.waveform_transforms, *frontend.spectrogram_transforms)}
    assert transforms & {DeviceImpulseResponse, FreqMixStyle} == kinds


def test_settings_reach_the_front_end(extractor):
    settings = AugmentationArguments(
        dir_p=0.3,
        dir_devices=["s1", "a"],
        fms_alpha=0.7,
        fms_p=0.9,
        roll_max_shift=77,
        max_time_mask=9,
        fmax_jitter=False,
    )
    frontend = build_training_frontend(extractor, settings, DataArguments("x"), devices=DEVICES)
    (responses, roll), (mask, style) = frontend.waveform_transforms, frontend.spectrogram_transforms
    assert (responses.p, responses.device_ids_augmented) == (0.3, (2, 0))
    assert (roll.max_shift, mask.max_freq, mask.max_time) == (77, 48, 9)
    assert (style.alpha, style.p, frontend.fmax_jitter) == (0.7, 0.9, None)


def test_device_that_the_data_lack_raises(extractor):
    settings = AugmentationArguments(dir_devices=["a", "s9"])
    with pytest.raises(ValueError, match="dir_devices names s9; the data's devices are a, b, s1"):
        build_training_frontend(extractor, settings, DataArguments("x"), devices=DEVICES)


def test_impulse_responses_come_from_the_folder_that_is_named(extractor, tmp_path):
    for number, rate in enumerate((32_000, 32_000)):
        soundfile.write(tmp_path / f"{number}.wav", np.eye(1, 50, k=number)[0], rate, subtype="FLOAT")
    data = DataArguments("x", impulse_responses=str(tmp_path))
    frontend = build_training_frontend(extractor, AugmentationArguments("dir"), data, devices=DEVICES)
    assert frontend.waveform_transforms[0].impulse_responses.argmax(1).tolist() == [0, 1]


def test_impulse_responses_of_another_rate_need_a_word(extractor, tmp_path):
    soundfile.write(tmp_path / "48k.wav", np.eye(1, 96)[0], 48_000, subtype="FLOAT")
    data = DataArguments("x", impulse_responses=str(tmp_path))
    with pytest.raises(ValueError, match=r"48k\.wav.*48000"):
        build_training_frontend(extractor, AugmentationArguments("dir"), data, devices=DEVICES)
    data = DataArguments("x", impulse_responses=str(tmp_path), resample_impulse_responses=True)
    frontend = build_training_frontend(extractor, AugmentationArguments("dir"), data, devices=DEVICES)
    assert len(frontend.waveform_transforms[0].impulse_responses) == 1


def write_set(folder, logits, name: str) -> str:
    """Writes a logits set as `predict_logits` does."""
    folder.mkdir()
    write_logits_file(folder / "logits-00000.arrow", logits.example_ids, logits.logits, content=logits.content)
    identity = {"name": name, "model": {}, "front_end": {}, "data": "0", "scenes": list(logits.scenes)}
    files = {"format": FORMAT, "clips": len(logits.example_ids), "files": ["logits-00000.arrow"]}
    write_json(folder / MANIFEST_NAME, {**identity, **files})
    return str(folder)


def test_student_learns_from_the_mean_of_its_teachers(data, tmp_path):
    sets = [made_up(data["train"], seed) for seed in (0, 1)]
    folders = [write_set(tmp_path / name, logits, name) for name, logits in zip("xy", sets, strict=True)]
    clips, teachers = attach_teachers(data["train"], TeacherArguments(folders))
    mean = (sets[0].logits + sets[1].logits) / 2
    np.testing.assert_allclose(clips.with_format(None)["teacher_logits"][:], mean, atol=1e-6)
    assert [teacher["name"] for teacher in teachers] == ["x", "y"]


def test_more_logits_than_clips_need_a_word(data, tmp_path):
    folder, few = write_set(tmp_path / "x", made_up(data["train"]), "x"), data["train"].select(range(4))
    with pytest.raises(ValueError, match="--allow_extra_logits true"):
        attach_teachers(few, TeacherArguments([folder]))
    assert len(attach_teachers(few, TeacherArguments([folder], allow_extra_logits=True))[0]) == 4


def test_student_without_teachers_raises(data):
    with pytest.raises(ValueError, match="--teacher_logits"):
        attach_teachers(data["train"], TeacherArguments())


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory, extractor):
    """Folder of a teacher that decides between the data's scenes."""
    folder = tmp_path_factory.mktemp("teacher") / "cpm-s0"
    tiny_model(data["train"].features["labels"].names).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def test_online_teachers_are_loaded_by_folder(data, teacher, saved):
    scenes = data["train"].features["labels"].names
    teachers = load_online_teachers(TeacherArguments(teacher_mode="online", teachers=[str(teacher)]), scenes)
    assert [identity["name"] for identity in teachers.identities] == ["cpm-s0"]
    both = TeacherArguments(teacher_mode="online", teachers=[str(teacher), str(saved[0])])
    with pytest.raises(ValueError, match=f"{saved[0]}'s 3 classes are bus, park, tram"):
        load_online_teachers(both, scenes)
    with pytest.raises(ValueError, match="teacher_mode is 'cached'"):
        load_online_teachers(TeacherArguments(), scenes)


def trainer_in_seat(seat: str, data, extractor, folder, **settings):
    batches = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 8, **settings}
    arguments = DistillationTrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, frontend_seat=seat, num_train_epochs=1, **batches
    )
    frontend = build_training_frontend(extractor, AugmentationArguments(), DataArguments("x"), devices=DEVICES)
    return build_trainer(tiny_model(data["train"].features["labels"].names), arguments, data, frontend=frontend)


def test_both_seats_give_the_same_evaluation(data, extractor, tmp_path):
    accelerator, workers = (trainer_in_seat(seat, data, extractor, tmp_path) for seat in ("accelerator", "workers"))
    assert "waveform" in accelerator.eval_dataset[0] and "input_values" in workers.eval_dataset[0]
    first, second = (
        {name: value for name, value in trainer.evaluate().items() if "accuracy" in name or "loss" in name}
        for trainer in (accelerator, workers)
    )
    assert first == pytest.approx(second, abs=1e-5)
    assert len(first) > 20


@pytest.mark.parametrize("seat", ["accelerator", "workers"])
def test_both_seats_train_with_augmentation(data, extractor, tmp_path, seat):
    few = {"train": data["train"].select(range(32)), "evaluate": data["evaluate"].select(range(8))}
    trainer = trainer_in_seat(seat, few, extractor, tmp_path)
    assert np.isfinite(trainer.train().training_loss)


@pytest.mark.parametrize("seat", ["accelerator", "workers"])
def test_both_seats_draw_random_crops_anew_in_each_epoch(store, extractor, tmp_path, seat):
    cut = load_training_data(DataArguments(str(store), random_crops=True))
    few = {"train": cut["train"].select(range(32)), "evaluate": cut["evaluate"].select(range(8))}
    trainer = trainer_in_seat(seat, few, extractor, tmp_path)
    crops = random_crops_of(trainer.train_dataset)
    before = crops.draw.tolist()
    trainer.args.num_train_epochs = 2
    trainer.train()
    assert (before, crops.draw.tolist()) == ([0, 0], [trainer.args.seed, 1])


def test_epoch_that_would_end_in_one_clip_raises_before_training(data, extractor, tmp_path):
    odd = {"train": data["train"].select(range(33)), "evaluate": data["evaluate"]}
    with pytest.raises(ValueError, match="33 training clips in batches of 16 .*--dataloader_drop_last"):
        trainer_in_seat("accelerator", odd, extractor, tmp_path)


def test_epoch_without_a_whole_batch_raises_before_training(data, extractor, tmp_path):
    few = {"train": data["train"].select(range(15)), "evaluate": data["evaluate"]}
    with pytest.raises(ValueError, match="15 training clips are fewer than a batch of 16, and dataloader_drop_last"):
        trainer_in_seat("accelerator", few, extractor, tmp_path, dataloader_drop_last=True)
    empty = {"train": data["train"].select([]), "evaluate": data["evaluate"]}
    with pytest.raises(ValueError, match="0 training clips are fewer than a batch of 16"):
        trainer_in_seat("accelerator", empty, extractor, tmp_path)


def test_progress_shows_the_few_numbers_that_one_watches():
    class Bar:
        written = []

        def write(self, text):
            self.written.append(text)

    progress, state = ConciseProgress(), type("State", (), {"is_world_process_zero": True})
    progress.training_bar = Bar()
    progress.on_log(None, state, None, logs={"eval_accuracy": 0.5, "eval_accuracy_scene_bus": 0.25, "epoch": 1.0})
    progress.on_log(None, state, None, logs={"train_runtime": 3.0, "epoch": 1.0})
    assert len(Bar.written) == 1
    assert "eval_accuracy" in Bar.written[0] and "scene_bus" not in Bar.written[0]
