"""Clips that stay in the memory of the host or of an accelerator: from indices to a batch without reading a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .columns import WAVEFORM

DATA_PLACEMENTS = ("auto", "disk", "ram", "device")
SAMPLES_DTYPE = torch.int16


@dataclass(eq=False)
class ResidentClips:
    """Clips of one length whose 16-bit samples lie in one tensor, on the host or on an accelerator.

    A batch is gathered where the samples are, and its waveforms are bit-equal to those that [`ReadStore`] reads. Clips
    that overlap share their samples. It is a dataset for torch's `DataLoader`, whose sampler it leaves alone: it takes
    the indices of a batch at once, and its `collate_fn` is [`as_it_is`].

    Args:
        samples (`torch.Tensor`): all recordings, one after the other, int16 `(N,)`.
        offset (`torch.Tensor`): where each clip begins in `samples`, int64 `(R,)`.
        scale (`torch.Tensor`): what a clip's samples are multiplied by, float32 `(R,)`.
        length (`int`): samples T of a clip.
        columns (`dict[str, torch.Tensor]`): what else a batch holds: `labels` `(R,)`, `teacher_logits` `(R, C)`, ...
        draw (`Callable[[int, int], torch.Tensor]`, *optional*): of random crops: seed and epoch to the `offset` of
            that epoch.

    Raises:
        ValueError: a tensor has another type or length, or a clip would begin or end outside of the samples.
    """

    samples: torch.Tensor
    offset: torch.Tensor
    scale: torch.Tensor
    length: int
    columns: dict[str, torch.Tensor]
    draw: Callable[[int, int], torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != SAMPLES_DTYPE:
            raise ValueError(
                f"samples are {self.samples.dtype} of shape {tuple(self.samples.shape)}; expected int16 (N,)."
            )
        tensors = {"scale": self.scale, **self.columns}
        odd = [f"{name} {len(tensor)}" for name, tensor in tensors.items() if len(tensor) != len(self.offset)]
        if odd:
            raise ValueError(f"offset has {len(self.offset)} clips, {', '.join(odd)}; expected one entry per clip.")
        self._check(self.offset)

    def _check(self, offset: torch.Tensor) -> None:
        low, high = (int(value) for value in torch.aminmax(offset)) if len(offset) else (0, -self.length)
        if low < 0 or high + self.length > len(self.samples):
            raise ValueError(
                f"clips begin at samples {low} to {high} and last {self.length}, but there are {len(self.samples)} "
                "samples; expected each clip to lie within them."
            )

    @property
    def device(self) -> torch.device:
        """`torch.device`: where the samples lie, and where batches come out."""
        return self.samples.device

    @property
    def nbytes(self) -> int:
        """`int`: bytes that the clips hold on their device."""
        return sum(tensor.nbytes for tensor in (self.samples, self.offset, self.scale, *self.columns.values()))

    def __len__(self) -> int:
        return len(self.offset)

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gathers clips.

        Args:
            indices (`torch.Tensor`): rows, int64 `(B,)`, of any device.

        Returns:
            `dict[str, torch.Tensor]`: `waveform`, float32 `(B, T)`, and the columns `(B, ...)`, on the clips' device.
        """
        indices = indices.to(self.device, non_blocking=True)
        windows = self.samples.unfold(0, self.length, 1)  # (N - T + 1, T), no copy: a row for each possible beginning
        offset = self.offset[indices]
        # the same rows; a CPU copies each as a whole, a GPU need not count all windows in 64 bits
        samples = windows.index_select(0, offset) if self.device.type == "cpu" else windows[offset]
        waveform = samples.float().mul_(self.scale[indices, None])
        return {WAVEFORM: waveform, **{name: values[indices] for name, values in self.columns.items()}}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Gathers the clips of a batch; `DataLoader` calls it."""
        return self.batch(torch.tensor(indices, dtype=torch.int64))

    def draw_anew(self, *, seed: int, epoch: int) -> None:
        """Moves random crops to their places in an epoch; other clips stay where they are.

        Raises:
            ValueError: a drawn crop would lie outside of the samples.
        """
        if self.draw is not None:
            offset = self.draw(seed, epoch)
            self._check(offset)
            self.offset = offset.to(self.device)


def as_it_is(batch: Any) -> Any:
    """Returns what it is given: [`ResidentClips`] hands a loader whole batches."""
    return batch


__all__ = ["DATA_PLACEMENTS", "SAMPLES_DTYPE", "ResidentClips", "as_it_is"]
