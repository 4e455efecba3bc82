"""Cases of the front-end on batch tensors: DIR, log-mel, and all of it in the accelerator's seat."""

from collections.abc import Callable, Iterator

import torch
from plain import Augmentation, Frontend, LogMel, convolve_clip, mix_styles, normalise
from timing import Case
from workload import SAMPLING_RATE, Workload, check_close

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    AugmentationSettings,
    DeviceImpulseResponse,
    build_frontend,
)
from hf_ascdistill.transforms.spectrogram import mix_frequency_statistics
from hf_ascdistill.transforms.waveform import convolve, roll

SECTION = "Front-end"
ARCHITECTURES = {"cp-mobile": "CPM", "cp-resnet": "CPR"}
# The student's settings, but for Freq-MixStyle on every batch, so that all repetitions do the same work.
SETTINGS = AugmentationSettings(fms_p=1.0)
MEL_TOLERANCE, WAVEFORM_TOLERANCE = 1e-4, 1e-5  # between float32 implementations
CHAIN_TOLERANCE = 5e-3  # the rounding of a float32 convolution (4e-7 of the peak), as the logarithm shows it
LogMelOf = Callable[[torch.Tensor], torch.Tensor]
PEER_DIR = 2.5  # ms per clip
PEER_MEL = {"cp-mobile": (4.5,), "cp-resnet": ()}
PEER_FRONTEND = {"cp-mobile": (2.3, 4.5), "cp-resnet": ()}  # item with DIR and roll, mel


def plain_mel(extractor: AscFeatureExtractor) -> LogMel:
    """Returns the plain log-mel of the same settings."""
    return LogMel(extractor.n_fft, extractor.win_length, extractor.hop_length, extractor.n_mels)


def our_mel(extractor: AscFeatureExtractor, fmax_jitter: tuple[int, int] | None = None) -> LogMelOf:
    """Returns the package's waveform to log-mel, its front-end without augmentation."""
    frontend = AcousticFrontend(extractor, fmax_jitter=fmax_jitter)
    return lambda waveform: frontend({"waveform": waveform})["input_values"]


def plain_augmentation(work: Workload, device: torch.device | str) -> Augmentation:
    """Returns the plain augmentation of the same settings."""
    return Augmentation(
        [response.to(device) for response in work.plain_responses],
        dir_p=SETTINGS.dir_p,
        max_shift=SETTINGS.roll_max_shift,
        max_freq_mask=SETTINGS.max_freq_mask,
        fms_alpha=SETTINGS.fms_alpha,
        fms_p=SETTINGS.fms_p,
        fmax_jitter=SETTINGS.fmax_jitter,
    )


def our_frontend(work: Workload, extractor: AscFeatureExtractor) -> AcousticFrontend:
    """Returns the training front-end of the package."""
    return build_frontend(extractor, SETTINGS, impulse_responses=work.responses)


def plain_frontend(work: Workload, extractor: AscFeatureExtractor) -> Frontend:
    """Returns the plain training front-end."""
    return Frontend(plain_mel(extractor), plain_augmentation(work, work.device))


def frontend_cases(work: Workload) -> Iterator[Case]:
    """Yields the cases of waveforms that are in a batch already."""
    batch_size = len(work.waveform)
    # the first float32 window of a process is off by up to 8e-5 now and then; why, torch or MKL would have to say
    torch.hann_window(SAMPLING_RATE, device=work.device)
    _check_waveform_transforms(work)
    transform = DeviceImpulseResponse(work.responses, p=1.0)
    responses = work.plain_responses
    yield Case(
        SECTION,
        f"DIR of every clip, batch {batch_size}",
        batch_size,
        lambda: transform({"waveform": work.waveform}),
        lambda: torch.stack([convolve_clip(clip, responses[_draw(len(responses))]) for clip in work.waveform]),
        (PEER_DIR,),
    )
    for architecture in ARCHITECTURES:
        yield from _mel_cases(work, architecture)
    for architecture in ARCHITECTURES:
        yield _seat_case(work, architecture)


