"""Impulse responses: measured ones against the reference, refusals of bad files, and the generated bank."""

import numpy as np
import pytest
import soundfile
import torch

from hf_ascdistill.data.impulse_responses import (
    MicrophoneRanges,
    butterworth_db,
    default_impulse_responses,
    load_impulse_responses,
    minimum_phase_fir,
)

RATE = 32_000


def write_wav(path, samples, rate=RATE, **kwargs):
    soundfile.write(path, np.asarray(samples, dtype=np.float32), rate, **{"subtype": "FLOAT", **kwargs})


def magnitudes_db(responses):
    return 20 * np.log10(np.abs(np.fft.rfft(responses.numpy(), 4096)) + 1e-9)


def test_measured_responses_match_the_reference(shared, golden):
    folder = shared / "data" / "micirp"
    bank = load_impulse_responses(folder, resample=True)
    names = sorted(path.name for path in folder.glob("*.wav"))
    reference = golden("dir")
    there = [(index, name) for index, name in enumerate(reference["ir_name"]) if name in names]
    assert bank.shape == (len(names), 16_000) and bank.dtype == torch.float32
    assert len(there) >= 4
    for index, name in there:
        expected = torch.from_numpy(reference[f"ir_{index}"][0])
        response = bank[names.index(name)]
        torch.testing.assert_close(response[: len(expected)], expected, rtol=0, atol=1e-5)
        assert not response[len(expected) :].any()


def test_responses_are_sorted_by_name_and_padded_right(tmp_path):
    write_wav(tmp_path / "b.wav", [0.5, 0.25, 0.125])
    write_wav(tmp_path / "a.wav", [1.0, -0.5])
    (tmp_path / "readme.txt").write_text("not a response")
    expected = torch.tensor([[1.0, -0.5, 0.0], [0.5, 0.25, 0.125]])
    assert torch.equal(load_impulse_responses(tmp_path), expected)


def test_files_of_several_rates_are_resampled_each_from_its_own(tmp_path):
    for rate in (16_000, 44_100, 48_000):
        write_wav(tmp_path / f"{rate}.wav", np.hanning(rate // 10), rate)
    bank = load_impulse_responses(tmp_path, resample=True)
    assert bank.shape == (3, 3_200)
    # 0.1 s of the same bell, whose rate alone differs; resampling only rounds it at its ends
    torch.testing.assert_close(bank, bank[:1].expand(3, -1), rtol=0, atol=5e-3)


def test_another_rate_raises_and_says_how_to_mend(tmp_path):
    write_wav(tmp_path / "mic.wav", [1.0, 0.5], 44_100)
    with pytest.raises(ValueError, match=r"mic.wav' has 44100 Hz, expected 32000 Hz.*resample=True"):
        load_impulse_responses(tmp_path)


def test_rate_of_the_result_can_be_chosen(tmp_path):
    write_wav(tmp_path / "mic.wav", [1.0, 0.5], 44_100)
    assert torch.equal(load_impulse_responses(tmp_path, sampling_rate=44_100), torch.tensor([[1.0, 0.5]]))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.ones((8, 2)), "mic.wav' has 2 channels, expected mono"),
        (np.zeros(8), "mic.wav' is silent"),
        (np.zeros(0), "mic.wav' is silent"),
        ([1.0, np.nan], "mic.wav' holds NaN"),
        ([1.0, np.inf], "mic.wav' holds NaN or infinite"),
    ],
)
def test_unusable_response_raises(tmp_path, samples, message):
    write_wav(tmp_path / "mic.wav", samples)
    with pytest.raises(ValueError, match=message):
        load_impulse_responses(tmp_path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all" * 100])
def test_file_that_is_not_audio_raises(tmp_path, content):
    (tmp_path / "mic.wav").write_bytes(content)
    with pytest.raises(ValueError, match="mic.wav' cannot be read as audio"):
        load_impulse_responses(tmp_path)


def test_folder_without_responses_raises(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing else")
    with pytest.raises(ValueError, match="holds no impulse response"):
        load_impulse_responses(tmp_path)


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*microphones"):
        load_impulse_responses(tmp_path / "microphones")


def test_generated_bank_depends_on_the_seed_alone():
    bank = default_impulse_responses()
    assert bank.shape == (24, 512) and bank.dtype == torch.float32
    assert torch.equal(bank, default_impulse_responses())
    assert torch.equal(bank[:5], default_impulse_responses(count=5))
    assert not torch.equal(bank, default_impulse_responses(seed=1))


def test_generated_responses_keep_the_level_of_pink_noise():
    powers = 10 ** (magnitudes_db(default_impulse_responses(ranges=MicrophoneRanges(echo_p=0))) / 10)
    frequencies = np.fft.rfftfreq(4096, 1 / RATE)
    inside = (frequencies >= 200) & (frequencies <= 8_000)
    pink = inside / np.maximum(frequencies, 1)
    levels = 10 * np.log10((powers * pink).sum(axis=1) / pink.sum())
    np.testing.assert_allclose(levels, 0, atol=0.3)  # cutting to 512 taps smooths the curves a little


def test_generated_responses_differ_like_microphones():
    levels = magnitudes_db(default_impulse_responses())
    frequencies = np.fft.rfftfreq(4096, 1 / RATE)
    bands = [
        levels[:, (frequencies >= low) & (frequencies < 2 * low)].mean(axis=1) for low in (250, 500, 1000, 2000, 4000)
    ]
    assert all(1 < band.std() < 8 for band in bands)
    assert levels.max() < 20


def test_generated_responses_start_at_once_and_end_faded():
    bank = default_impulse_responses(ranges=MicrophoneRanges(echo_p=0)).numpy()
    energy = np.cumsum(bank**2, axis=1) / np.sum(bank**2, axis=1, keepdims=True)
    assert (np.argmax(energy > 0.5, axis=1) < 32).all()  # 1 ms: no delay, as of a minimum-phase filter
    assert (np.abs(bank[:, -8:]) < 1e-4).all()


@pytest.mark.parametrize("change", [{"count": 0}, {"taps": 0}])
def test_generated_bank_of_nothing_raises(change):
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        default_impulse_responses(**change)


def test_minimum_phase_filter_has_the_given_magnitude():
    frequencies = np.maximum(np.fft.rfftfreq(4096, 1 / RATE), 1)
    level = butterworth_db(200 / frequencies, 2) + butterworth_db(frequencies / 6_000, 3)
    response = minimum_phase_fir(level, 1024)
    reached = 20 * np.log10(np.abs(np.fft.rfft(response, 4096)))
    audible = level > -20  # below, the low cut rings longer than the taps
    np.testing.assert_allclose(reached[audible], level[audible], atol=0.1)
