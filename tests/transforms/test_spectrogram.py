"""Masks and Freq-MixStyle."""

import numpy as np
import pytest
import torch

from hf_ascdistill import FreqMixStyle, SpectrogramMask
from hf_ascdistill.transforms.spectrogram import draw_spans, mix_frequency_statistics

CLIPS, MELS, FRAMES = 8, 60, 30


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_values": torch.randn(CLIPS, MELS, FRAMES, generator=generator),
        "labels": torch.arange(CLIPS),
        "teacher_logits": torch.randn(CLIPS, 10, generator=generator),
    }


@pytest.mark.parametrize("alpha", ["0.3", "0.4"])
def test_mixed_statistics_are_the_published_ones(alpha, golden):
    published = golden("freq_mixstyle")
    lam, permutation = (torch.from_numpy(published[f"{name}_{alpha}"]) for name in ("lam", "perm"))
    mixed = mix_frequency_statistics(torch.from_numpy(published["x"])[:, 0], lam.flatten(), permutation)
    np.testing.assert_allclose(mixed.numpy(), published[f"y_{alpha}"][:, 0], atol=1e-5, rtol=0)


def test_the_gradient_through_mixed_statistics_is_the_published_one(golden):
    published = golden("freq_mixstyle")
    spectrograms = torch.from_numpy(published["x"])[:, 0].requires_grad_()
    lam, permutation = (torch.from_numpy(published[f"{name}_0.3"]) for name in ("lam", "perm"))
    mix_frequency_statistics(spectrograms, lam.flatten(), permutation).square().sum().backward()
    np.testing.assert_allclose(spectrograms.grad.numpy(), published["grad_sumsq_0.3"][:, 0], atol=1e-5, rtol=1e-5)


def test_a_share_of_one_keeps_the_clip(batch):
    spectrograms = batch["input_values"]
    mixed = mix_frequency_statistics(spectrograms, torch.ones(CLIPS), torch.arange(CLIPS).flip(0))
    torch.testing.assert_close(mixed, spectrograms, atol=1e-5, rtol=0)


def test_a_share_of_zero_takes_the_other_clips_statistics(batch):
    spectrograms, permutation = batch["input_values"], torch.arange(CLIPS).roll(1)
    mixed = mix_frequency_statistics(spectrograms, torch.zeros(CLIPS), permutation)
    torch.testing.assert_close(mixed.mean(-1), spectrograms.mean(-1)[permutation], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.std(-1), spectrograms.std(-1)[permutation], atol=1e-5, rtol=1e-5)


def test_constant_mel_bins_stay_finite():
    mixed = mix_frequency_statistics(torch.zeros(2, 3, 4), torch.tensor([0.2, 0.7]), torch.tensor([1, 0]))
    assert torch.equal(mixed, torch.zeros(2, 3, 4))


def test_a_single_frame_raises():
    with pytest.raises(ValueError, match="1 frame"):
        mix_frequency_statistics(torch.zeros(2, 3, 1), torch.ones(2), torch.tensor([1, 0]))


def test_one_coin_decides_for_the_whole_batch(batch):
    torch.manual_seed(0)
    results = [FreqMixStyle(p=0.4)(batch) for _ in range(400)]
    mixed = [result for result in results if result is not batch]
    assert 0.3 < len(mixed) / len(results) < 0.5  # 4 standard deviations
    differences = (mixed[0]["input_values"] - batch["input_values"]).abs().amax(dim=(1, 2))
    assert (differences > 1e-3).sum() >= CLIPS - 3  # a clip may be paired with itself


def test_mixing_changes_no_other_column_and_not_the_input(batch):
    before = batch["input_values"].clone()
    mixed = FreqMixStyle(p=1.0)(batch)
    assert torch.equal(batch["input_values"], before) and not torch.equal(mixed["input_values"], before)
    assert mixed["labels"] is batch["labels"] and mixed["teacher_logits"] is batch["teacher_logits"]


def test_the_mixing_coefficient_follows_a_beta_distribution():
    # two clips of mean 0 and 1 and no spread: the first one's new mean is 1 - lam, or 0 where it is paired with itself
    spectrograms = torch.stack([torch.zeros(1, 4), torch.ones(1, 4)])
    torch.manual_seed(0)
    means = [FreqMixStyle(0.3, 1.0)({"input_values": spectrograms})["input_values"][0].mean() for _ in range(3000)]
    shares = torch.stack([mean for mean in means if mean != 0])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.04)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.012)  # of Beta(0.3, 0.3)


