"""PaSST model configuration."""

from typing import Any, ClassVar

from .configuration_asc import AscConfig


class PasstConfig(AscConfig):
    r"""
    Configuration of a [`PasstModel`], the audio spectrogram transformer with patchout of Koutini et al. (2022).

    The defaults give PaSST-S, the transformer teacher of Morocutti et al. (DCASE 2023): 85,358,612 parameters with ten
    classes, 9.6 billion MACs for one second.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of transformer blocks.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Attention heads of a block.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width inside the perceptron of a block.
        patch_size (`int`, *optional*, defaults to 16):
            Side of the square patches, mel bins and frames.
        patch_stride (`int`, *optional*, defaults to 10):
            Distance of neighbouring patches; patches overlap where it is below `patch_size`.
        num_mel_bins (`int`, *optional*, defaults to 128):
            Mel bins of the input.
        max_frames (`int`, *optional*, defaults to 998):
            Frames that the time positions cover; a longer input is cut.
        frequency_patchout (`int`, *optional*, defaults to 6):
            Rows of patches that training drops at each step, drawn anew for each batch.
        time_patchout (`int`, *optional*, defaults to 0):
            Columns of patches that training drops.
        unstructured_patchout (`int`, *optional*, defaults to 0):
            Single patches that training drops, of those that the two above leave.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer normalisations of the network.
        classifier_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer normalisation of the classifier.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights, tokens and positions.
        num_labels (`int`, *optional*, defaults to 10):
            Number of classes, where no names are given.
        id2label (`dict[int, str]`, *optional*, defaults to the ten scenes of TAU22):
            Name of each class.

    Raises:
        ValueError: a field is out of its range, or the class names contradict each other.

    Example:

    ```python
    >>> from hf_ascdistill import PasstConfig

    >>> config = PasstConfig.from_preset("s")
    >>> config.frequency_patches, config.time_patches
    (12, 99)
    ```"""

    model_type = "asc-passt"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "s": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    }

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    patch_stride: int = 10
    num_mel_bins: int = 128
    max_frames: int = 998
    frequency_patchout: int = 6
    time_patchout: int = 0
    unstructured_patchout: int = 0
    layer_norm_eps: float = 1e-6
    classifier_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        sizes = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "patch_stride")
        for field in ("hidden_size", *sizes):
            value = getattr(self, field)
            self.require(isinstance(value, int) and value > 0, field, "a positive whole number")
        is_shared = self.hidden_size % self.num_attention_heads == 0
        self.require(is_shared, "hidden_size", f"a multiple of num_attention_heads = {self.num_attention_heads}")
        for field in ("num_mel_bins", "max_frames"):
            value = getattr(self, field)
            is_patch = isinstance(value, int) and value >= self.patch_size
            self.require(is_patch, field, f"a whole number of at least patch_size = {self.patch_size}")
        rows, columns = self.frequency_patches, self.time_patches
        for field, count in (
            ("frequency_patchout", rows),
            ("time_patchout", columns),
            ("unstructured_patchout", rows * columns),
        ):
            value = getattr(self, field)
            is_below = isinstance(value, int) and 0 <= value < count
            self.require(is_below, field, f"a whole number from 0 to below {count}, the patches that there are")

    def patch_count(self, length: int) -> int:
        """Returns how many patches fit along `length` mel bins or frames."""
        return (length - self.patch_size) // self.patch_stride + 1

    @property
    def frequency_patches(self) -> int:
        """`int`: rows of patches."""
        return self.patch_count(self.num_mel_bins)

    @property
    def time_patches(self) -> int:
        """`int`: columns of patches that the time positions cover."""
        return self.patch_count(self.max_frames)


__all__ = ["PasstConfig"]
