"""What the configurations of all acoustic scene classifiers share: class names and the paper's sizes."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

# TAU Urban Acoustic Scenes 2022 Mobile, in the order of its label ids.
TAU22_SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)


def resolve_labels(
    num_labels: int | None, *, id2label: Mapping | None, label2id: Mapping | None
) -> tuple[dict[int, str], dict[str, int]]:
    """Completes the class names of a configuration, so that none is left without them.

    Args:
        num_labels (`int`, *optional*): number of classes.
        id2label (`Mapping`, *optional*): name of each label id; keys may be strings, as in JSON.
        label2id (`Mapping`, *optional*): the same, turned around.

    Returns:
        `tuple[dict[int, str], dict[str, int]]`: both maps in the order of the ids. Without names, ten classes are the
        scenes of TAU22 and any other number is `LABEL_0`, `LABEL_1`, ...

    Raises:
        ValueError: ids have gaps, names repeat, or the arguments contradict each other.
    """
    if id2label is None and label2id is not None:
        id2label = {index: name for name, index in label2id.items()}
    if id2label is None:
        count = len(TAU22_SCENES) if num_labels is None else num_labels
        is_tau22 = count == len(TAU22_SCENES)
        id2label = dict(enumerate(TAU22_SCENES if is_tau22 else (f"LABEL_{index}" for index in range(count))))
    id2label = {int(index): id2label[index] for index in sorted(id2label, key=int)}
    if not id2label or list(id2label) != list(range(len(id2label))):
        raise ValueError(f"id2label has the ids {list(id2label)}; expected 0, 1, ... without a gap, at least one.")
    inverse = {name: index for index, name in id2label.items()}
    if len(inverse) != len(id2label):
        raise ValueError(f"id2label names a class twice: {list(id2label.values())}; give each class its own name.")
    if num_labels is not None and num_labels != len(id2label):
        raise ValueError(f"num_labels is {num_labels}, but id2label names {len(id2label)} classes; give one of them.")
    if label2id is not None and {name: int(index) for name, index in label2id.items()} != inverse:
        raise ValueError(f"label2id {dict(label2id)} is not id2label {id2label} turned around; give one of them.")
    return id2label, inverse


class AscConfig(PreTrainedConfig):
    r"""
    Base of the configurations: an acoustic scene classifier always knows the names of its classes.

    Args:
        num_labels (`int`, *optional*, defaults to 10):
            Number of classes, where no names are given.
        id2label (`dict[int, str]`, *optional*, defaults to the ten scenes of TAU22):
            Name of each class.
        label2id (`dict[str, int]`, *optional*):
            The same, turned around; follows from `id2label`.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    def __post_init__(self, **kwargs):
        num_labels = kwargs.pop("num_labels", None)
        self.id2label, self.label2id = resolve_labels(num_labels, id2label=self.id2label, label2id=self.label2id)
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **kwargs) -> "AscConfig":
        """Returns the configuration of a size of the paper (Table 1).

        Args:
            name (`str`): the size, `"128k"`, `"450k"`, `"1m"`, `"4m"` or `"8m"`; `"s"` of PaSST.
            kwargs (`dict[str, Any]`, *optional*): further fields, such as `id2label`.

        Raises:
            ValueError: there is no such size.
        """
        if name not in cls.PRESETS:
            raise ValueError(f"{cls.__name__} has no preset {name!r}; expected one of {', '.join(cls.PRESETS)}.")
        return cls(**{**cls.PRESETS[name], **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> "AscConfig":
        """Builds the configuration from a dictionary; keywords win over it and are checked like it.

        New class names, or another number of classes, replace the stored ones.

        Args:
            config_dict (`dict[str, Any]`): the content of a `config.json`.
            kwargs (`dict[str, Any]`, *optional*): see [`PreTrainedConfig.from_dict`].
        """
        own = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        labels = {"num_labels", "id2label", "label2id"}
        overrides = {name: kwargs.pop(name) for name in (own | labels) & kwargs.keys()}
        stored = config_dict.get("id2label") or {}
        is_renamed = overrides.keys() & {"id2label", "label2id"}
        if is_renamed or overrides.get("num_labels", len(stored)) != len(stored):
            config_dict = {name: value for name, value in config_dict.items() if name not in labels}
        return super().from_dict({**config_dict, **overrides}, **kwargs)

    def require(self, is_met: bool, field: str, expected: str) -> None:
        """Raises a `ValueError` that names the field, its value and what was expected, unless `is_met`."""
        if not is_met:
            raise ValueError(f"{type(self).__name__}: {field} is {getattr(self, field)!r}; expected {expected}.")


__all__ = ["TAU22_SCENES", "AscConfig", "resolve_labels"]
