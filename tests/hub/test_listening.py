"""What the Space shows of a recording is what the model says of it; wrong recordings and models are named."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from serving_parts import RATE, noise, small_model

from hf_ascdistill import AscFeatureExtractor, CpMobileConfig, CpMobileForAudioClassification
from hf_ascdistill.hub.handler import BadRequest, Limits, TooLarge
from hf_ascdistill.hub.listening import (
    MODELS_VARIABLE,
    describe_complexity,
    draw_hearing,
    hear,
    load_students,
    named_models,
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four seconds in stereo at 44.1 kHz."""
    path = tmp_path_factory.mktemp("recordings") / "long.flac"
    soundfile.write(path, noise(4.0, rate=44_100, channels=2), 44_100)
    return path


def written(samples: np.ndarray, folder, rate: int = RATE):
    soundfile.write(folder / "clip.wav", samples, rate, subtype="FLOAT")
    return folder / "clip.wav"


def test_scores_are_those_of_the_request_handler(handler, recording):
    hearing = hear(handler, recording)
    answer = handler({"inputs": recording.read_bytes(), "parameters": {"per_window": True}})
    assert len(hearing.scores) == len(answer)
    for index, name in handler.model.config.id2label.items():
        [entry] = [entry for entry in answer if entry["label"] == name]
        assert hearing.scores[name.replace("_", " ")] == pytest.approx(entry["score"], abs=1e-5)
        windows = [window["score"] for window in entry["windows"]]
        np.testing.assert_allclose(hearing.windows.scores[:, index], windows, atol=1e-5)


def test_the_picture_of_a_tone_has_its_light_at_its_frequency(handler, tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 2_000 * np.arange(RATE) / RATE)
    [axes] = draw_hearing(hear(handler, written(tone, tmp_path))).axes
    [image] = axes.get_images()
    rows = image.get_array().mean(axis=1)
    places = dict(zip([text.get_text() for text in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert (rows.argmax() + 0.5) / len(rows) == pytest.approx(places["2"], abs=0.01)
    assert set(places) == {"0.1", "0.5", "1", "2", "5", "10"}


def test_the_picture_of_a_long_recording_shows_its_scenes_over_all_of_it(handler, recording, tmp_path):
    hearing = hear(handler, recording)
    figure = draw_hearing(hearing)
    _, scenes = figure.axes
    [mesh] = scenes.collections
    assert scenes.get_xlim() == pytest.approx((0, 4))
    names = [text.get_text() for text in scenes.get_yticklabels()]
    assert names[::-1] == sorted(hearing.scores, key=hearing.scores.get, reverse=True)
    np.testing.assert_array_equal(mesh.get_array()[-1], hearing.windows.scores[:, hearing.windows.mean.argmax()])
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_very_short_recording_is_shown_as_the_model_sees_it(handler, tmp_path):
    hearing = hear(handler, written(noise(0.11), tmp_path))
    assert hearing.seconds == 0.5
    assert hearing.log_mel.shape == (256, RATE // 2 // 500)
    assert len(draw_hearing(hearing).axes) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the size of the recording is 0; expected the bytes of an audio file"),
        (b"no sound at all", "the beginning of the recording is b'no sound'; expected an audio file: wav, flac"),
        (b"fLaC" + bytes(100), "the recording is damaged or of an unknown kind"),
    ],
)
def test_a_file_that_is_no_audio_is_refused(handler, tmp_path, content, message):
    (tmp_path / "clip.wav").write_bytes(content)
    with pytest.raises(BadRequest, match=message):
        hear(handler, tmp_path / "clip.wav")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(RATE // 20), "the length of the recording, in seconds, is 0.05; expected at least 0.1"),
        (np.full(RATE, np.nan), "NaN"),
        (np.zeros(8_000 * 301), "the length of the recording, in seconds, is .*; expected at most"),
    ],
)
def test_a_recording_that_cannot_be_heard_is_refused(handler, tmp_path, samples, message):
    rate = 8_000 if len(samples) > 10 * RATE else RATE
    with pytest.raises(ValueError, match=message):
        hear(handler, written(samples, tmp_path, rate))


def test_a_file_above_the_limit_is_refused_before_it_is_read(handler, tmp_path):
    limited = SimpleNamespace(model=handler.model, extractor=handler.extractor, limits=Limits(max_bytes=1_000))
    with pytest.raises(TooLarge, match=r"the recording has 128,\d+ bytes; expected at most 1,000"):
        hear(limited, written(noise(1.0), tmp_path))


def test_the_badges_tell_the_costs_and_the_verdict():
    extractor = AscFeatureExtractor.from_preset("cp-mobile")
    published = CpMobileForAudioClassification(CpMobileConfig.from_preset("128k"))
    badges = describe_complexity(SimpleNamespace(model=published, extractor=extractor))
    for text in ("126,952 parameters", "28.9 million MACs per second", "124.9 kB as int8", "fits DCASE 2023"):
        assert text in badges
    larger = CpMobileForAudioClassification(CpMobileConfig.from_preset("450k"))
    assert "exceeds DCASE 2023" in describe_complexity(SimpleNamespace(model=larger, extractor=extractor))


def test_students_are_named_by_their_folders(model_folder):
    [(name, student)] = load_students([str(model_folder)], Limits(max_seconds=7)).items()
    assert (name, student.limits.max_seconds) == (model_folder.name, 7)
    assert type(student.model) is type(small_model("cp-mobile"))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], ValueError, f"no model is named; set {MODELS_VARIABLE}"),
        (["runs/a", "others/a"], ValueError, "both named a"),
        (["no/such-model"], FileNotFoundError, "the model no/such-model is neither a folder"),
    ],
)
def test_models_that_are_not_there_are_named(names, error, message):
    with pytest.raises(error, match=message):
        load_students(names, Limits())


@pytest.mark.parametrize(
    ("text", "expected"), [(None, ["a/released"]), ("runs/x, user/y,", ["runs/x", "user/y"]), ("", [])]
)
def test_the_variable_names_the_models(monkeypatch, text, expected):
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(MODELS_VARIABLE, text)
    assert named_models(["a/released"]) == expected
