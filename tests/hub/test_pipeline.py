"""`pipeline("audio-classification")` with our models: what it takes and refuses, and that its scores are the model's.

It decodes files and bytes by the program ffmpeg, to mono at the model's rate. A stand-in takes its place here: what is
proved is that our models take what the program gives, not what a build of it decodes.
"""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from serving_parts import RATE, malformed, noise, save_model, small_model
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from hf_ascdistill import convert_checkpoint, predict_windows

TOLERANCE = 1e-5  # of scores, between two forward passes over the same samples
FFMPEG = """#!{python}
import io, sys
import soundfile, soxr
rate, channels = (int(sys.argv[sys.argv.index(flag) + 1]) for flag in ("-ar", "-ac"))
assert channels == 1 and sys.argv[sys.argv.index("-f") + 1] == "f32le"
samples, own = soundfile.read(io.BytesIO(sys.stdin.buffer.read()), dtype="float32", always_2d=True)
sys.stdout.buffer.write(soxr.resample(samples.mean(axis=1), own, rate).tobytes())
"""


@pytest.fixture(scope="module", params=["cp-mobile", "cp-resnet", "passt"])
def folder(request, tmp_path_factory) -> Path:
    folder = save_model(request.param, tmp_path_factory.mktemp(request.param))
    if request.param == "cp-resnet":  # scores of 1 and 0 would hide differences
        model = small_model(request.param)
        torch.nn.init.constant_(model.classifier.norm.weight, 1.0)
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classify(folder):
    return pipeline("audio-classification", model=str(folder), device="cpu")


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program of that name, first in the search path."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FFMPEG.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def scores(answer: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer}


def close_to(clip: np.ndarray, folder: Path):
    """Scores of one clip at 32 kHz by front-end and model, to compare with."""
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        shares = model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits[0].softmax(-1)
    return pytest.approx(dict(zip(model.config.id2label.values(), shares.tolist(), strict=True)), abs=TOLERANCE)


FORMS = {
    "raw": lambda clip: {"raw": clip, "sampling_rate": RATE},
    "a row of datasets": lambda clip: {"array": clip, "path": None, "sampling_rate": RATE},
    "array": lambda clip: clip,
    "float64": lambda clip: clip.astype(np.float64),
    "tensor": torch.from_numpy,
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_give_the_scores_of_the_model(form, classify, folder):
    clip = noise(1.0)
    assert scores(classify(FORMS[form](clip))) == close_to(clip, folder)


def test_a_file_and_its_bytes_give_the_scores_of_their_samples(classify, folder, ffmpeg, tmp_path):
    clip, path = noise(1.0), tmp_path / "clip.wav"
    soundfile.write(path, clip, RATE, subtype="FLOAT")
    assert scores(classify(str(path))) == close_to(clip, folder)
    assert scores(classify(path.read_bytes())) == close_to(clip, folder)


def test_a_stereo_file_of_another_rate_is_what_our_own_reading_makes_of_it(classify, folder, ffmpeg):
    clip = noise(1.0, rate=44_100, channels=2)
    own = soxr.resample(clip.mean(axis=1), 44_100, RATE)
    assert scores(classify(malformed.audio_file(clip, 44_100, subtype="FLOAT"))) == close_to(own, folder)


def test_without_ffmpeg_a_file_is_refused_in_words(classify, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "clip.wav", noise(1.0), RATE)
    monkeypatch.setenv("PATH", str(tmp_path))
    for form in (str(tmp_path / "clip.wav"), (tmp_path / "clip.wav").read_bytes()):
        with pytest.raises(ValueError, match="ffmpeg was not found but is required"):
            classify(form)


REFUSED = {
    "single channel": lambda clip: {"raw": np.stack([clip, clip]), "sampling_rate": RATE},
    "divide integer samples by their full scale": lambda clip: (clip * 32_767).astype(np.int16),
    "NaN or infinite": lambda clip: np.where(np.arange(len(clip)) == 5, np.nan, clip),
    "shorter than one FFT window": lambda clip: clip[:1000],
    "expected mono clips": lambda clip: clip[:0],
    '"sampling_rate" key': lambda clip: {"raw": clip},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_mono_clip_is_refused_in_words(message, classify):
    with pytest.raises(ValueError, match=message):
        classify(REFUSED[message](noise(1.0)))


def test_the_best_classes_are_the_first_of_all(classify):
    everything = classify(noise(1.0))
    assert len(everything) == 10
    assert classify(noise(1.0), top_k=3) == everything[:3]
    assert classify(noise(1.0), top_k=99) == everything


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_list_is_answered_as_its_clips_alone(batch_size, classify, folder):
    clips = [noise(1.0, seed=seed) for seed in range(3)]
    answers = classify([{"raw": clip, "sampling_rate": RATE} for clip in clips], batch_size=batch_size)
    for answer, clip in zip(answers, clips, strict=True):
        assert scores(answer) == close_to(clip, folder)
    assert scores(answers[0]) != pytest.approx(scores(answers[1]), abs=1e-3)  # else this test could not fail


def test_clips_of_other_lengths_go_one_by_one_and_never_padded(classify, folder):
    clips = [noise(1.0), noise(1.5, seed=1)]
    for answer, clip in zip(classify(clips), clips, strict=True):
        assert scores(answer) == close_to(clip, folder)
    with pytest.raises(RuntimeError, match="size"):
        classify(clips, batch_size=2)


def test_a_long_recording_is_one_clip_and_its_windows_are_a_list(classify, folder):
    clip = noise(3.0)
    assert scores(classify(clip)) == close_to(clip, folder)
    answers = classify([clip[start : start + RATE] for start in range(0, 2 * RATE + 1, RATE // 2)])
    model, extractor = AutoModelForAudioClassification.from_pretrained(folder), classify.feature_extractor
    windows = predict_windows(model, extractor, clip, sampling_rate=RATE)
    for answer, expected in zip(answers, windows.scores, strict=True):
        assert [scores(answer)[name] for name in model.config.id2label.values()] == pytest.approx(expected, abs=1e-5)


def test_its_own_resampling_decides_as_ours_on_real_clips(shared, golden, tmp_path):
    """It resamples by torchaudio, whose filter is wider than that of soxr, which the models were trained with."""
    convert_checkpoint(shared / "checkpoints" / "cpm_student_dcase23.ckpt", tmp_path / "cpm")
    classify = pipeline("audio-classification", model=str(tmp_path / "cpm"), device="cpu")
    clips = [clip.astype(np.float32) for clip in golden("clips8")["raw44100"]]
    theirs = classify([{"raw": clip, "sampling_rate": 44_100} for clip in clips])
    ours = classify([soxr.resample(clip, 44_100, RATE, quality="HQ") for clip in clips])
    for other, own in zip(theirs, ours, strict=True):
        assert scores(other) == pytest.approx(scores(own), abs=0.02)  # the largest difference seen was 0.0084
        assert other[0]["label"] == own[0]["label"]
