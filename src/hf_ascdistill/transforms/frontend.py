"""The acoustic front-end: waveform transforms, log-mel, spectrogram transforms, in a dataset or on an accelerator."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..data.columns import DEVICE_IDS, EXAMPLE_ID, INPUT_VALUES, LABELS, TEACHER_LOGITS, WAVEFORM
from ..models.feature_extraction_asc import AscFeatureExtractor
from ..native.kernels import can_use_kernels
from ..native.log_mel import can_transform, log_mel
from .spectrogram import FreqMixStyle, SpectrogramMask
from .waveform import DeviceImpulseResponse, TimeRoll

Transform = Callable[[dict[str, Any]], dict[str, Any]]

DEVICE_GENERALIZATIONS = ("none", "dir", "fms", "dirfms")
FMAX_JITTER = (15_001, 16_000)  # Hz, both inclusive
_CLIPS_NAMED = 3  # in an error


@dataclass(frozen=True)
class AugmentationSettings:
    """Parameters that control device generalisation and the other augmentations.

    Args:
        device_generalization (`str`, *optional*, defaults to `"dirfms"`): the switch of Table 2: `"none"`, `"dir"`,
            `"fms"` or `"dirfms"`. It leaves roll, masks and jitter alone.
        dir_p (`float`, *optional*, defaults to 0.6): share of the clips that DIR convolves.
        dir_devices (`tuple[int, ...]`, *optional*): ids of the devices whose clips DIR may convolve; unset: all.
        fms_alpha (`float`, *optional*, defaults to 0.3): parameter of Freq-MixStyle's Beta distribution.
        fms_p (`float`, *optional*, defaults to 0.4): share of the batches that Freq-MixStyle mixes.
        roll_max_shift (`int`, *optional*, defaults to 4000): largest circular shift, samples at 32 kHz.
        max_freq_mask (`int`, *optional*, defaults to 48): frequency masks are narrower than this many mel bins.
        max_time_mask (`int`, *optional*, defaults to 0): time masks are shorter than this many frames.
        mask_per_clip (`bool`, *optional*, defaults to `False`): draw masks for each clip, not for the batch.
        fmax_jitter (`tuple[int, int]`, *optional*, defaults to `(15001, 16000)`): the mel bank's upper edge is drawn
            from this range of Hz, both ends included, for each batch; `None`: the evaluation's edge.

    Raises:
        ValueError: the switch is unknown.

    The defaults are those of the paper's student; `PAPER_AUGMENTATION` has the teachers' (section 3.2).
    """

    device_generalization: str = field(default="dirfms", metadata={"help": "none, dir, fms or dirfms"})
    dir_p: float = field(default=0.6, metadata={"help": "share of the clips that DIR convolves"})
    dir_devices: tuple[int, ...] | None = field(default=None, metadata={"help": "device ids of DIR; unset: all"})
    fms_alpha: float = field(default=0.3, metadata={"help": "Beta(alpha, alpha) of Freq-MixStyle"})
    fms_p: float = field(default=0.4, metadata={"help": "share of the batches that Freq-MixStyle mixes"})
    roll_max_shift: int = field(default=4000, metadata={"help": "largest circular shift in samples"})
    max_freq_mask: int = field(default=48, metadata={"help": "upper bound of the frequency mask, mel bins"})
    max_time_mask: int = field(default=0, metadata={"help": "upper bound of the time mask, frames"})
    mask_per_clip: bool = field(default=False, metadata={"help": "one mask a clip instead of one a batch"})
    fmax_jitter: tuple[int, int] | None = field(default=FMAX_JITTER, metadata={"help": "range of fmax, Hz"})

    def __post_init__(self) -> None:
        if self.device_generalization not in DEVICE_GENERALIZATIONS:
            raise ValueError(
                f"device_generalization is {self.device_generalization!r}; expected one of "
                f"{', '.join(DEVICE_GENERALIZATIONS)}."
            )


PAPER_AUGMENTATION: dict[str, AugmentationSettings] = {
    "student": AugmentationSettings(),
    "cp-resnet": AugmentationSettings(fms_p=0.8, dir_p=0.4),
    "cp-mobile": AugmentationSettings(fms_p=0.8, dir_p=0.4),
    "passt": AugmentationSettings(fms_alpha=0.4, roll_max_shift=10_000, max_time_mask=20),
}


@dataclass(frozen=True, eq=False)
class AcousticFrontend:
    """Turns a batch of waveforms into log-mel spectrograms, augmented on the way.

    It has two seats with the same results: [`with_frontend`] puts it behind a dataset, where it runs on CPU workers;
    `DistillationTrainer(frontend=...)` runs it on the accelerator.

    Args:
        extractor ([`AscFeatureExtractor`]): waveform to log-mel.
        waveform_transforms (`tuple`, *optional*): transforms of `waveform`, in order.
        spectrogram_transforms (`tuple`, *optional*): transforms of `input_values`, in order.
        fmax_jitter (`tuple[int, int]`, *optional*): range of the mel bank's upper edge, Hz, both ends included; one
            draw per batch. Unset: the extractor's own edge.
        native_kernels (`bool`, *optional*, defaults to `True`): on a CPU, make log-mels in kernels that GCC compiles
            at the first use: several times as fast, the same to rounding. Without GCC a message says so, and torch
            does it, as it does for an `n_fft` that is not twice a product of 2 and 3.

    Raises:
        ValueError: `fmax_jitter` is not a range below half the sampling rate.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import AcousticFrontend, AscFeatureExtractor
    >>> frontend = AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))
    >>> frontend({"waveform": torch.zeros(2, 32_000)})["input_values"].shape
    torch.Size([2, 256, 64])
    ```
    """

    extractor: AscFeatureExtractor
    waveform_transforms: tuple[Transform, ...] = ()
    spectrogram_transforms: tuple[Transform, ...] = ()
    fmax_jitter: tuple[int, int] | None = None
    native_kernels: bool = True

    def __post_init__(self) -> None:
        if self.fmax_jitter is None:
            return
        low, high = self.fmax_jitter
        if not self.extractor.fmin < low <= high <= self.extractor.sampling_rate / 2:
            raise ValueError(
                f"fmax_jitter is {self.fmax_jitter}; expected (lowest, highest) in Hz, above fmin and at most half "
                f"the sampling rate of {self.extractor.sampling_rate} Hz."
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replaces `waveform` by `input_values`.

        Args:
            batch (`dict`): `waveform`, float32 `(B, T)` or a list of clips of one length, and any other columns.

        Returns:
            `dict`: `input_values`, float32 `(B, M, F)`; `labels`, `device_ids` and `teacher_logits` as tensors where
            they are there; other columns as they are.

        Raises:
            ValueError: there is no waveform, or the clips differ in length.
        """
        return self.to_spectrograms(self.augment_waveforms(batch))

    def augment_waveforms(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Does the first half: the waveform transforms, on columns that have become tensors."""
        batch = _as_tensors(batch)
        for transform in self.waveform_transforms:
            batch = transform(batch)
        return batch

    def to_spectrograms(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Does the second half: log-mels of augmented waveforms, and the spectrogram transforms."""
        input_values = self._log_mel(batch[WAVEFORM], self._draw_fmax())
        batch = {name: column for name, column in batch.items() if name != WAVEFORM} | {INPUT_VALUES: input_values}
        for transform in self.spectrogram_transforms:
            batch = transform(batch)
        return batch

    def evaluation(self) -> "AcousticFrontend":
        """Returns the evaluation twin: the same extractor, no augmentation, no randomness."""
        return AcousticFrontend(self.extractor, native_kernels=self.native_kernels)

    def with_extractor(self, extractor: AscFeatureExtractor) -> "AcousticFrontend":
        """Returns the same augmentation around another extractor: masks bound the same share of mels and seconds.

        Args:
            extractor ([`AscFeatureExtractor`]): waveform to log-mel.
        """
        mels = extractor.n_mels / self.extractor.n_mels
        frames = self.extractor.hop_length / extractor.hop_length
        transforms = tuple(
            transform.scaled(mels, frames, fill_value=extractor.mask_value)
            if isinstance(transform, SpectrogramMask)
            else transform
            for transform in self.spectrogram_transforms
        )
        return replace(self, extractor=extractor, spectrogram_transforms=transforms)

    def with_native_kernels(self, is_on: bool) -> "AcousticFrontend":
        """Returns the same front-end that uses the CPU's native kernels or does without them.

        Args:
            is_on (`bool`): whether it uses them.
        """
        transforms = tuple(
            replace(transform, native_kernels=is_on) if isinstance(transform, DeviceImpulseResponse) else transform
            for transform in self.waveform_transforms
        )
        return replace(self, waveform_transforms=transforms, native_kernels=is_on)

    def _log_mel(self, waveform: torch.Tensor, fmax: int | None) -> torch.Tensor:
        if self.native_kernels and self._is_native(waveform) and can_use_kernels():
            return log_mel(self.extractor, waveform, fmax=fmax)
        return self.extractor.log_mel(waveform, fmax=fmax)

    def _is_native(self, waveform: torch.Tensor) -> bool:
        """Returns whether the kernel can do this; what is no batch of clips, the extractor refuses."""
        n_fft, is_usual = self.extractor.n_fft, type(self.extractor).log_mel is AscFeatureExtractor.log_mel
        is_on_cpu = waveform.device.type == "cpu" and waveform.dtype == torch.float32
        return is_on_cpu and is_usual and can_transform(n_fft) and waveform.ndim == 2 and waveform.shape[1] >= n_fft

    def _draw_fmax(self) -> int | None:
        if self.fmax_jitter is None:
            return None
        low, high = self.fmax_jitter
        return int(torch.randint(low, high + 1, ()))


@dataclass(frozen=True)
class ComposeTransforms:
    """Applies transforms of a batch in order.

    Args:
        transforms (`tuple`): callables, dict in, dict out.
    """

    transforms: tuple[Transform, ...]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Applies the transforms to a batch."""
        for transform in self.transforms:
            batch = transform(batch)
        return batch


def with_frontend(dataset, frontend: AcousticFrontend):
    """Puts a front-end behind a dataset, after the transform that the dataset already has: the CPU workers' seat.

    Read whole batches (a `DataLoader` or `Trainer` does): Freq-MixStyle mixes the clips that are read together.

    Args:
        dataset (`datasets.Dataset`): rows yield `waveform`.
        frontend ([`AcousticFrontend`]): the front-end.

    Returns:
        `datasets.Dataset`: the same rows, yielding `input_values` instead of `waveform`.
    """
    present = dataset.format["format_kwargs"].get("transform")
    transform = frontend if present is None else ComposeTransforms((present, frontend))
    return dataset.with_transform(
        transform, columns=dataset.format["columns"], output_all_columns=dataset.format["output_all_columns"]
    )


def build_frontend(
    extractor: AscFeatureExtractor,
    settings: AugmentationSettings | None = None,
    *,
    impulse_responses: torch.Tensor | None = None,
) -> AcousticFrontend:
    """Builds the augmenting front-end of the paper: DIR, roll, log-mel with jitter, masks, Freq-MixStyle.

    Args:
        extractor ([`AscFeatureExtractor`]): waveform to log-mel.
        settings ([`AugmentationSettings`], *optional*): what is augmented and how much; unset: the paper's student.
        impulse_responses (`torch.Tensor`, *optional*): bank of DIR, float32 `(n, taps)`; needed with `"dir"` and
            `"dirfms"`.

    Raises:
        ValueError: DIR is asked for without impulse responses, or a setting is out of range.
    """
    settings = AugmentationSettings() if settings is None else settings
    waveform_transforms: list[Transform] = []
    if "dir" in settings.device_generalization:
        if impulse_responses is None:
            raise ValueError(
                f"device_generalization is {settings.device_generalization!r} but there are no impulse_responses; "
                "pass load_impulse_responses(folder) or default_impulse_responses(), or choose 'fms' or 'none'."
            )
        waveform_transforms.append(DeviceImpulseResponse(impulse_responses, settings.dir_p, settings.dir_devices))
    waveform_transforms.append(TimeRoll(settings.roll_max_shift))
    spectrogram_transforms: list[Transform] = [
        SpectrogramMask(
            settings.max_freq_mask, settings.max_time_mask, settings.mask_per_clip, fill_value=extractor.mask_value
        )
    ]
    if "fms" in settings.device_generalization:
        spectrogram_transforms.append(FreqMixStyle(settings.fms_alpha, settings.fms_p))
    return AcousticFrontend(
        extractor, tuple(waveform_transforms), tuple(spectrogram_transforms), fmax_jitter=settings.fmax_jitter
    )


def _as_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a new batch whose numeric columns are tensors; a dataset hands lists or arrays."""
    if not len(batch.get(WAVEFORM, ())):
        raise ValueError(
            f"the batch has no {WAVEFORM}; its columns are {', '.join(batch)}. Give the dataset a transform that "
            "reads the audio, and only one front-end."
        )
    batch = {**batch, WAVEFORM: _as_waveform(batch)}
    for name, dtype in ((LABELS, torch.int64), (DEVICE_IDS, torch.int64), (TEACHER_LOGITS, torch.float32)):
        if name in batch and not isinstance(batch[name], torch.Tensor):
            batch[name] = torch.as_tensor(np.asarray(batch[name]), dtype=dtype)
    return batch


def _as_waveform(batch: dict[str, Any]) -> torch.Tensor:
    waveform = batch[WAVEFORM]
    if isinstance(waveform, torch.Tensor):
        return waveform
    clips = [np.asarray(clip, dtype=np.float32) for clip in waveform]
    usual, _ = Counter(clip.shape for clip in clips).most_common(1)[0]
    odd = [index for index, clip in enumerate(clips) if clip.shape != usual]
    if odd:
        names = batch.get(EXAMPLE_ID, range(len(clips)))
        some = ", ".join(f"{names[index]} ({len(clips[index])} samples)" for index in odd[:_CLIPS_NAMED])
        raise ValueError(
            f"{len(odd)} of the {len(clips)} clips of a batch differ from the others' length, {usual[0]} samples: "
            f"{some}; cut the recordings into clips of one length with shifted_crops."
        )
    return torch.from_numpy(np.stack(clips))


__all__ = [
    "DEVICE_GENERALIZATIONS",
    "FMAX_JITTER",
    "PAPER_AUGMENTATION",
    "AcousticFrontend",
    "AugmentationSettings",
    "ComposeTransforms",
    "build_frontend",
    "with_frontend",
]