def _mel_cases(work: Workload, architecture: str) -> Iterator[Case]:
    extractor = AscFeatureExtractor.from_preset(architecture)
    mel, name = plain_mel(extractor), ARCHITECTURES[architecture]
    low, high = SETTINGS.fmax_jitter
    for fmax in (low, extractor.fmax, high):
        plain = normalise(mel(work.waveform, mel.bank(fmax, work.device)))
        ours = our_mel(extractor, (int(fmax), int(fmax)))
        check_close(f"mel {name}", ours(work.waveform), plain, tolerance=MEL_TOLERANCE)
    training, evaluation = our_mel(extractor, SETTINGS.fmax_jitter), our_mel(extractor)
    yield Case(
        SECTION,
        f"mel {name}, training, batch {len(work.waveform)}",
        len(work.waveform),
        lambda: training(work.waveform),
        lambda: normalise(mel(work.waveform, mel.bank(low + _draw(high - low + 1), work.device))),
        PEER_MEL[architecture],
    )
    clip, bank = work.waveform[:1], mel.bank(extractor.fmax, work.device)
    yield Case(
        SECTION,
        f"mel {name}, evaluation, batch 1",
        1,
        lambda: evaluation(clip),
        lambda: normalise(mel(clip, bank)),
    )


def _seat_case(work: Workload, architecture: str) -> Case:
    extractor = AscFeatureExtractor.from_preset(architecture)
    ours, plain = our_frontend(work, extractor), plain_frontend(work, extractor)
    _check_seat(work, extractor)
    return Case(
        SECTION,
        f"all of it to mel ({ARCHITECTURES[architecture]}), accelerator's seat, batch {len(work.waveform)}",
        len(work.waveform),
        lambda: ours({"waveform": work.waveform}),
        lambda: plain(work.waveform),
        PEER_FRONTEND[architecture],
    )


def _draw(count: int) -> int:
    return int(torch.randint(count, ()))


def _check_waveform_transforms(work: Workload) -> None:
    picks = torch.arange(len(work.waveform)) % len(work.responses)
    ours = convolve(work.waveform, work.responses[picks].to(work.device))
    responses = [work.plain_responses[pick] for pick in picks]
    plain = torch.stack([convolve_clip(*pair) for pair in zip(work.waveform, responses, strict=True)])
    loudest = max(1.0, float(plain.abs().max()))
    check_close("DIR", ours, plain, tolerance=WAVEFORM_TOLERANCE * loudest)
    shifts = torch.randint(-SETTINGS.roll_max_shift, SETTINGS.roll_max_shift + 1, (len(work.waveform),))
    rolled = [torch.roll(clip, int(shift)) for clip, shift in zip(work.waveform, shifts, strict=True)]
    check_close("roll", roll(work.waveform, shifts.to(work.device)), torch.stack(rolled), tolerance=0.0)


def _check_seat(work: Workload, extractor: AscFeatureExtractor) -> None:
    """Compares Freq-MixStyle on the same draws, and the whole chain with nothing left to chance."""
    mels, clips = extractor.log_mel(work.waveform), len(work.waveform)
    draws = torch.rand(clips, device=work.device), torch.randperm(clips).to(work.device)
    check_close(
        "Freq-MixStyle", mix_frequency_statistics(mels, *draws), mix_styles(mels, *draws), tolerance=MEL_TOLERANCE
    )
    fmax = int(extractor.fmax)
    settings = AugmentationSettings("dir", dir_p=1.0, roll_max_shift=0, max_freq_mask=0, fmax_jitter=(fmax, fmax))
    ours = build_frontend(extractor, settings, impulse_responses=work.responses[:1])
    augmentation = Augmentation(
        work.plain_responses[:1], dir_p=1.0, max_shift=0, max_freq_mask=0, fms_p=0.0, fmax_jitter=(fmax, fmax)
    )
    plain = Frontend(plain_mel(extractor), augmentation)
    both = ours({"waveform": work.waveform})["input_values"], plain(work.waveform)
    check_close("front-end", *both, tolerance=CHAIN_TOLERANCE)


__all__ = [
    "ARCHITECTURES",
    "SETTINGS",
    "frontend_cases",
    "our_frontend",
    "our_mel",
    "plain_augmentation",
    "plain_frontend",
    "plain_mel",
]
