"""The learning-rate schedule of the paper: warm-up, plateau and linear fall, changed once per epoch."""

import math
from dataclasses import dataclass, replace

WARMUP_SHARPNESS = 5.0  # of the exponential warm-up: the first epoch starts near exp(-5)
FIRST_WARMUP_EPOCH = 0.5  # stands for epoch 0, which lies below the curve's start otherwise


def warmup_rampdown_factor(
    epoch: float, *, warmup_epochs: int, ramp_start: int, ramp_length: int, last: float
) -> float:
    """Computes the learning rate of an epoch as a share of its peak.

    It is exp(-5 (1 - clip(e, 0.5, w) / w)^2) while e < w, 1 until the ramp starts (inclusive), then falls linearly to
    `last` and stays there.

    Args:
        epoch (`float`): epoch e, counted from 0.
        warmup_epochs (`int`): length w of the warm-up; 0: none.
        ramp_start (`int`): the last epoch at the peak.
        ramp_length (`int`): epochs from the peak to `last`.
        last (`float`): factor after the ramp.

    Returns:
        `float`: factor in (0, 1].

    Source: paper, section 3.1; the peaks are 9e-4 (CP-Mobile student), 1e-3 (CNN teachers) and 1e-5 (PaSST).
    """
    if epoch < warmup_epochs:
        progress = max(epoch, FIRST_WARMUP_EPOCH) / warmup_epochs
        return math.exp(-WARMUP_SHARPNESS * (1.0 - min(progress, 1.0)) ** 2)
    fallen = min(max(epoch - ramp_start, 0) / ramp_length, 1.0)
    return 1.0 - (1.0 - last) * fallen


@dataclass(frozen=True)
class EpochSchedule:
    """A schedule of [`warmup_rampdown_factor`] that stretches with the length of a run.

    Args:
        warmup_epochs (`int`, *optional*, defaults to 14): epochs of exponential warm-up.
        ramp_start (`int`, *optional*, defaults to 50): the last epoch at the peak.
        ramp_length (`int`, *optional*, defaults to 84): epochs of the linear fall.
        last (`float`, *optional*, defaults to 0.005): factor after the fall.
        reference_epochs (`int`, *optional*, defaults to 150): length of the run that the epochs above belong to.

    Raises:
        ValueError: a setting is out of range, or the fall starts before the warm-up ends.

    The defaults are those of the paper's student. Example:

    ```python
    >>> from hf_ascdistill.schedule import EpochSchedule
    >>> EpochSchedule().scaled(30)
    EpochSchedule(warmup_epochs=3, ramp_start=10, ramp_length=17, last=0.005, reference_epochs=30)
    ```
    """

    warmup_epochs: int = 14
    ramp_start: int = 50
    ramp_length: int = 84
    last: float = 0.005
    reference_epochs: float = 150

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_epochs <= self.ramp_start:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and ramp_start {self.ramp_start}; expected "
                "0 <= warmup_epochs <= ramp_start: the rate rises, stays, then falls."
            )
        if self.ramp_length < 1 or not self.reference_epochs > 0:
            raise ValueError(
                f"ramp_length is {self.ramp_length} and reference_epochs {self.reference_epochs}; expected a "
                "ramp_length of at least 1 and reference_epochs above 0."
            )
        if not 0 < self.last <= 1:
            raise ValueError(f"last is {self.last}; expected a share of the peak rate, above 0 and at most 1.")

    def scaled(self, num_epochs: float) -> "EpochSchedule":
        """Returns the schedule of a run of `num_epochs` epochs: the same proportions, in whole epochs.

        Args:
            num_epochs (`float`): length of the run, epochs.

        Raises:
            ValueError: the length is not above 0.
        """
        if not num_epochs > 0:
            raise ValueError(f"a run of {num_epochs} epochs has no schedule; expected more than 0 epochs.")
        stretch = num_epochs / self.reference_epochs
        return replace(
            self,
            warmup_epochs=_nearest(self.warmup_epochs * stretch),
            ramp_start=_nearest(self.ramp_start * stretch),
            ramp_length=max(1, _nearest(self.ramp_length * stretch)),
            reference_epochs=num_epochs,
        )

    def factor(self, epoch: float) -> float:
        """Returns the share of the peak rate in an epoch, counted from 0."""
        return warmup_rampdown_factor(
            epoch,
            warmup_epochs=self.warmup_epochs,
            ramp_start=self.ramp_start,
            ramp_length=self.ramp_length,
            last=self.last,
        )


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)  # round() would take halves to the even side


__all__ = ["EpochSchedule", "warmup_rampdown_factor"]
