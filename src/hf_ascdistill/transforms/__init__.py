"""Transforms of a batch, dict of tensors in, new dict out, and the front-end that strings them together."""

from .frontend import PAPER_AUGMENTATION, AcousticFrontend, AugmentationSettings, build_frontend, with_frontend
from .spectrogram import FreqMixStyle, SpectrogramMask
from .waveform import DeviceImpulseResponse, TimeRoll

__all__ = [
    "PAPER_AUGMENTATION",
    "AcousticFrontend",
    "AugmentationSettings",
    "DeviceImpulseResponse",
    "FreqMixStyle",
    "SpectrogramMask",
    "TimeRoll",
    "build_frontend",
    "with_frontend",
]
