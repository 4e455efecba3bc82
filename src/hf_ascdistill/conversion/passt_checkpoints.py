"""PaSST as it is published: names of its tensors, and the sizes and front-end that follow from their shapes."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

from ..models import AscFeatureExtractor, PasstConfig, PasstForAudioClassification
from .architecture import ConversionSettings, Tensors
from .tensors import require_dimensions

# The authors' name of each of our modules and parameters; those of a block follow its number.
NAMES = {
    "passt.cls_token": "cls_token",
    "passt.dist_token": "dist_token",
    "passt.token_positions": "new_pos_embed",
    "passt.frequency_positions": "freq_new_pos_embed",
    "passt.time_positions": "time_new_pos_embed",
    "passt.patch_projection": "patch_embed.proj",
    "passt.norm": "norm",
    "classifier.norm": "head.0",
    "classifier.linear": "head.1",
    "unused_classifier": "head_dist",
}
BLOCK_NAMES = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.projection": "attn.proj",
    "norm2": "norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
OUR_BLOCK = re.compile(r"passt\.blocks\.(\d+)\.(.+)")
THEIR_BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
FREQUENCY_POSITIONS, TIME_POSITIONS = "freq_new_pos_embed", "time_new_pos_embed"
PATCHES, PERCEPTRON, CLASSIFIER = "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "head.1.weight"
DIMENSIONS = {FREQUENCY_POSITIONS: 4, TIME_POSITIONS: 4, PATCHES: 4, PERCEPTRON: 2, CLASSIFIER: 2}

MELS, PATCH_SIZE = 128, 16
HEAD_WIDTH = 64  # of every published PaSST; the heads themselves leave no trace in the shapes
AUDIOSET_CLASSES, AUDIOSET_FMAX = 527, 15_000.0
TAU22_CLASSES, FINE_TUNING_FMAX = 10, 15_500.0


class Training(NamedTuple):
    """The clips of a published pre-training: their length, the front-end's hop, and the frames that these give."""

    seconds: int
    hop_length: int
    frames: int

    def __str__(self) -> str:
        return f"{self.seconds} s at hop {self.hop_length}"


class Grid(NamedTuple):
    """The patches of a network."""

    patch_stride: int
    max_frames: int
    hop_length: int


STANDARD = Training(10, 320, 998)
LONGER = (Training(20, 320, 2000), Training(10, 160, 2000), Training(30, 320, 3000), Training(10, 100, 3200))
# Strides 10 to 16 were trained on 10 s; the longer clips and the finer hops at stride 10.
PUBLISHED = tuple((stride, STANDARD) for stride in range(10, 17)) + tuple((10, training) for training in LONGER)


def patches_along(length: int, stride: int) -> int:
    """Returns how many patches fit along `length` mel bins or frames."""
    return (length - PATCH_SIZE) // stride + 1


def infer_stride(rows: int, patch_stride: int | None) -> int:
    """Returns the stride at which patches form `rows` rows.

    Args:
        rows (`int`): patches along the mel bins.
        patch_stride (`int`, *optional*): what the user says.

    Raises:
        ValueError: none does, several do and the user has named none, or the user's does not.
    """
    fitting = [stride for stride in range(1, MELS) if patches_along(MELS, stride) == rows]
    if not fitting:
        raise ValueError(f"{FREQUENCY_POSITIONS} has {rows} rows, which no stride gives with {MELS} mel bins.")
    options = " or ".join(map(str, fitting))
    if patch_stride is None and len(fitting) > 1:
        raise ValueError(f"{rows} rows of patches are of stride {options}; say which: patch_stride (--patch_stride).")
    if patch_stride not in (None, *fitting):
        raise ValueError(f"patch_stride is {patch_stride}, but {rows} rows of patches are of stride {options}.")
    return fitting[0] if patch_stride is None else patch_stride


def published_grids(rows: int, columns: int) -> list[tuple[int, Training]]:
    """Returns stride and training of each published file of `rows` x `columns` patches."""
    return [
        (stride, training)
        for stride, training in PUBLISHED
        if (patches_along(MELS, stride), patches_along(training.frames, stride)) == (rows, columns)
    ]


def infer_grid(rows: int, columns: int, settings: ConversionSettings) -> Grid:
    """Finds the published training that gives a grid of patches. Nothing is guessed: a wrong hop costs accuracy.

    Args:
        rows (`int`): patches along the mel bins.
        columns (`int`): patches along the frames.
        settings ([`ConversionSettings`]): say what the grid leaves open.

    Raises:
        ValueError: no published training, or several, give this grid and the user has not named the hop, or the
            settings contradict the grid.
    """
    hop, stride = settings.hop_length, settings.patch_stride
    grid, found = f"{rows} x {columns} patches", published_grids(rows, columns)
    if not found:
        stride = infer_stride(rows, stride)
        if hop is None:
            raise ValueError(
                f"no published PaSST has {grid}, so its front-end is not known: say the hop of its STFT in samples at "
                "32 kHz, hop_length (--hop_length 320)."
            )
        return Grid(stride, (columns - 1) * stride + PATCH_SIZE, hop)
    options = " and ".join(str(training) for _, training in found)
    if hop is None and len(found) > 1:
        raise ValueError(
            f"{grid} belong to several published PaSST, {options}: say which hop is this one's, hop_length "
            "(--hop_length 320)."
        )
    for known, training in found:
        if hop in (None, training.hop_length) and stride in (None, known):
            return Grid(known, training.frames, training.hop_length)
    raise ValueError(
        f"hop_length is {hop} and patch_stride {stride}, but {grid} are of {options} and stride {found[0][0]}; leave "
        "out what the tensors tell."
    )


