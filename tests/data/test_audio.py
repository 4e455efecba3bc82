"""One recording becomes a mono waveform at 32 kHz, or an error that names it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from small_corpus import CLIPS, RATE, noise, write_corpus, write_wav

from hf_ascdistill.data.audio import AudioChecks, CorpusRate, Sound, Waveform, decode, read_audio, resample_joined
from hf_ascdistill.data.tau22 import load_tau22
from hf_ascdistill.data.wav_reader import ReadWavFiles


def test_resampling_is_that_of_the_authors(golden, tmp_path):
    clips = golden("clips8")
    for number, samples in enumerate(clips["raw44100"]):
        path = write_wav(tmp_path / f"{number}.wav", samples, 44_100)
        np.testing.assert_allclose(read_audio(path), clips["wav"][number], rtol=0, atol=1e-6)


def test_real_clips_are_read_as_in_the_golden_data(golden, shared):
    clips = golden("clips8")
    for name, samples in zip(clips["filename"], clips["wav"], strict=True):
        path = shared / "data/tau22-sample" / str(name)
        np.testing.assert_allclose(read_audio(path), samples, rtol=0, atol=1e-6)


def test_bytes_are_read_like_their_file(tmp_path):
    path = write_wav(tmp_path / "x.wav", noise("x"))
    np.testing.assert_array_equal(read_audio(path.read_bytes()), read_audio(path))


def test_a_recording_at_32_khz_stays_as_it_is(tmp_path):
    samples = noise("x", 100)
    np.testing.assert_array_equal(read_audio(write_wav(tmp_path / "x.wav", samples, 32_000)), samples)


def test_flac_is_read_too(tmp_path):
    samples = noise("x", 100)
    soundfile.write(tmp_path / "x.flac", samples, 32_000, subtype="PCM_24")
    np.testing.assert_allclose(read_audio(tmp_path / "x.flac"), samples, rtol=0, atol=2**-23)


def test_channels_are_averaged_where_asked(tmp_path):
    channels = noise("x", 200).reshape(100, 2)
    path = write_wav(tmp_path / "x.wav", channels, 32_000)
    np.testing.assert_allclose(read_audio(path, checks=AudioChecks(stereo="mean")), channels.mean(axis=1), atol=1e-7)


def test_silence_is_read_where_allowed(tmp_path):
    path = write_wav(tmp_path / "x.wav", np.zeros(100), 32_000)
    np.testing.assert_array_equal(read_audio(path, checks=AudioChecks(allow_silent=True)), np.zeros(100))


def test_each_rate_is_resampled_from_its_own_where_mixed(tmp_path):
    path = write_wav(tmp_path / "x.wav", noise("x", 8_000), 8_000)
    waveform = read_audio(path, checks=AudioChecks(mixed_rates=True), corpus_rate=CorpusRate("first.wav", RATE))
    np.testing.assert_array_equal(waveform, soxr.resample(noise("x", 8_000), 8_000, 32_000, quality="HQ"))


def test_consecutive_slices_are_resampled_as_one():
    whole = noise("x", 3 * RATE)
    slices = [Waveform(str(number), part, RATE) for number, part in enumerate(np.split(whole, 3))]
    np.testing.assert_array_equal(resample_joined(slices), soxr.resample(whole, RATE, 32_000, quality="HQ"))


# Recordings that cannot be right


def wav_bytes(path: Path) -> bytes:
    return write_wav(path, noise("x"), subtype="PCM_24").read_bytes()


def flac_bytes(path: Path) -> bytes:
    soundfile.write(path, noise("x"), RATE, format="FLAC")
    return path.read_bytes()


def spoiled(value: float) -> np.ndarray:
    samples = noise("x")
    samples[7] = value
    return samples


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "not audio": (lambda path: path.write_text("scene\n" * 100), "is not audio"),
    "header cut": (lambda path: path.write_bytes(wav_bytes(path)[:20]), "is truncated"),
    "audio cut": (lambda path: path.write_bytes(wav_bytes(path)[:-3000]), "is truncated"),
    "last byte cut": (lambda path: path.write_bytes(wav_bytes(path)[:-1]), "is truncated"),
    "flac cut": (lambda path: path.write_bytes(flac_bytes(path)[:-3000]), "is truncated|is not audio"),
    "no samples": (lambda path: write_wav(path, np.zeros(0)), "holds no samples"),
    "stereo": (lambda path: write_wav(path, noise("x").reshape(-1, 2)), "has 2 channels, expected 1"),
    "silent": (lambda path: write_wav(path, np.zeros(RATE)), "is silent"),
    "nan": (lambda path: write_wav(path, spoiled(np.nan)), "NaN or infinite"),
    "infinite": (lambda path: write_wav(path, spoiled(np.inf)), "NaN or infinite"),
    "another rate": (lambda path: write_wav(path, noise("x", 8_000), 8_000), "8000 Hz.*first.wav 16000 Hz"),
    "too short": (lambda path: write_wav(path, noise("x")[:-1]), "15999 samples at 16000 Hz.*expected 1 s"),
    "too long": (lambda path: write_wav(path, noise("x", RATE + 1)), "16001 samples at 16000 Hz.*expected 1 s"),
}


@pytest.mark.parametrize(("write", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_raises_and_is_named(tmp_path, write, message):
    write(tmp_path / "bad.wav")
    with pytest.raises(ValueError, match=rf"bad\.wav.*({message})"):
        read_audio(tmp_path / "bad.wav", corpus_rate=CorpusRate("first.wav", RATE), length=32_000)


def test_absent_file_raises_and_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.wav"):
        read_audio(tmp_path / "absent.wav")


@pytest.mark.parametrize("samples", [np.zeros((2, 4), np.float32), np.ones(4, np.int16)], ids=["stereo", "integers"])
def test_samples_that_are_no_mono_floats_raise(samples):
    with pytest.raises(ValueError, match="row 3.*expected mono floats"):
        decode(Sound("row 3", samples, RATE), AudioChecks())


def test_unknown_stereo_mode_raises():
    with pytest.raises(ValueError, match="'left'.*'error', 'mean'"):
        AudioChecks(stereo="left")


# Reading the rows of a corpus that is not prepared


def test_rows_hold_what_their_files_hold(tmp_path):
    clips = load_tau22(write_corpus(tmp_path))["train"]
    for name, waveform in zip(CLIPS, clips[:]["waveform"], strict=False):
        np.testing.assert_array_equal(waveform, read_audio(tmp_path / f"audio/{name}.wav"))


def test_columns_alone_are_read_without_audio(tmp_path):
    clips = load_tau22(write_corpus(tmp_path))["train"]
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    assert list(clips.select_columns(["city"])["city"]) == ["lyon", "lyon", "lyon", "oslo", "lyon"]
    assert len(clips.filter(lambda city: city == "oslo", input_columns=["city"])) == 1


def test_another_rate_names_both_files(tmp_path):
    clips = load_tau22(write_corpus(tmp_path))["train"]
    write_wav(tmp_path / f"audio/{CLIPS[3]}.wav", noise("x", 8_000), 8_000)
    with pytest.raises(ValueError, match=rf"{CLIPS[3]}\.wav has 8000 Hz, .*{CLIPS[0]}\.wav 16000 Hz"):
        clips[3]


def test_checks_can_be_relaxed_for_reading(tmp_path):
    clips = load_tau22(write_corpus(tmp_path))["train"]
    path = write_wav(tmp_path / f"audio/{CLIPS[3]}.wav", noise("x", 16_000).reshape(-1, 2), 8_000)
    relaxed = ReadWavFiles(str(path), AudioChecks(stereo="mean", mixed_rates=True))
    assert clips.with_transform(relaxed)[3]["waveform"].shape == (32_000,)
