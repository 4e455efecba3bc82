"""What a card says that no run knows: the name, address and licence of the data, and what else its publisher knows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from ..data import synthetic_scenes, tau22


@dataclass(frozen=True)
class CardContext:
    """Facts for a card that stand in no `results.json`, which holds only the path of the data on one machine.

    Args:
        dataset_name (`str`): the data's name, for people.
        dataset_id (`str`): the data's name on the Hub, or a name of that form.
        dataset_note (`str`): what the data are: recordings, devices, how they were split; whole sentences.
        data_license (`str`): whose licence the data have, and what follows for the model; whole sentences.
        dataset_url (`str`, *optional*): where the data are.
        license (`str`, *optional*, defaults to `"apache-2.0"`): licence of the weights, by its name on the Hub.
        license_name (`str`, *optional*): name of a licence that the Hub calls `other`.
        license_link (`str`, *optional*): where the text of that licence is.
        impulse_responses (`str`, *optional*): what the impulse responses of DIR are, where the run read a folder.
        network (`str`, *optional*): what the network is, where the run began with the weights of another one.
        base_model (`str`, *optional*): Hub name of the model whose weights the run began with.
        related (`tuple[str, ...]`, *optional*): Hub names of what belongs to it: the teachers' models, their logits.
        limitations (`tuple[str, ...]`, *optional*): further limitations; whole sentences.
        computing (`str`, *optional*): what is known of the machine, the time and the energy; whole sentences.

    Raises:
        ValueError: a field is empty, or the licence `other` has no name or link.
    """

    dataset_name: str
    dataset_id: str
    dataset_note: str
    data_license: str
    dataset_url: str | None = None
    license: str = "apache-2.0"
    license_name: str | None = None
    license_link: str | None = None
    impulse_responses: str | None = None
    network: str | None = None
    base_model: str | None = None
    related: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    computing: str | None = None

    def __post_init__(self) -> None:
        for name in ("related", "limitations"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is the text {getattr(self, name)!r}; expected a list of texts.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field in fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                is_unset = text is None and field.default is None
                if not is_unset and not (isinstance(text, str) and text.strip()):
                    raise ValueError(f"{field.name} of a card's context is {value!r}; expected a text that says it.")
        if self.license == "other" and not (self.license_name and self.license_link):
            raise ValueError(
                "the licence is `other`; expected license_name and license_link beside it, as on the Hub."
            )

    @classmethod
    def load(cls, path: str | Path) -> "CardContext":
        """Reads a context from a YAML file of the fields above.

        Raises:
            FileNotFoundError: the file is absent.
            ValueError: it is no mapping, a field is unknown, absent or empty.
        """
        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        return cls.parse(given, name=str(path))

    @classmethod
    def parse(cls, given: object, *, name: str) -> "CardContext":
        """Reads a context from a mapping; `name` is what errors call it.

        Raises:
            ValueError: it is no mapping, a field is unknown, absent or empty.
        """
        known, needed = [field.name for field in fields(cls)], [field.name for field in fields(cls)][:4]
        if not isinstance(given, dict) or set(given) - set(known) or not set(needed) <= set(given):
            keys = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
            raise ValueError(
                f"{name} holds {keys}; expected a mapping with {', '.join(needed)}, and of {', '.join(known[4:])} "
                "those that are known."
            )
        try:
            return cls(**given)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


_TAU22_URL = "https://zenodo.org/record/6337421"
TAU22 = CardContext(
    dataset_name="TAU Urban Acoustic Scenes 2022 Mobile, development dataset",
    dataset_id="tau-urban-acoustic-scenes-2022-mobile-development",
    dataset_url=_TAU22_URL,
    dataset_note=(
        "One-second clips of ten urban scenes in European cities. The devices a, b and c are real, s1 to s6 are "
        "simulated; s4 to s6 are in no training clip. No location is on both sides of the official split."
    ),
    data_license=(
        "The dataset is licensed by Tampere University for non-commercial use. What is made from it inherits that "
        "question: take it for research and other non-commercial use, and ask the dataset's authors first where a use "
        "might be another."
    ),
    license="other",
    license_name="tau-urban-acoustic-scenes-2022-non-commercial",
    license_link=_TAU22_URL,
    limitations=(
        "It heard public places of European cities, with their languages, vehicles and announcements. How much worse "
        "it is elsewhere was not measured.",
    ),
)
SYNTHETIC = CardContext(
    dataset_name="made-up scenes (the package's synthetic corpus)",
    dataset_id="hf-ascdistill-synthetic-scenes",
    dataset_note=(
        "Computed noise, hums, events and chirps with invented scene names, as nine computed devices would record "
        "them. No microphone recorded any of it: it is for trying the package out."
    ),
    data_license="The corpus is computed by the package and free of others' rights.",
    limitations=("It knows only computed sounds. Its answers about real recordings mean nothing.",),
)


def resolve_context(
    scenes: Sequence[str], devices: Sequence[str] | None, context: CardContext | None = None
) -> CardContext:
    """Returns the context of a card: the one that is given, else that of data which are known by their names.

    Args:
        scenes (`Sequence[str]`): names of the classes.
        devices (`Sequence[str]`, *optional*): names of the devices; unset: not known, the scenes decide.
        context ([`CardContext`], *optional*): what the publisher says.

    Raises:
        ValueError: nothing is given, and the names are neither TAU22's nor those of the synthetic corpus.
    """
    if context is not None:
        return context
    if tuple(scenes) == tuple(tau22.SCENES) and (devices is None or set(devices) <= set(tau22.DEVICES)):
        return TAU22
    if set(scenes) <= set(synthetic_scenes.SCENES):
        return SYNTHETIC
    raise ValueError(
        f"the data with the classes {', '.join(scenes)} are not known by name, and a run knows only their path; give "
        "context=CardContext(dataset_name=..., dataset_id=..., dataset_note=..., data_license=...), or "
        "CardContext.load(a YAML file of these fields)."
    )


__all__ = ["SYNTHETIC", "TAU22", "CardContext", "resolve_context"]
