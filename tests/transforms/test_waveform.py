"""Device impulse responses and circular shifts."""

import pickle

import numpy as np
import pytest
import torch

from hf_ascdistill import DeviceImpulseResponse, TimeRoll
from hf_ascdistill.transforms import waveform as waveform_transforms
from hf_ascdistill.transforms.waveform import convolve, roll

CLIPS, SAMPLES = 64, 400
both_ways = pytest.mark.parametrize("native_kernels", [False, True])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "waveform": torch.randn(CLIPS, SAMPLES, generator=generator),
        "labels": torch.arange(CLIPS) % 10,
        "device_ids": torch.arange(CLIPS) % 4,
        "example_id": [f"clip-{index}" for index in range(CLIPS)],
    }


@pytest.fixture
def bank():
    return torch.randn(5, 60, generator=torch.Generator().manual_seed(1))


def candidates(waveform, bank):
    """Every clip through every response, in double precision: (n, B, T)."""
    return torch.stack(
        [torch.from_numpy(np.stack([np.convolve(clip, ir)[:SAMPLES] for clip in waveform.double().numpy()]))
         for ir in bank.double().numpy()]
    )  # fmt: skip


def choices(before, after, bank):
    """The response that each clip got; -1 for an untouched one. Raises where it is neither."""
    is_same = (before == after).all(dim=1)
    distances = (candidates(before, bank) - after).abs().amax(dim=2)
    nearest, index = distances.min(dim=0)
    assert (is_same | (nearest < 1e-4)).all()
    return torch.where(is_same, -1, index)


def test_convolution_is_the_published_one(golden):
    published = golden("dir")
    responses = [torch.from_numpy(published[f"ir_{index}"][0]) for index in range(6)]
    responses = torch.nn.utils.rnn.pad_sequence(responses, batch_first=True)
    convolved = convolve(torch.from_numpy(published["wav"]), responses)
    np.testing.assert_allclose(convolved.numpy(), published["out"], atol=1e-5, rtol=0)


@both_ways
def test_the_transform_convolves_as_published(golden, native_kernels):
    published = golden("dir")
    for index in range(6):
        responses = torch.from_numpy(published[f"ir_{index}"])
        transform = DeviceImpulseResponse(responses, p=1.0, native_kernels=native_kernels)
        convolved = transform({"waveform": torch.from_numpy(published["wav"][index : index + 1])})["waveform"]
        np.testing.assert_allclose(convolved.numpy(), published["out"][index : index + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("samples", "taps"), [(1, 1), (7, 3), (50, 50), (20, 90), (401, 64)])
def test_convolution_is_linear_and_keeps_the_length(samples, taps):
    generator = np.random.default_rng(0)
    clips, responses = generator.normal(size=(3, samples)), generator.normal(size=(3, taps))
    expected = np.stack([np.convolve(clip, ir)[:samples] for clip, ir in zip(clips, responses, strict=True)])
    result = convolve(torch.from_numpy(clips).float(), torch.from_numpy(responses).float())
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-4, rtol=0)


def test_one_response_serves_all_clips(batch, bank):
    one = convolve(batch["waveform"], bank[:1])
    torch.testing.assert_close(one, convolve(batch["waveform"], bank[:1].expand(CLIPS, -1)))


@pytest.mark.parametrize("shape", [(3, 10), (10,), (1, 2, 10)])
def test_responses_that_do_not_fit_the_clips_raise(shape):
    with pytest.raises(ValueError, match=r"\(2, 100\)"):
        convolve(torch.zeros(2, 100), torch.zeros(shape))


@both_ways
def test_each_chosen_clip_gets_one_response_of_the_bank(batch, bank, native_kernels):
    torch.manual_seed(0)
    transformed = DeviceImpulseResponse(bank, p=0.6, native_kernels=native_kernels)(batch)["waveform"]
    chosen = choices(batch["waveform"], transformed, bank)
    share = (chosen >= 0).float().mean().item()
    assert 0.4 < share < 0.8
    assert set(chosen.tolist()) == {-1, 0, 1, 2, 3, 4}


def test_native_kernels_choose_the_same_and_can_be_missing(batch, bank, monkeypatch):
    results = []
    for native_kernels, is_available in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(waveform_transforms, "can_use_kernels", lambda is_available=is_available: is_available)
        torch.manual_seed(0)
        transform = DeviceImpulseResponse(bank, p=0.6, native_kernels=native_kernels)
        results.append(transform(batch)["waveform"])
    torch.testing.assert_close(results[0], results[1])
    assert torch.equal(results[1], results[2])


def test_clips_that_want_a_gradient_get_it(batch, bank):
    clips = batch["waveform"][:8].requires_grad_()
    transformed = DeviceImpulseResponse(bank[:1], p=1.0)({"waveform": clips})["waveform"]
    transformed[:, -1].sum().backward()
    torch.testing.assert_close(clips.grad[0, -60:], bank[0].flip(0))


def test_chunks_do_not_change_the_convolution(batch, bank, monkeypatch):
    results = []
    for plan in ((1, 1), (7, 1), (64, 1), (len(batch["waveform"]), 5)):  # the last one as on a GPU
        monkeypatch.setattr(waveform_transforms, "_chunk_and_multiple", lambda waveform, plan=plan: plan)
        torch.manual_seed(0)
        results.append(DeviceImpulseResponse(bank, p=0.6, native_kernels=False)(batch)["waveform"])
        torch.testing.assert_close(results[-1], results[0])


def test_only_the_named_devices_are_augmented(batch, bank):
    transformed = DeviceImpulseResponse(bank, p=1.0, device_ids_augmented=(0, 2))(batch)["waveform"]
    chosen = choices(batch["waveform"], transformed, bank) >= 0
    assert torch.equal(chosen, batch["device_ids"] % 2 == 0)


