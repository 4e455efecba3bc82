"""The front-end in both of its seats."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from compilers import needs_gcc
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationSettings,
    DeviceImpulseResponse,
    FreqMixStyle,
    SpectrogramMask,
    TimeRoll,
    build_frontend,
    with_frontend,
)
from hf_ascdistill.transforms import PAPER_AUGMENTATION
from hf_ascdistill.transforms.frontend import ComposeTransforms

CLIPS, SAMPLES = 6, 2000
MEL_TOLERANCE = 1e-4
BANK = torch.randn(3, 40, generator=torch.Generator().manual_seed(5))
SMALL_MASKS = {"max_freq_mask": 6, "max_time_mask": 4, "roll_max_shift": 300}


@pytest.fixture
def extractor():
    return AscFeatureExtractor(n_fft=256, win_length=200, hop_length=100, n_mels=20)


@pytest.fixture
def waveform():
    return torch.randn(CLIPS, SAMPLES, generator=torch.Generator().manual_seed(0)) / 10


@pytest.fixture
def batch(waveform):
    return {
        "waveform": waveform,
        "labels": torch.arange(CLIPS),
        "device_ids": torch.arange(CLIPS) % 3,
        "teacher_logits": torch.randn(CLIPS, 10),
        "example_id": [f"clip-{index}" for index in range(CLIPS)],
    }


@dataclass(frozen=True)
class ReadClips:
    """Stands for the transform that reads a row's audio."""

    clips: np.ndarray

    def __call__(self, batch):
        starts = batch.pop("start")
        return {"waveform": [self.clips[start] for start in starts], **batch}


@pytest.fixture
def dataset(waveform):
    columns = {
        "example_id": [f"clip-{index}" for index in range(CLIPS)],
        "start": list(range(CLIPS)),
        "labels": list(range(CLIPS)),
        "device_ids": [index % 3 for index in range(CLIPS)],
        "teacher_logits": torch.randn(CLIPS, 10).tolist(),
    }
    return Dataset.from_dict(columns).with_transform(ReadClips(waveform.numpy()))


def test_the_waveform_becomes_the_extractors_mels(extractor, batch):
    result = AcousticFrontend(extractor, native_kernels=False)(batch)
    torch.testing.assert_close(result["input_values"], extractor.log_mel(batch["waveform"]), atol=0, rtol=0)
    assert set(result) == set(batch) - {"waveform"} | {"input_values"}
    assert all(result[name] is batch[name] for name in ("labels", "device_ids", "teacher_logits", "example_id"))
    assert "waveform" in batch and "input_values" not in batch


@needs_gcc
def test_native_log_mels_are_the_extractors_to_rounding(extractor, batch, monkeypatch):
    frontend, expected = AcousticFrontend(extractor), extractor.log_mel(batch["waveform"])
    monkeypatch.setattr(torch.fft, "rfft", None)  # torch cannot do it any more
    torch.testing.assert_close(frontend(batch)["input_values"], expected, atol=MEL_TOLERANCE, rtol=0)
    with pytest.raises(TypeError):
        frontend.with_native_kernels(False).evaluation()(batch)


class Louder(AscFeatureExtractor):
    def log_mel(self, waveform, *, fmax=None):
        return super().log_mel(2 * waveform, fmax=fmax)


def test_what_the_kernel_does_not_do_the_extractor_does(extractor, batch, monkeypatch):
    settings = {"win_length": 200, "hop_length": 100, "n_mels": 20}
    for other in (AscFeatureExtractor(n_fft=250, **settings), Louder(n_fft=256, **settings)):
        assert torch.equal(AcousticFrontend(other)(batch)["input_values"], other.log_mel(batch["waveform"]))
    for wrong in (batch["waveform"][0], batch["waveform"][:, :200]):
        with pytest.raises(ValueError, match=r"expected floating-point clips|shorter than one FFT window"):
            AcousticFrontend(extractor)({"waveform": wrong})
    monkeypatch.setattr("hf_ascdistill.transforms.frontend.can_use_kernels", lambda: False)
    mels = AcousticFrontend(extractor)(batch)["input_values"]
    assert torch.equal(mels, extractor.log_mel(batch["waveform"]))


def test_a_datasets_lists_become_tensors(extractor, batch):
    columns = {
        "waveform": list(batch["waveform"].numpy()),
        "labels": batch["labels"].tolist(),
        "device_ids": batch["device_ids"].numpy(),
        "teacher_logits": [row.double().tolist() for row in batch["teacher_logits"]],
        "city": ["paris"] * CLIPS,
    }
    result = AcousticFrontend(extractor)(columns)
    expected = AcousticFrontend(extractor)(batch)
    for name in ("input_values", "labels", "device_ids", "teacher_logits"):
        assert result[name].dtype == expected[name].dtype
        torch.testing.assert_close(result[name], expected[name])
    assert result["city"] == ["paris"] * CLIPS


