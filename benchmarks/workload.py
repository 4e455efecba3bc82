"""What the benchmarks work on: clips of a corpus or random ones, impulse responses; and the check before the clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SAMPLING_RATE = 32_000
MAX_CLIPS = 128  # of a corpus
CLASSES = 10
DATA_PACKAGES = ("datasets", "scipy", "soundfile", "soxr")
RESPONSES, TAPS = 24, 16_000  # of the stand-in bank; as long as the longest measured responses
DECAY = 800.0  # samples in which it falls by e
LEVEL = 0.05  # of random clips, about that of recordings


@dataclass(frozen=True, eq=False)
class Workload:
    """What every case draws on.

    Args:
        device (`torch.device`): of networks and batches.
        waveform (`torch.Tensor`): one batch, float32 `(B, T)`, on the device.
        labels (`torch.Tensor`): class ids `(B,)`, on the device.
        teacher (`torch.Tensor`): made-up teacher logits `(B, C)`, on the device.
        responses (`torch.Tensor`): impulse responses `(n, taps)`, on the CPU.
        folder (`Path`): for temporary files.
        clips (`datasets.Dataset`, *optional*): wav files; `None` where the packages to read them are missing.
        checkpoint (`Path`, *optional*): a published CP-Mobile.
        hear21passt (`Path`, *optional*): folder with hear21passt and timm.
    """

    device: torch.device
    waveform: torch.Tensor
    labels: torch.Tensor
    teacher: torch.Tensor
    responses: torch.Tensor
    folder: Path
    clips: Any = None
    checkpoint: Path | None = None
    hear21passt: Path | None = None

    @property
    def plain_responses(self) -> list[torch.Tensor]:
        """The responses without the zeros that pad them, on the device: the plain way convolves one by one."""
        return [response[: int(response.nonzero().max()) + 1].to(self.device) for response in self.responses]


def missing_packages() -> list[str]:
    """Returns the packages that reading a corpus, or the plain way of it, needs and this machine lacks."""
    return [name for name in DATA_PACKAGES if find_spec(name) is None]


def open_clips(corpus: Path | None, folder: Path) -> Any:
    """Opens up to 128 clips of a corpus in TAU22's layout, or of a synthetic one that it writes into `folder`."""
    from hf_ascdistill import load_tau22, write_synthetic_corpus
    from hf_ascdistill.data.synthetic import SyntheticSettings

    if corpus is None:
        corpus = folder / "corpus"
        write_synthetic_corpus(corpus, settings=SyntheticSettings.from_preset("tiny"))
    clips = load_tau22(corpus, splits=("all",))["all"]
    return clips.select(range(min(MAX_CLIPS, len(clips))))


def read_batch(clips: Any, batch_size: int) -> torch.Tensor:
    """Returns one batch of waveforms, `(B, T)`: clips of the corpus, again from the first where it is small."""
    rows = [clips[index % len(clips)]["waveform"] for index in range(batch_size)]
    return torch.stack([torch.as_tensor(row) for row in rows])


def random_batch(batch_size: int) -> torch.Tensor:
    """Returns seeded noise in place of recordings, `(B, T)`."""
    generator = torch.Generator().manual_seed(0)
    return LEVEL * torch.randn(batch_size, SAMPLING_RATE, generator=generator)


def open_responses(folder: Path | None) -> torch.Tensor:
    """Reads a folder of impulse responses, or makes up decaying noise of the same length."""
    if folder is not None:
        from hf_ascdistill import load_impulse_responses

        return load_impulse_responses(folder, resample=True)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(RESPONSES, TAPS, generator=generator) * torch.exp(-torch.arange(TAPS) / DECAY)
    return bank / bank.norm(dim=1, keepdim=True)


def check_close(what: str, ours: torch.Tensor, plain: torch.Tensor, *, tolerance: float) -> None:
    """Makes sure that both ways give the same before either is timed.

    Raises:
        RuntimeError: they differ by more than `tolerance`.
    """
    if ours.shape != plain.shape:
        raise RuntimeError(f"{what}: ours has the shape {tuple(ours.shape)}, plain torch {tuple(plain.shape)}.")
    difference = float((ours.detach().cpu() - plain.detach().cpu()).abs().max())
    if not difference <= tolerance:
        raise RuntimeError(f"{what}: ours and plain differ by {difference:.2e}; expected at most {tolerance:.0e}.")


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Keeps convolutions of an NVIDIA GPU in float32 where it would round to TF32: for a check, not for the clock."""
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    try:
        convolutions.fp32_precision = "ieee"
        yield
    finally:
        convolutions.fp32_precision = before


__all__ = [
    "CLASSES",
    "SAMPLING_RATE",
    "Workload",
    "check_close",
    "exact_convolutions",
    "missing_packages",
    "open_clips",
    "open_responses",
    "random_batch",
    "read_batch",
]
