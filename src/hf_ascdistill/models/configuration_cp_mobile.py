"""CP-Mobile model configuration."""

from numbers import Real
from typing import Any, ClassVar

from .configuration_asc import AscConfig

DIVISOR = 8  # channel counts are multiples of it
SHRINK_LIMIT = 0.9  # rounding never takes more than a tenth of the channels
STAGE_COUNT = 3


def round_channels(channels: float) -> int:
    """Rounds to a multiple of 8 that is at least 90 % of `channels`, as MobileNet does."""
    rounded = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded if rounded >= SHRINK_LIMIT * channels else rounded + DIVISOR


class CpMobileConfig(AscConfig):
    r"""
    Configuration of a [`CpMobileModel`], the receptive-field-regularised MobileNet of Schmid et al. (DCASE 2023).

    The defaults give the student of Morocutti et al. (DCASE 2023): 126,952 parameters, 29 million MACs for one second.

    Args:
        base_channels (`int`, *optional*, defaults to 32):
            Channels after the stem and of the first stage; a multiple of 8.
        channels_multiplier (`float`, *optional*, defaults to 2.3):
            Channels of a stage over those of the stage before, rounded to a multiple of 8.
        expansion_rate (`float`, *optional*, defaults to 3):
            Channels inside a block over its input channels, rounded to a multiple of 8.
        num_labels (`int`, *optional*, defaults to 10):
            Number of classes, where no names are given.
        id2label (`dict[int, str]`, *optional*, defaults to the ten scenes of TAU22):
            Name of each class.

    Raises:
        ValueError: a field is out of its range, or the class names contradict each other.

    Example:

    ```python
    >>> from hf_ascdistill import CpMobileConfig, CpMobileForAudioClassification

    >>> config = CpMobileConfig.from_preset("128k", id2label={0: "indoor", 1: "outdoor"})
    >>> model = CpMobileForAudioClassification(config)
    >>> model.config.stage_channels
    (32, 72, 168)
    ```"""

    model_type = "asc-cp-mobile"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "128k": {"base_channels": 32},
        "450k": {"base_channels": 64},
        "1m": {"base_channels": 96},
        "4m": {"base_channels": 184},
        "8m": {"base_channels": 264},
    }

    base_channels: int = 32
    channels_multiplier: float = 2.3
    expansion_rate: float = 3.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        channels = self.base_channels
        is_multiple = isinstance(channels, int) and channels > 0 and channels % DIVISOR == 0
        self.require(is_multiple, "base_channels", f"a positive multiple of {DIVISOR}")
        for name in ("channels_multiplier", "expansion_rate"):
            value = getattr(self, name)
            self.require(isinstance(value, Real) and 0 < value < float("inf"), name, "a positive number")

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """`tuple[int, ...]`: output channels of the three stages."""
        return tuple(
            round_channels(self.base_channels * self.channels_multiplier**stage) for stage in range(STAGE_COUNT)
        )

    @property
    def hidden_size(self) -> int:
        """`int`: channels of the last feature map, which the classifier reads."""
        return self.stage_channels[-1]


__all__ = ["CpMobileConfig", "round_channels"]