def test_a_batch_of_one_clip_cannot_be_mixed(batch):
    one = {"input_values": batch["input_values"][:1]}
    torch.manual_seed(0)
    for _ in range(5):  # whatever the coin says
        with pytest.raises(ValueError, match="one clip.*dataloader_drop_last"):
            FreqMixStyle(p=0.1)(one)
    assert FreqMixStyle(p=0.0)(one) is one


@pytest.mark.parametrize("transform", [FreqMixStyle(p=0.0), SpectrogramMask(0, 0)])
def test_no_augmentation_is_the_identity(batch, transform):
    state = torch.get_rng_state()
    assert transform(batch) is batch
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("transform", [FreqMixStyle(p=1.0), SpectrogramMask(5, 5), SpectrogramMask(5, 5, True)])
def test_the_same_seed_gives_the_same_spectrograms(batch, transform):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(transform(batch)["input_values"])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def covered(batch, transform):
    before = batch["input_values"].clone()
    masked = transform(batch)
    assert torch.equal(batch["input_values"], before) and masked["labels"] is batch["labels"]
    is_covered = masked["input_values"] != before
    assert torch.equal(masked["input_values"][~is_covered], before[~is_covered])
    assert (masked["input_values"][is_covered] == torch.tensor(transform.fill_value)).all()
    return is_covered


def test_one_band_covers_the_same_bins_of_every_clip_and_frame(batch):
    torch.manual_seed(0)
    is_covered = covered(batch, SpectrogramMask(max_freq=48))
    assert (is_covered == is_covered[:1, :, :1]).all()
    assert is_covered.any() and not is_covered.all()


def test_one_stretch_covers_the_same_frames_of_every_clip_and_bin(batch):
    torch.manual_seed(0)
    is_covered = covered(batch, SpectrogramMask(max_freq=0, max_time=20, fill_value=-2.0))
    assert (is_covered == is_covered[:1, :1, :]).all()
    assert is_covered.any() and not is_covered.all()


def test_masks_per_clip_differ(batch):
    torch.manual_seed(0)
    is_covered = covered(batch, SpectrogramMask(max_freq=48, per_clip=True))
    assert len({tuple(row) for row in is_covered[:, :, 0].tolist()}) > CLIPS // 2


def test_the_fill_value_is_the_extractors(batch):
    from hf_ascdistill import AscFeatureExtractor

    assert SpectrogramMask().fill_value == pytest.approx(AscFeatureExtractor().mask_value)


def test_spans_are_whole_narrower_than_the_bound_and_anywhere():
    torch.manual_seed(0)
    spans = draw_spans(20_000, 12, max_width=4)
    widths, edges = spans.sum(dim=1), spans.int().diff(dim=1).abs().sum(dim=1)
    assert (edges <= 2).all() and (spans[:, [0, -1]].sum(dim=1) + edges <= 2).all()  # one piece
    counts = torch.bincount(widths, minlength=4)
    assert len(counts) == 4 and (counts - 5000).abs().max() < 300  # 0 to 3, uniform
    starts = spans[widths == 3].int().argmax(dim=1)
    assert starts.min() == 0 and starts.max() == 8  # floor(U * 9): the last bin is never covered


@pytest.mark.parametrize("transform", [SpectrogramMask(MELS + 1), SpectrogramMask(0, FRAMES + 1)])
def test_a_mask_larger_than_the_spectrogram_raises(batch, transform):
    with pytest.raises(ValueError, match="60 x 30"):
        transform(batch)


@pytest.mark.parametrize("transform", [SpectrogramMask(5), FreqMixStyle(p=1.0)])
def test_spectrograms_that_are_no_batch_raise(transform):
    with pytest.raises(ValueError, match=r"input_values.*\(B, M, F\)"):
        transform({"input_values": torch.zeros(60, 30)})


@pytest.mark.parametrize("bounds", [{"max_freq": -1}, {"max_time": -1}])
def test_a_negative_bound_raises(bounds):
    with pytest.raises(ValueError, match="-1"):
        SpectrogramMask(**bounds)


@pytest.mark.parametrize("setting", [{"alpha": 0.0}, {"p": -0.1}, {"p": 1.1}, {"alpha": float("nan")}])
def test_a_setting_of_freq_mixstyle_out_of_range_raises(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        FreqMixStyle(**setting)
