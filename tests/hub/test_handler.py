"""The request handler: forms of audio, windows, parameters."""

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soxr
import torch
from serving_parts import RATE, malformed, noise, save_model, small_model
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from hf_ascdistill import AscFeatureExtractor, convert_checkpoint
from hf_ascdistill.hub import handler as handler_module
from hf_ascdistill.hub.handler import EndpointHandler, Parameters, cut_windows, resample

LOSSLESS = [("WAV", "FLOAT"), ("WAV", "PCM_32"), ("AIFF", "PCM_24"), ("FLAC", "PCM_24"), ("RF64", "FLOAT")]
CODED = [("WAV", "PCM_U8"), ("WAV", "ALAW"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def raw(samples: np.ndarray, rate: int = RATE) -> dict:
    return {"raw": samples, "sampling_rate": rate}


def scores(answer: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer}


def expected_scores(model, clip: np.ndarray) -> dict[str, float]:
    """Softmax of the model's logits for one clip at 32 kHz, by the shortest way."""
    extractor = AscFeatureExtractor.from_preset("cp-mobile")
    with torch.no_grad():
        logits = model(extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_values"]).logits[0]
    return dict(zip(model.config.id2label.values(), logits.softmax(-1).tolist(), strict=True))


@pytest.mark.parametrize("family", ["cp-mobile", "cp-resnet", "passt"])
def test_scores_are_those_of_extractor_model_and_pipeline(family, tmp_path):
    folder, clip = save_model(family, tmp_path), noise(1.0)
    answer = EndpointHandler(str(folder))({"inputs": raw(clip)})
    model, extractor = (
        kind.from_pretrained(folder) for kind in (AutoModelForAudioClassification, AutoFeatureExtractor)
    )
    with torch.no_grad():
        logits = model(extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_values"]).logits[0]
    assert list(scores(answer).values()) == pytest.approx(
        logits.softmax(-1).sort(descending=True)[0].tolist(), abs=1e-6
    )
    piped = pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu")(
        raw(clip), top_k=10
    )
    assert scores(answer) == pytest.approx(scores(piped), abs=1e-6)
    assert answer[0]["score"] - answer[-1]["score"] > 0.01  # else this test could not fail


@pytest.mark.parametrize("file_format,subtype", LOSSLESS)
def test_a_lossless_file_gives_the_scores_of_its_samples(handler, file_format, subtype):
    clip = noise(1.0)
    answer = handler({"inputs": malformed.audio_file(clip, file_format=file_format, subtype=subtype)})
    assert scores(answer) == pytest.approx(
        scores(handler({"inputs": raw(clip)})), abs=1e-4
    )  # 24 bits: 6e-8 of full scale


@pytest.mark.parametrize("file_format,subtype", CODED)
def test_coded_files_are_read(handler, file_format, subtype):
    body = malformed.audio_file(noise(2.0, rate=48_000), 48_000, file_format=file_format, subtype=subtype)
    assert sum(scores(handler({"inputs": body})).values()) == pytest.approx(1.0, abs=1e-6)


def test_bytes_bytearray_base64_and_lists_are_the_same_request(handler):
    clip = noise(1.0)
    body = malformed.audio_file(clip, subtype="FLOAT")
    forms = [body, bytearray(body), base64.b64encode(body).decode(), raw(clip), raw(clip.tolist()), raw(clip[None])]
    answers = [handler({"inputs": form}) for form in forms]
    assert all(answer == answers[0] for answer in answers)


def test_a_batch_answers_each_recording_as_alone(handler):
    clips = [noise(1.0), noise(0.7, seed=1), noise(2.4, seed=2)]
    inputs = [malformed.audio_file(clips[0], subtype="FLOAT"), raw(clips[1]), raw(clips[2])]
    assert handler({"inputs": inputs}) == [handler({"inputs": item}) for item in inputs]


def test_channels_are_averaged(handler):
    clip = noise(1.0, channels=2)
    mean = handler({"inputs": raw(clip.mean(axis=1))})
    assert handler({"inputs": raw(clip.T)}) == mean
    assert handler({"inputs": malformed.audio_file(clip, subtype="FLOAT")}) == mean


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_other_rates_are_resampled_as_the_training_data(handler, rate):
    clip = noise(1.3, rate=rate)
    resampled = soxr.resample(clip, rate, RATE, quality="HQ")
    assert handler({"inputs": malformed.audio_file(clip, rate, subtype="FLOAT")}) == handler(
        {"inputs": raw(resampled)}
    )


@pytest.fixture
def without_soxr(monkeypatch):
    """soxr cannot be imported."""
    monkeypatch.setitem(handler_module.importlib.import_module("sys").modules, "soxr", None)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_without_soxr_the_pass_band_is_the_same(without_soxr, rate):
    clip = noise(3.0, rate=rate)
    own = resample(clip, rate, RATE)
    like = soxr.resample(clip, rate, RATE, quality="HQ")
    assert own.shape == like.shape and own.dtype == np.float32
    inner = slice(2, -2)  # soxr's very first samples differ
    assert np.abs(own - like)[inner].max() < 3e-4 * np.abs(like).max()


def test_without_soxr_long_audio_is_resampled_without_seams(without_soxr, monkeypatch):
    clip = noise(5.3, rate=44_100)
    whole = resample(clip, 44_100, RATE)
    monkeypatch.setattr(handler_module, "RESAMPLED_SECONDS", 2)
    pieces = resample(clip, 44_100, RATE)
    assert pieces.shape == whole.shape and np.abs(pieces - whole).max() < 1e-6


def test_windows_hold_all_of_the_audio_and_nothing_else():
    waveform = np.arange(23, dtype=np.float32)
    starts, windows = cut_windows(waveform, window=10, hop=5, shortest=5)
    assert starts == [0, 5, 10, 13]  # the last one ends with the waveform
    assert all(
        np.array_equal(window, waveform[start : start + 10]) for start, window in zip(starts, windows, strict=True)
    )
    assert cut_windows(waveform[:20], window=10, hop=5, shortest=5)[0] == [0, 5, 10]
    assert cut_windows(waveform[:10], window=10, hop=5, shortest=5)[0] == [0]


def test_short_audio_is_one_window_and_very_short_audio_is_mirrored():
    waveform = np.arange(7, dtype=np.float32)
    starts, windows = cut_windows(waveform, window=10, hop=5, shortest=5)
    assert starts == [0] and np.array_equal(windows[0], waveform)
    starts, windows = cut_windows(waveform[:3], window=10, hop=5, shortest=5)
    assert starts == [0] and np.array_equal(windows[0], [0, 1, 2, 1, 0])


def test_the_score_is_the_mean_of_the_windows_probabilities(handler):
    clip = noise(2.3)
    answer = handler({"inputs": raw(clip), "parameters": {"window": 1.0, "hop": 0.5, "per_window": True}})
    starts = [0.0, 0.5, 1.0, 1.3]
    alone = [expected_scores(handler.model, clip[round(start * RATE) :][:RATE]) for start in starts]
    for entry in answer:
        assert [window["start"] for window in entry["windows"]] == pytest.approx(starts)
        assert [window["end"] for window in entry["windows"]] == pytest.approx([start + 1 for start in starts])
        shares = [window["score"] for window in entry["windows"]]
        assert shares == pytest.approx([window[entry["label"]] for window in alone], abs=1e-6)
        assert entry["score"] == pytest.approx(np.mean(shares), abs=1e-9)
    assert len({alone[0][answer[0]["label"]], alone[1][answer[0]["label"]]}) == 2


def test_the_hop_is_half_a_window_unless_given():
    assert (Parameters().hop, Parameters(window=3.0).hop, Parameters(window=3.0, hop=3.0).hop) == (0.5, 1.5, 3.0)


def test_answers_are_sorted_and_cut_to_top_k(handler):
    everything = handler({"inputs": raw(noise(1.0))})
    assert len(everything) == 10 and sum(scores(everything).values()) == pytest.approx(1.0)
    assert [entry["score"] for entry in everything] == sorted(scores(everything).values(), reverse=True)
    assert handler({"inputs": raw(noise(1.0)), "parameters": {"top_k": 3}}) == everything[:3]
    assert handler({"inputs": raw(noise(1.0)), "parameters": {"top_k": 99}}) == everything


@pytest.mark.parametrize("name,function", [("sigmoid", torch.sigmoid), ("none", torch.clone)])
def test_other_functions_make_scores_of_the_logits(handler, name, function):
    clip = noise(1.0)
    answer = handler({"inputs": raw(clip), "parameters": {"function_to_apply": name}})
    extractor = AscFeatureExtractor.from_preset("cp-mobile")
    with torch.no_grad():
        logits = handler.model(extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_values"]).logits[0]
    assert list(scores(answer).values()) == pytest.approx(function(logits).sort(descending=True)[0].tolist(), abs=1e-5)


def test_threads_may_share_a_handler(handler):
    requests = [{"inputs": raw(noise(1.0 + 0.1 * index, seed=index))} for index in range(16)]
    expected = [handler(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(handler, requests)) == expected


def test_a_model_in_training_mode_is_put_into_evaluation_mode(tmp_path):
    small_model("cp-mobile").train().save_pretrained(tmp_path)
    AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(tmp_path)
    assert not EndpointHandler(str(tmp_path)).model.training


@pytest.fixture(scope="module")
def real_handler(shared, tmp_path_factory) -> EndpointHandler:
    """A handler for the checkpoint of the paper's authors."""
    folder = tmp_path_factory.mktemp("real") / "cpm"
    convert_checkpoint(shared / "checkpoints" / "cpm_student_dcase23.ckpt", folder)
    return EndpointHandler(str(folder))


def test_real_clips_give_the_authors_logits(real_handler, golden):
    clips = golden("clips8")
    labels = list(real_handler.model.config.id2label.values())
    inputs = [raw(clip.astype(np.float32), 44_100) for clip in clips["raw44100"]]
    answers = real_handler({"inputs": inputs, "parameters": {"function_to_apply": "none"}})
    logits = [[scores(answer)[label] for label in labels] for answer in answers]
    np.testing.assert_allclose(logits, clips["logits"], atol=1e-3)  # what two float32 implementations may differ by


def test_the_real_checkpoint_is_right_on_62_of_80_clips(real_handler, shared):
    sample = shared / "data" / "tau22-sample"
    rows = (sample / "evaluation_setup" / "fold1_evaluate.csv").read_text().splitlines()[1:]
    names, scenes = zip(*(row.split("\t")[:2] for row in rows), strict=True)
    bodies = [(sample / name).read_bytes() for name in names]
    answers = [
        answer
        for first in range(0, len(bodies), 16)
        for answer in real_handler({"inputs": bodies[first : first + 16], "parameters": {"top_k": 1}})
    ]
    assert sum(answer[0]["label"] == scene for answer, scene in zip(answers, scenes, strict=True)) == 62
