"""The same work the usual way: a plain torch, numpy and scipy pipeline, to measure ours against in the same run.

It has nothing of the package: a mel bank built anew for each batch, one scipy convolution and one roll a clip,
contiguous memory, Adam as torch gives it by default. `plain_network.py` is its CP-Mobile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

SAMPLING_RATE = 32_000


def read_clip(path: str | Path) -> np.ndarray:
    """Reads a wav and brings it to 32 kHz with scipy's polyphase filter, float32 `(T,)`."""
    import soundfile
    from scipy.signal import resample_poly

    samples, rate = soundfile.read(path, dtype="float32")
    common = gcd(rate, SAMPLING_RATE)
    return resample_poly(samples, SAMPLING_RATE // common, rate // common)


def mel_bank(n_mels: int, n_fft: int, *, fmax: float) -> torch.Tensor:
    """Builds a Kaldi mel bank from 0 Hz to fmax, `(n_mels, n_fft // 2 + 1)`."""

    def to_mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    edges = np.linspace(0.0, to_mel(fmax), n_mels + 2)[:, None]
    bins = to_mel(np.arange(n_fft // 2) * SAMPLING_RATE / n_fft)[None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bank = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return functional.pad(torch.from_numpy(bank), (0, 1))  # nothing of the Nyquist bin


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrograms by `torch.stft`; `bank` gives the mel bank of an upper edge."""

    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int

    def bank(self, fmax: float, device: torch.device | str = "cpu") -> torch.Tensor:
        """Builds the mel bank on a device."""
        return mel_bank(self.n_mels, self.n_fft, fmax=fmax).to(device)

    def __call__(self, waveform: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
        """Returns ln(mel + 1e-5): `(B, T)` -> `(B, M, F)`, not normalised yet."""
        emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
        window = torch.hann_window(self.win_length, periodic=False, device=waveform.device)
        spectrum = torch.stft(
            emphasised,
            self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=window,
            center=True,
            return_complex=True,
        )
        power = spectrum.abs().square()
        return torch.log(torch.matmul(bank, power) + 1e-5)


def normalise(log_mel: torch.Tensor) -> torch.Tensor:
    """Brings log-mels to about -1 to 1."""
    return (log_mel + 4.5) / 5.0


def convolve_clip(clip: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Returns the first T samples of clip * response: scipy on a CPU, FFTs of the next power of 2 elsewhere."""
    samples = len(clip)
    if clip.device.type == "cpu":
        from scipy.signal import fftconvolve

        return torch.from_numpy(fftconvolve(clip.numpy(), response.numpy(), mode="full")[:samples])
    size = 2 ** (samples + len(response) - 2).bit_length()
    product = torch.fft.rfft(clip, n=size) * torch.fft.rfft(response, n=size)
    return torch.fft.irfft(product, n=size)[:samples]


@dataclass(frozen=True)
class Augmentation:
    """What the training front-end draws for each clip and each batch; values as in `AugmentationSettings`."""

    responses: Sequence[torch.Tensor]
    dir_p: float = 0.6
    max_shift: int = 4000
    max_freq_mask: int = 48
    fms_alpha: float = 0.3
    fms_p: float = 0.4
    fmax_jitter: tuple[int, int] = (15_001, 16_000)

    def clip(self, clip: torch.Tensor) -> torch.Tensor:
        """Convolves one clip `(T,)` with probability dir_p, and rolls it."""
        if torch.rand(()) < self.dir_p:
            clip = convolve_clip(clip, self.responses[int(torch.randint(len(self.responses), ()))])
        shift = int(torch.randint(-self.max_shift, self.max_shift + 1, ()))
        return torch.roll(clip, shift)

    def clips(self, waveform: torch.Tensor) -> torch.Tensor:
        """Augments a batch `(B, T)` clip by clip."""
        return torch.stack([self.clip(clip) for clip in waveform])

    def draw_fmax(self) -> int:
        """Draws the mel bank's upper edge of a batch, in Hz."""
        low, high = self.fmax_jitter
        return int(torch.randint(low, high + 1, ()))


def frequency_mask(log_mel: torch.Tensor, max_width: int) -> torch.Tensor:
    """Writes 0 into one random band of mel bins, the same in all clips."""
    mels = log_mel.shape[1]
    width = int(torch.rand(()) * max_width)
    start = int(torch.rand(()) * (mels - width))
    masked = log_mel.clone()
    masked[:, start : start + width] = 0.0
    return masked


def mix_styles(x: torch.Tensor, lam: torch.Tensor, perm: torch.Tensor) -> torch.Tensor:
    """Freq-MixStyle of given draws, `(B, M, F)`."""
    lam = lam[:, None, None]
    mean = x.mean(dim=2, keepdim=True)
    sigma = (x.var(dim=2, keepdim=True) + 1e-6).sqrt()
    mixed_mean = lam * mean + (1 - lam) * mean[perm]
    mixed_sigma = lam * sigma + (1 - lam) * sigma[perm]
    return (x - mean) / sigma * mixed_sigma + mixed_mean


def training_mels(waveform: torch.Tensor, mel: LogMel, augmentation: Augmentation) -> torch.Tensor:
    """Log-mels of augmented waveforms, masked, normalised and mixed, with a mel bank of this batch."""
    log_mel = mel(waveform, mel.bank(augmentation.draw_fmax(), waveform.device))
    if augmentation.max_freq_mask:
        log_mel = frequency_mask(log_mel, augmentation.max_freq_mask)
    x = normalise(log_mel)
    if torch.rand(()) < augmentation.fms_p:
        lam = torch.distributions.Beta(augmentation.fms_alpha, augmentation.fms_alpha).sample((len(x),))
        x = mix_styles(x, lam.to(x.device), torch.randperm(len(x), device=x.device))
    return x


@dataclass(frozen=True)
class Frontend:
    """All of it, waveform `(B, T)` to `input_values` `(B, M, F)`."""

    mel: LogMel
    augmentation: Augmentation

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Augments a batch and turns it into log-mels."""
        return training_mels(self.augmentation.clips(waveform), self.mel, self.augmentation)


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, *, weight: float = 0.02, tau: float = 2.0
) -> torch.Tensor:
    """Eq. 1 with torch's own losses; `weight` is the label loss's."""
    kl = nn.KLDivLoss(reduction="batchmean")
    teacher_loss = kl(functional.log_softmax(student / tau, dim=1), functional.softmax(teacher / tau, dim=1))
    return weight * functional.cross_entropy(student, labels) + (1 - weight) * tau**2 * teacher_loss


class Trainer:
    """A hand-written training loop over one network, which takes log-mels and returns logits."""

    def __init__(self, model: nn.Module, *, learning_rate: float = 9e-4, weight_decay: float = 1e-4):
        self.model = model.train()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def backward(self, x: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Fills the gradients of a batch and returns its loss."""
        self.optimizer.zero_grad()
        loss = distillation_loss(self.model(x), teacher, labels)
        loss.backward()
        return loss.detach()

    def step(self, x: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Trains on a batch and returns its loss."""
        loss = self.backward(x, teacher, labels)
        self.optimizer.step()
        return loss


class SavedClips(Dataset):
    """Clips that were saved at 32 kHz, one .npy file each, with a transform of the single clip."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[torch.Tensor], torch.Tensor] | None = None):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        clip = torch.from_numpy(np.load(self.paths[index]))
        return clip if self.transform is None else self.transform(clip)


@dataclass(frozen=True)
class Collate:
    """Stacks the clips of a batch and turns them into training log-mels, in the worker."""

    mel: LogMel
    augmentation: Augmentation

    def __call__(self, clips: list[torch.Tensor]) -> torch.Tensor:
        """Returns `input_values`, `(B, M, F)`."""
        return training_mels(torch.stack(clips), self.mel, self.augmentation)


__all__ = [
    "Augmentation",
    "Collate",
    "Frontend",
    "LogMel",
    "SavedClips",
    "Trainer",
    "convolve_clip",
    "distillation_loss",
    "mel_bank",
    "mix_styles",
    "normalise",
    "read_clip",
    "training_mels",
]