def test_unequal_lengths_raise_and_name_the_clips(extractor, waveform):
    clips = [clip[: 1500 if index == 4 else SAMPLES] for index, clip in enumerate(waveform.numpy())]
    batch = {"waveform": clips, "example_id": [f"clip-{index}" for index in range(CLIPS)]}
    with pytest.raises(ValueError, match=r"1 of the 6.*2000 samples: clip-4 \(1500 samples\)"):
        AcousticFrontend(extractor)(batch)


@pytest.mark.parametrize("batch", [{"labels": [0]}, {"waveform": [], "labels": []}])
def test_a_batch_without_waveforms_raises(extractor, batch):
    with pytest.raises(ValueError, match="no waveform"):
        AcousticFrontend(extractor)(batch)


def test_a_clip_shorter_than_one_window_raises(extractor):
    with pytest.raises(ValueError, match="255 samples.*256"):
        AcousticFrontend(extractor)({"waveform": torch.zeros(2, 255)})


def test_transforms_run_in_order(extractor, batch):
    seen = []

    def spy(name):
        def transform(columns):
            seen.append((name, "waveform" in columns, "input_values" in columns))
            return columns

        return transform

    AcousticFrontend(extractor, (spy("first"), spy("second")), (spy("third"),))(batch)
    assert seen == [("first", True, False), ("second", True, False), ("third", False, True)]


def test_the_jitter_draws_one_edge_for_the_batch_from_both_ends(batch):
    class Recorder(AscFeatureExtractor):
        def log_mel(self, waveform, *, fmax=None):
            edges.append(fmax)
            return waveform[:, None]

    edges = []
    frontend = AcousticFrontend(Recorder(), fmax_jitter=(15_001, 15_003))
    torch.manual_seed(0)
    for _ in range(60):
        frontend(batch)
    assert set(edges) == {15_001, 15_002, 15_003}
    frontend.evaluation()(batch)
    assert edges[-1] is None


@pytest.mark.parametrize("jitter", [(15_000, 16_001), (16_000, 15_000), (0, 100)])
def test_an_impossible_jitter_raises(extractor, jitter):
    with pytest.raises(ValueError, match="fmax_jitter"):
        AcousticFrontend(extractor, fmax_jitter=jitter)


