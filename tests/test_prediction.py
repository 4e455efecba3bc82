"""Logits are predicted once, for one teacher or many; they survive a kill, and are the same either way."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from predict_job import BATCH, CLIPS_PER_FILE, CROPS, SETTINGS, Stop, crops_of, frontend, predict
from tiny_corpus import example_ids, tiny_model, tiny_store
from tiny_teachers import Teacher, front_end, tiny_teachers

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationSettings,
    LogitsSet,
    PredictionSettings,
    build_frontend,
    inference_copy,
    load_prepared,
    predict_logits,
    predict_logits_of_many,
    random_crops,
)
from hf_ascdistill.data.store_reader import Store

JOB = Path(__file__).with_name("predict_job.py")
FILES = CROPS // CLIPS_PER_FILE


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def crops(store):
    return crops_of(store)


@pytest.fixture
def model(crops):
    return tiny_model(crops.features["labels"].names)


@pytest.fixture(scope="module")
def straight(crops, tmp_path_factory):
    """Folder of a set that was predicted without an interruption, and the set."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, predict(crops, folder, tiny_model(crops.features["labels"].names))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("native_kernels", [True, False])
def test_logits_are_those_of_a_plain_forward_pass(native_kernels, crops, model, tmp_path):
    with torch.no_grad():
        mels = frontend().extractor.log_mel(torch.tensor(np.stack(crops[:]["waveform"])))
        expected = model.eval()(mels).logits.numpy()
    settings = replace(SETTINGS, native_kernels=native_kernels)
    logits = predict_logits(model, crops, tmp_path, frontend=frontend(), settings=settings)
    assert logits.example_ids.tolist() == example_ids(crops)
    np.testing.assert_allclose(logits.logits, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3  # clips differ, else any order would do


def test_all_switched_off_gives_the_logits_of_the_model_itself(crops, model, tmp_path):
    with torch.inference_mode():
        mels = frontend().extractor.log_mel(torch.tensor(np.stack(crops[:]["waveform"])))
        expected = torch.cat([model.eval()(part).logits for part in mels.split(BATCH)]).numpy()
    settings = PredictionSettings(BATCH, CLIPS_PER_FILE, fused=False, native_kernels=False)
    logits = predict_logits(model, crops, tmp_path, frontend=frontend(), settings=settings)
    np.testing.assert_array_equal(logits.logits, expected)


@pytest.mark.parametrize("name", ["batch_size", "clips_per_file"])
def test_settings_below_one_raise(name):
    with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
        PredictionSettings(**{name: 0})


def test_logits_belong_to_the_clean_clip(straight, crops, model, tmp_path):
    augmenting = build_frontend(
        AscFeatureExtractor.from_preset("cp-mobile"), AugmentationSettings(device_generalization="fms", fms_p=1.0)
    )
    logits = predict_logits(model.train(), crops, tmp_path, frontend=augmenting, settings=SETTINGS)
    np.testing.assert_array_equal(logits.logits, straight[1].logits)


def test_finished_set_is_only_read(straight, crops, model):
    model.register_forward_hook(Stop(0, lambda: pytest.fail("predicted again")))
    before = files_of(straight[0])
    np.testing.assert_array_equal(predict(crops, straight[0], model).logits, straight[1].logits)
    assert files_of(straight[0]) == before


def interrupt():
    raise KeyboardInterrupt


def overflow():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_batch_without_memory_names_what_needs_less_and_leaves_whole_files(straight, crops, model, tmp_path):
    hook = model.register_forward_hook(Stop(5, overflow))
    with pytest.raises(torch.OutOfMemoryError, match="4 clips did not fit: CUDA.* To need less: a smaller batch_size"):
        predict(crops, tmp_path, model)
    hook.remove()
    assert len(list(tmp_path.glob("*.arrow"))) == 2 and not list(tmp_path.glob("*.tmp"))
    np.testing.assert_array_equal(predict(crops, tmp_path, model).logits, straight[1].logits)


def test_interrupted_prediction_goes_on_where_it_stopped(straight, crops, model, tmp_path):
    hook = model.register_forward_hook(Stop(5, interrupt))
    with pytest.raises(KeyboardInterrupt):
        predict(crops, tmp_path, model)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.arrow")}
    hook.remove()
    assert len(finished) == 2
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    predict(crops, tmp_path, model)
    assert len(passes) == 2 * (CROPS // CLIPS_PER_FILE - len(finished))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert files_of(tmp_path) == files_of(straight[0])


def test_killed_prediction_goes_on_where_it_stopped(straight, store, crops, model, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(JOB), str(store), str(tmp_path), "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    (tmp_path / "logits-00001.arrow.tmp").write_bytes(b"half")  # a kill while a file is written leaves this
    predict(crops, tmp_path, model)
    assert files_of(tmp_path) == files_of(straight[0])


def test_set_of_another_model_in_the_folder_raises(straight, crops):
    other = tiny_model(crops.features["labels"].names, seed=1)
    with pytest.raises(
        ValueError, match=r"holds logits of asc-cp-mobile with .*'weights': '(\w+)'.* 'weights': '(?!\1)"
    ):
        predict(crops, straight[0], other)


def test_set_of_another_front_end_in_the_folder_raises(straight, crops, model):
    extractor = AscFeatureExtractor.from_preset("cp-mobile", fmax=15_000.0)
    with pytest.raises(ValueError, match=r"'fmax': 15500.0.* asked for .*'fmax': 15000.0"):
        predict_logits(model, crops, straight[0], frontend=AcousticFrontend(extractor), settings=SETTINGS)


def test_set_of_other_clips_in_the_folder_raises(straight, crops, model):
    with pytest.raises(ValueError, match=r"'clips': 40, 'data': '(\w+)'.* asked for .*'clips': 39, 'data': '(?!\1)"):
        predict(crops.select(range(39)), straight[0], model)


def test_folder_that_holds_something_else_raises(crops, model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files .notes.txt. and no logits set"):
        predict(crops, tmp_path, model)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_model_with_other_classes_raises_and_both_sides_are_named(crops, tmp_path):
    with pytest.raises(ValueError, match=r"the model's 2 classes are indoor, outdoor; the data's 10 are "):
        predict(crops, tmp_path, tiny_model(["indoor", "outdoor"]))


@pytest.mark.parametrize("native_kernels", [True, False])
def test_logits_that_are_nan_are_never_written(native_kernels, crops, model, tmp_path):
    settings = replace(SETTINGS, native_kernels=native_kernels)
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    with pytest.raises(ValueError, match=f"NaN or infinite, among them {example_ids(crops)[0]}"):
        predict_logits(model, crops, tmp_path, frontend=frontend(), settings=settings)
    assert not list(tmp_path.glob("*.arrow*"))


@pytest.fixture
def teachers(crops) -> dict[str, Teacher]:
    return tiny_teachers(crops.features["labels"].names)


@pytest.fixture(scope="module")
def one_by_one(crops, tmp_path_factory) -> Path:
    """Folder of the sets of all teachers, predicted each alone."""
    folder = tmp_path_factory.mktemp("one-by-one")
    for name, teacher in tiny_teachers(crops.features["labels"].names).items():
        many({name: teacher}, crops, folder)
    return folder


def many(teachers: dict[str, Teacher], crops, folder: Path) -> dict[str, LogitsSet]:
    return predict_logits_of_many(teachers, crops, folder, settings=SETTINGS)


def count_passes(teachers: dict[str, Teacher]) -> dict[str, int]:
    """Counts the forward passes of each teacher from now on."""
    passes = dict.fromkeys(teachers, 0)

    def hook(name):
        def count(*_):
            passes[name] += 1

        return count

    for name, (model, _) in teachers.items():
        model.register_forward_hook(hook(name))
    return passes


def test_each_teacher_predicts_with_a_copy_for_inference(teachers, crops, tmp_path, monkeypatch):
    copied, predicted = [], set()

    def copy(model, *args, **kwargs):
        copied.append(model.config.model_type)
        copy = inference_copy(model, *args, **kwargs)
        copy.register_forward_hook(lambda *_: predicted.add(model.config.model_type))
        return copy

    monkeypatch.setattr("hf_ascdistill.prediction.inference_copy", copy)
    many(teachers, crops, tmp_path)
    assert sorted(copied) == sorted(model.config.model_type for model, _ in teachers.values())
    assert predicted == set(copied)


def test_many_teachers_give_bit_for_bit_what_each_gives_alone(teachers, crops, one_by_one, tmp_path):
    sets = many(teachers, crops, tmp_path)
    assert list(sets) == list(teachers)
    assert files_of(tmp_path) == files_of(one_by_one)
    for name, (model, own) in teachers.items():
        alone = predict_logits(model, crops, tmp_path / "alone" / name, frontend=own, settings=SETTINGS)
        np.testing.assert_array_equal(sets[name].logits, alone.logits)
        assert sets[name].example_ids.tolist() == example_ids(crops)
        assert np.ptp(alone.logits, axis=0).min() > 1e-3  # clips differ, else any order would do


def test_audio_is_read_once_and_each_front_end_works_once(teachers, crops, tmp_path, monkeypatch):
    reads, log_mels = [], []
    read, to_spectrograms = Store.read, AcousticFrontend.to_spectrograms
    monkeypatch.setattr(Store, "read", lambda self, *place: reads.append(place) or read(self, *place))
    monkeypatch.setattr(
        AcousticFrontend,
        "to_spectrograms",
        lambda self, batch: log_mels.append(self.extractor.hop_length) or to_spectrograms(self, batch),
    )
    many(teachers, crops, tmp_path)
    assert len(reads) == CROPS
    assert sorted(log_mels) == sorted([320, 500, 750] * (CROPS // BATCH))


def test_new_teacher_joins_and_finished_ones_rest(teachers, crops, one_by_one, tmp_path):
    newcomer = teachers.pop("cpr-s0")
    many(teachers, crops, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    everyone = tiny_teachers(crops.features["labels"].names)
    passes = count_passes(everyone)
    sets = many(everyone, crops, tmp_path)
    assert passes == {**dict.fromkeys(everyone, 0), "cpr-s0": CROPS // BATCH}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sets["cpr-s0"].members[0]["model"]["type"] == newcomer[0].config.model_type
    assert files_of(tmp_path) == files_of(one_by_one)


def test_interrupted_teachers_go_on_where_each_stopped(teachers, crops, one_by_one, tmp_path):
    early = {"cpm-s1": tiny_model(crops.features["labels"].names, seed=1)}
    early["cpm-s1"].register_forward_hook(Stop(6, interrupt))  # three files of this one
    with pytest.raises(KeyboardInterrupt):
        many({"cpm-s1": (early["cpm-s1"], front_end("cp-mobile"))}, crops, tmp_path)
    hook = teachers["passt-s0"][0].register_forward_hook(Stop(2, interrupt))  # one file of all
    with pytest.raises(KeyboardInterrupt):
        many(teachers, crops, tmp_path)
    hook.remove()
    present = {name: len(list((tmp_path / name).glob("*.arrow"))) for name in teachers}
    assert present == {"cpm-s0": 1, "cpm-s1": 3, "cpr-s0": 1, "passt-s0": 1}
    passes = count_passes(teachers)
    many(teachers, crops, tmp_path)
    assert passes == {name: 2 * (FILES - files) for name, files in present.items()}
    assert files_of(tmp_path) == files_of(one_by_one)


def test_teacher_of_other_classes_stops_all_before_anything_is_written(teachers, crops, tmp_path):
    teachers["odd"] = (tiny_model(["indoor", "outdoor"]), front_end("cp-mobile"))
    passes = count_passes(teachers)
    with pytest.raises(ValueError, match="odd's 2 classes are indoor, outdoor; the data's 10 are"):
        many(teachers, crops, tmp_path)
    assert not any(passes.values()) and not list(tmp_path.iterdir())


def test_folder_of_one_teacher_that_is_taken_stops_all_before_anything_is_written(teachers, crops, tmp_path):
    (tmp_path / "passt-s0").mkdir()
    (tmp_path / "passt-s0" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="passt-s0 holds other files .notes.txt."):
        many(teachers, crops, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["passt-s0", "notes.txt"]


def test_other_weights_under_the_name_of_a_finished_set_raise(crops, one_by_one):
    impostor = {"cpm-s0": (tiny_model(crops.features["labels"].names, seed=7), front_end("cp-mobile"))}
    with pytest.raises(ValueError, match="cpm-s0 holds logits of cpm-s0 with .*'weights'"):
        many(impostor, crops, one_by_one)


def test_sets_of_many_do_not_go_into_the_set_of_one(teachers, crops, straight):
    with pytest.raises(ValueError, match="is itself a logits set, of asc-cp-mobile"):
        many(teachers, crops, straight[0])


def test_random_crops_raise(store, model, tmp_path):
    crops = random_crops(load_prepared(store)["train"])
    with pytest.raises(ValueError, match="the crops are random"):
        many({"cpm-s0": (model, front_end("cp-mobile"))}, crops, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "..", "runs/cpm-s0"])
def test_name_that_is_no_folder_raises(model, crops, tmp_path, name):
    with pytest.raises(ValueError, match="expected names of folders"):
        many({name: (model, front_end("cp-mobile"))}, crops, tmp_path)


def test_no_models_raise(crops, tmp_path):
    with pytest.raises(ValueError, match="the models are named nothing"):
        many({}, crops, tmp_path)


def test_the_one_of_many_whose_logits_are_nan_is_named(teachers, crops, tmp_path):
    torch.nn.init.constant_(next(teachers["cpr-s0"][0].parameters()), torch.nan)
    with pytest.raises(ValueError, match="the logits of cpr-s0 for 8 of 8 clips are NaN"):
        many(teachers, crops, tmp_path)
    assert not list((tmp_path / "cpr-s0").glob("*.arrow*"))


def test_files_that_hold_other_clips_than_their_plan_raise(model, crops, tmp_path):
    logits = {"cpm-s0": (model, front_end("cp-mobile"))}
    many(logits, crops, tmp_path)
    first, second = (tmp_path / "cpm-s0" / f"logits-0000{number}.arrow" for number in (0, 1))
    second.rename(tmp_path / "second")
    first.rename(second)
    (tmp_path / "second").rename(first)
    with pytest.raises(ValueError, match="cpm-s0 hold other clips than its plan.json"):
        many(logits, crops, tmp_path)