def infer_heads(width: int, num_attention_heads: int | None) -> int:
    """Returns the attention heads of a network of this width, one per 64 where the user names no number.

    Raises:
        ValueError: the width is no multiple of 64, or of the heads.
    """
    heads = num_attention_heads
    if heads is None and width % HEAD_WIDTH == 0:
        heads = width // HEAD_WIDTH
    if heads is None or heads < 1 or width % heads:
        raise ValueError(
            f"the tokens are {width} wide and num_attention_heads is {num_attention_heads}; shapes do not show the "
            f"heads, and without a word the width must be a multiple of {HEAD_WIDTH}: give a divisor of the width, "
            "num_attention_heads (--num_attention_heads 12)."
        )
    return heads


def infer_fmax(classes: int, settings: ConversionSettings) -> float:
    """Returns the upper edge of the mel bank in evaluation, Hz: of AudioSet, or of the fine-tuning of the paper.

    Args:
        classes (`int`): of the file; another number in the settings means that the network will be fine-tuned.
        settings ([`ConversionSettings`]): their `fmax` wins.

    Raises:
        ValueError: the classes do not tell and the settings do not say.
    """
    is_refitted = settings.num_labels not in (None, classes)
    if settings.fmax is not None:
        return settings.fmax
    if is_refitted or classes == TAU22_CLASSES:
        return FINE_TUNING_FMAX
    if classes == AUDIOSET_CLASSES:
        return AUDIOSET_FMAX
    raise ValueError(
        f"a PaSST of {classes} classes is neither AudioSet's ({AUDIOSET_CLASSES}) nor TAU22's ({TAU22_CLASSES}), so "
        "the upper edge of its mel bank is not known: say it in Hz, fmax (--fmax 15000)."
    )


@dataclass(frozen=True)
class PasstArchitecture:
    """PaSST; see [`Architecture`]. A new classifier keeps the file's normalisation before it (`head.0`)."""

    name: str = "passt"
    mark: str = TIME_POSITIONS
    config_class: type[PreTrainedConfig] = PasstConfig
    model_class: type[PreTrainedModel] = PasstForAudioClassification
    class_layers: tuple[str, ...] = ("classifier.linear", "unused_classifier")

    def tensor_name(self, name: str) -> str:
        """Returns the authors' name of one of our tensors."""
        if name in NAMES:
            return NAMES[name]
        module, _, tensor = name.rpartition(".")
        block = OUR_BLOCK.fullmatch(module)
        theirs = f"blocks.{block[1]}.{BLOCK_NAMES[block[2]]}" if block else NAMES[module]
        return f"{theirs}.{tensor}"

    def infer_fields(self, tensors: Tensors, settings: ConversionSettings) -> dict[str, Any]:
        """Infers all sizes; the blocks are counted by their highest number. See [`Architecture`]."""
        grid = self._grid(tensors, settings)
        width = tensors[PATCHES].shape[0]
        return {
            "hidden_size": width,
            "num_hidden_layers": 1 + max(int(name[1]) for name in map(THEIR_BLOCK.match, tensors) if name),
            "num_attention_heads": infer_heads(width, settings.num_attention_heads),
            "intermediate_size": tensors[PERCEPTRON].shape[0],
            "patch_size": PATCH_SIZE,
            "patch_stride": grid.patch_stride,
            "num_mel_bins": MELS,
            "max_frames": grid.max_frames,
            "num_labels": tensors[CLASSIFIER].shape[0],
        }

    def front_end(self, tensors: Tensors, settings: ConversionSettings) -> AscFeatureExtractor:
        """Returns the front-end of the file's training, or of the paper's fine-tuning; see [`Architecture`]."""
        fmax = infer_fmax(tensors[CLASSIFIER].shape[0], settings)
        return AscFeatureExtractor.from_preset("passt", hop_length=self._grid(tensors, settings).hop_length, fmax=fmax)

    def _grid(self, tensors: Tensors, settings: ConversionSettings) -> Grid:
        require_dimensions(tensors, DIMENSIONS)
        return infer_grid(tensors[FREQUENCY_POSITIONS].shape[2], tensors[TIME_POSITIONS].shape[3], settings)


ARCHITECTURES = (PasstArchitecture(),)

__all__ = ["ARCHITECTURES", "PUBLISHED", "PasstArchitecture"]