def test_training_changes_the_mels_and_evaluation_draws_nothing(extractor, batch):
    frontend = build_frontend(extractor, AugmentationSettings(**SMALL_MASKS), impulse_responses=BANK)
    expected = AcousticFrontend(extractor)(batch)["input_values"]
    torch.manual_seed(0)
    assert not torch.equal(frontend(batch)["input_values"], expected)
    state = torch.get_rng_state()
    assert torch.equal(frontend.evaluation()(batch)["input_values"], expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dg", ["none", "dir", "fms", "dirfms"])
def test_the_switch_chooses_the_transforms_of_table_2(extractor, dg):
    settings = AugmentationSettings(device_generalization=dg, dir_devices=(1,), mask_per_clip=True)
    frontend = build_frontend(extractor, settings, impulse_responses=BANK)
    kinds = [type(transform) for transform in frontend.waveform_transforms + frontend.spectrogram_transforms]
    assert kinds == [
        *[DeviceImpulseResponse] * ("dir" in dg),
        TimeRoll,
        SpectrogramMask,
        *[FreqMixStyle] * ("fms" in dg),
    ]
    assert frontend.fmax_jitter == (15_001, 16_000)


def test_every_setting_arrives():
    extractor = AscFeatureExtractor(shift=3.0)
    settings = AugmentationSettings("dirfms", 0.11, (1, 2), 0.12, 0.13, 14, 15, 16, True, (15_100, 15_200))
    frontend = build_frontend(extractor, settings, impulse_responses=BANK)
    (dir_, roll), (mask, fms) = frontend.waveform_transforms, frontend.spectrogram_transforms
    assert (dir_.p, dir_.device_ids_augmented, roll.max_shift) == (0.11, (1, 2), 14)
    assert dir_.impulse_responses is BANK
    assert mask == SpectrogramMask(15, 16, True, fill_value=0.6)
    assert fms == FreqMixStyle(0.12, 0.13)
    assert frontend.fmax_jitter == (15_100, 15_200)


@pytest.mark.parametrize(
    ("system", "alpha", "fms_p", "dir_p", "shift", "frames"),
    [
        ("student", 0.3, 0.4, 0.6, 4000, 0),
        ("cp-resnet", 0.3, 0.8, 0.4, 4000, 0),
        ("cp-mobile", 0.3, 0.8, 0.4, 4000, 0),
        ("passt", 0.4, 0.4, 0.6, 10_000, 20),
    ],
)
def test_the_papers_settings(system, alpha, fms_p, dir_p, shift, frames):
    settings = PAPER_AUGMENTATION[system]
    assert (settings.fms_alpha, settings.fms_p, settings.dir_p) == (alpha, fms_p, dir_p)
    assert (settings.roll_max_shift, settings.max_freq_mask, settings.max_time_mask) == (shift, 48, frames)
    assert settings.device_generalization == "dirfms" and settings.dir_devices is None


def test_the_default_settings_are_the_students(extractor):
    assert AugmentationSettings() == PAPER_AUGMENTATION["student"]
    assert len(build_frontend(extractor, impulse_responses=BANK).waveform_transforms) == 2


@pytest.mark.parametrize("dg", ["dir", "dirfms"])
def test_dir_without_impulse_responses_raises(extractor, dg):
    with pytest.raises(ValueError, match=f"'{dg}'.*impulse_responses"):
        build_frontend(extractor, AugmentationSettings(device_generalization=dg))


def test_an_unknown_switch_raises():
    with pytest.raises(ValueError, match="'fmsdir'.*none, dir, fms, dirfms"):
        AugmentationSettings(device_generalization="fmsdir")


def test_a_pickled_front_end_does_the_same(extractor, batch):
    frontend = build_frontend(extractor, AugmentationSettings(**SMALL_MASKS), impulse_responses=BANK)
    twin = pickle.loads(pickle.dumps(frontend))
    results = []
    for candidate in (frontend, twin):
        torch.manual_seed(0)
        results.append(candidate(batch)["input_values"])
    assert torch.equal(*results)


def test_both_seats_give_the_same_evaluation_mels(extractor, dataset, waveform):
    frontend = build_frontend(extractor, AugmentationSettings(**SMALL_MASKS), impulse_responses=BANK).evaluation()
    rows = with_frontend(dataset, frontend)
    loader = DataLoader(
        rows, batch_size=4, num_workers=1, collate_fn=lambda rows: [row["input_values"] for row in rows]
    )
    in_workers = torch.stack([row for batch in loader for row in batch])
    on_accelerator = frontend({"waveform": waveform})["input_values"]
    torch.testing.assert_close(in_workers, on_accelerator, atol=1e-5, rtol=0)


def test_both_seats_give_the_same_training_mels(extractor, dataset, waveform):
    settings = AugmentationSettings(**SMALL_MASKS, dir_devices=(0, 1), fms_p=1.0)
    frontend = build_frontend(extractor, settings, impulse_responses=BANK)
    torch.manual_seed(0)
    in_dataset = with_frontend(dataset, frontend)[:]["input_values"]
    torch.manual_seed(0)
    on_accelerator = frontend({"waveform": waveform, "device_ids": torch.arange(CLIPS) % 3})["input_values"]
    torch.testing.assert_close(in_dataset, on_accelerator, atol=1e-5, rtol=0)


def test_a_dataset_with_a_front_end_yields_mels_and_the_other_columns(extractor, dataset):
    row = with_frontend(dataset, AcousticFrontend(extractor))[1]
    assert set(row) == {"input_values", "example_id", "labels", "device_ids", "teacher_logits"}
    assert row["input_values"].shape == (20, 20) and row["teacher_logits"].shape == (10,)
    assert row["labels"] == 1 and row["example_id"] == "clip-1"


def test_the_dataset_itself_keeps_yielding_waveforms(extractor, dataset):
    with_frontend(dataset, AcousticFrontend(extractor))
    assert "waveform" in dataset[0]


def test_a_dataset_that_holds_its_waveforms_needs_no_transform(extractor, waveform):
    stored = Dataset.from_dict({"waveform": list(waveform.numpy()), "labels": list(range(CLIPS))})
    mels = with_frontend(stored, AcousticFrontend(extractor))[:]["input_values"]
    torch.testing.assert_close(mels, extractor.log_mel(waveform), atol=MEL_TOLERANCE, rtol=0)


def test_chosen_columns_stay_chosen(extractor, dataset):
    transform = dataset.format["format_kwargs"]["transform"]
    chosen = dataset.with_transform(transform, columns=["start", "labels"])
    assert set(with_frontend(chosen, AcousticFrontend(extractor))[0]) == {"input_values", "labels"}


def test_two_front_ends_raise(extractor, dataset):
    twice = with_frontend(with_frontend(dataset, AcousticFrontend(extractor)), AcousticFrontend(extractor))
    with pytest.raises(ValueError, match="no waveform.*only one front-end"):
        twice[0]


def test_composed_transforms_run_in_order():
    double = ComposeTransforms((lambda batch: {"x": batch["x"] + 1}, lambda batch: {"x": batch["x"] * 2}))
    assert double({"x": 3}) == {"x": 8}


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        AugmentationSettings().dir_p = 0.1
    assert replace(AugmentationSettings(), dir_p=0.1).dir_p == 0.1
