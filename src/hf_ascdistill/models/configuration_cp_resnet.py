"""CP-ResNet model configuration."""

from typing import Any, ClassVar

from .configuration_asc import AscConfig

GROUPS = 2  # of the convolutions of stage 2


class CpResNetConfig(AscConfig):
    r"""
    Configuration of a [`CpResNetModel`], the receptive-field-regularised ResNet of Koutini et al. with rho = 8.

    The defaults give the smallest teacher of Morocutti et al. (DCASE 2023): 127,684 parameters, 29 million MACs for
    one second.

    Args:
        base_channels (`int`, *optional*, defaults to 32):
            Channels of the stem and of the first stage, B; even. The second stage has 2 B.
        channel_cut (`int`, *optional*, defaults to 36):
            Channels that the third stage lacks of 4 B. The paper cuts 36 at every size.
        num_labels (`int`, *optional*, defaults to 10):
            Number of classes, where no names are given.
        id2label (`dict[int, str]`, *optional*, defaults to the ten scenes of TAU22):
            Name of each class.

    Raises:
        ValueError: a field is out of its range, or the class names contradict each other.

    Example:

    ```python
    >>> from hf_ascdistill import CpResNetConfig, CpResNetForAudioClassification

    >>> config = CpResNetConfig.from_preset("450k")
    >>> model = CpResNetForAudioClassification(config)
    >>> model.config.stage_channels
    (56, 112, 188)
    ```"""

    model_type = "asc-cp-resnet"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "128k": {"base_channels": 32},
        "450k": {"base_channels": 56},
        "1m": {"base_channels": 88},
        "4m": {"base_channels": 168},
        "8m": {"base_channels": 232},
    }

    base_channels: int = 32
    channel_cut: int = 36

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        channels, cut = self.base_channels, self.channel_cut
        is_even = isinstance(channels, int) and channels > 0 and channels % GROUPS == 0
        self.require(is_even, "base_channels", "a positive even number")
        is_below = isinstance(cut, int) and 0 <= cut < 4 * channels
        self.require(is_below, "channel_cut", f"a whole number from 0 to below 4 x base_channels = {4 * channels}")

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """`tuple[int, ...]`: output channels of the three stages."""
        return self.base_channels, 2 * self.base_channels, 4 * self.base_channels - self.channel_cut

    @property
    def hidden_size(self) -> int:
        """`int`: channels of the last feature map, which the classifier reads."""
        return self.stage_channels[-1]


__all__ = ["CpResNetConfig"]