def test_named_devices_do_not_move_the_draws(batch, bank):
    torch.manual_seed(0)
    everywhere = DeviceImpulseResponse(bank, p=0.6)(batch)["waveform"]
    torch.manual_seed(0)
    some = DeviceImpulseResponse(bank, p=0.6, device_ids_augmented=(1,))(batch)["waveform"]
    rows = batch["device_ids"] == 1
    torch.testing.assert_close(some[rows], everywhere[rows])


def test_named_devices_without_device_ids_raise(batch, bank):
    del batch["device_ids"]
    with pytest.raises(ValueError, match="no device_ids"):
        DeviceImpulseResponse(bank, p=1.0, device_ids_augmented=(0,))(batch)
    DeviceImpulseResponse(bank, p=1.0)(batch)


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_other_columns_and_the_input_stay(batch, bank, probability):
    before = batch["waveform"].clone()
    transformed = DeviceImpulseResponse(bank, p=probability)(batch)
    assert torch.equal(batch["waveform"], before)
    assert transformed["waveform"].dtype == torch.float32 and transformed["waveform"].shape == before.shape
    assert all(transformed[name] is batch[name] for name in ("labels", "device_ids", "example_id"))


def test_a_batch_of_which_no_clip_is_chosen_stays(batch, bank):
    assert torch.equal(DeviceImpulseResponse(bank, p=1e-9)(batch)["waveform"], batch["waveform"])


def test_half_precision_clips_are_convolved_in_float32(batch, bank):
    clips = batch["waveform"].bfloat16()
    transformed = DeviceImpulseResponse(bank[:1], p=1.0)({"waveform": clips})["waveform"]
    torch.testing.assert_close(transformed, convolve(clips.float(), bank[:1]))


def test_the_same_seed_gives_the_same_clips(batch, bank):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(DeviceImpulseResponse(bank, p=0.5)(batch)["waveform"])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_two_banks_are_not_confused(batch, bank):
    for responses in (bank[:1].clone(), bank[1:2].clone()):
        transformed = DeviceImpulseResponse(responses, p=1.0)(batch)["waveform"]
        torch.testing.assert_close(transformed, convolve(batch["waveform"], responses))


def test_a_pickle_holds_the_bank_and_no_spectra(batch, bank):
    transform = DeviceImpulseResponse(bank, p=1.0)
    size = len(pickle.dumps(transform))
    transform(batch)
    assert len(pickle.dumps(transform)) == size < 2 * bank.numel() * bank.element_size()
    torch.manual_seed(0)
    expected = transform(batch)["waveform"]
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(batch)["waveform"], expected)


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (torch.zeros(10), r"\(10,\)"),
        (torch.zeros(0, 10), r"\(0, 10\)"),
        (torch.zeros(3, 10, dtype=torch.float64), "float64"),
        (torch.full((3, 10), torch.nan), "NaN"),
    ],
)
def test_what_is_no_bank_raises(responses, message):
    with pytest.raises(ValueError, match=f"impulse_responses.*{message}"):
        DeviceImpulseResponse(responses)


@pytest.mark.parametrize("setting", [{"p": -0.1}, {"p": 1.1}, {"device_ids_augmented": ()}])
def test_a_setting_of_the_responses_out_of_range_raises(bank, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        DeviceImpulseResponse(bank, **setting)


@pytest.mark.parametrize("transform", [DeviceImpulseResponse(torch.ones(1, 3), p=1.0), TimeRoll(5)])
@pytest.mark.parametrize("shape", [(100,), (2, 1, 100)])
def test_a_waveform_that_is_no_batch_raises(transform, shape):
    with pytest.raises(ValueError, match=r"waveform.*\(B, T\)"):
        transform({"waveform": torch.zeros(shape)})


@pytest.mark.parametrize("transform", [DeviceImpulseResponse(torch.ones(1, 3), p=0.0), TimeRoll(0)])
def test_no_augmentation_is_the_identity(batch, transform):
    state = torch.get_rng_state()
    assert transform(batch) is batch
    assert torch.equal(torch.get_rng_state(), state)


def test_roll_shifts_as_torch_does(batch):
    shifts = torch.arange(CLIPS) * 37 - 1000  # beyond a clip's length, too
    expected = [torch.roll(clip, int(shift)) for clip, shift in zip(batch["waveform"], shifts, strict=True)]
    assert torch.equal(roll(batch["waveform"], shifts), torch.stack(expected))
    waveform = batch["waveform"].clone().requires_grad_()  # as on an accelerator, and with a gradient
    assert torch.equal(roll(waveform, shifts), torch.stack(expected))
    weight = torch.randn_like(waveform)
    (roll(waveform, shifts) * weight).sum().backward()
    assert torch.equal(roll(waveform.grad, shifts), weight)


def test_shifts_are_uniform_and_include_both_ends():
    clips = torch.arange(50.0).repeat(4000, 1)
    torch.manual_seed(0)
    rolled = TimeRoll(2)({"waveform": clips})["waveform"]
    counts = torch.bincount((-rolled[:, 0] + 2).remainder(50).long(), minlength=5)
    assert counts.sum() == 4000 and len(counts) == 5
    assert (counts - 800).abs().max() < 120  # 4.7 standard deviations


def test_roll_keeps_the_other_columns_and_the_input(batch):
    before = batch["waveform"].clone()
    rolled = TimeRoll(100)(batch)
    assert torch.equal(batch["waveform"], before) and rolled["labels"] is batch["labels"]
    assert rolled["waveform"].is_contiguous() and not torch.equal(rolled["waveform"], before)


def test_a_negative_shift_raises():
    with pytest.raises(ValueError, match="max_shift is -1"):
        TimeRoll(-1)
