"""What a model card is written from: the results of a run and of those beside it, checked to belong together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from ..metrics import summarize_runs
from ..models import AscFeatureExtractor
from .card_context import CardContext, resolve_context

NETWORKS = {"cp-mobile": "CP-Mobile", "cp-resnet": "CP-ResNet", "passt": "PaSST"}
# of a configuration: what may differ between the seeds of one experiment
SEED_FIELDS = {"seed", "data_seed", "teacher_logits", "teachers"}
# of a configuration: paths on the machine that made the run
PATH_FIELDS = ("data", "impulse_responses", "initial_weights", "model", "teacher_logits", "teachers", "train_list")
NEEDED = ("complexity", "scenes", "devices", "groups", "last_epochs")
NEEDED_OF_TRAINING = ("configuration", "teachers", "training", "epochs")  # absent: the model was not trained here
DG_METHODS = {
    "none": "no device generalisation",
    "dir": "device impulse responses (DIR)",
    "fms": "Freq-MixStyle (FMS)",
    "dirfms": "device impulse responses (DIR) and Freq-MixStyle (FMS)",
}


@dataclass(frozen=True, eq=False)
class CardFacts:
    """All that a model card says, and where it comes from.

    Args:
        results (`Mapping`): what `results.json` of the run holds whose weights are published; of a model that was
            trained elsewhere, all of it but configuration, teachers, training and epochs.
        repo_id (`str`): name of the repository, `user/name`.
        context ([`CardContext`]): what no run knows.
        extractor_settings (`Mapping`): settings of the front-end.
        runs (`tuple[Mapping, ...]`): results of the same experiment with other seeds.
        baseline (`tuple[Mapping, ...]`): results of the same student without teachers, a run for each seed.
        picture (`str`, *optional*): file in the repository that shows the accuracy per device.

    Raises:
        ValueError: results lack an entry, or runs do not belong together.
    """

    results: Mapping[str, Any]
    repo_id: str
    context: CardContext
    extractor_settings: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...] = ()
    baseline: tuple[Mapping[str, Any], ...] = ()
    picture: str | None = None

    def __post_init__(self) -> None:
        if self.repo_id.count("/") != 1 or not all(self.repo_id.split("/")):
            raise ValueError(f"repo_id is {self.repo_id!r}; expected user/name.")
        for run in (self.results, *self.runs, *self.baseline):
            check_results(run)
        for run in self.runs:
            _check_same_experiment(self.results, run)
        for run in self.baseline:
            _check_baseline(self.results, run)
        for group in ((self.results, *self.runs), self.baseline) if self.is_trained_here else ():
            seeds = [run["configuration"]["seed"] for run in group]
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"the runs have the seeds {seeds}; expected each once: a run counts only once.")
        if self.runs and not self.is_trained_here:
            raise ValueError("the model was not trained here, so that no other runs belong to it; leave runs out.")
        if not (self.is_from_scratch or self.context.network):
            raise ValueError(
                "the model began with saved weights, and its results do not say of which network; give "
                "CardContext(network=...), and base_model=... where these weights are on the Hub."
            )

    @property
    def is_trained_here(self) -> bool:
        """The results are those of a training run, not of an evaluation alone."""
        return "configuration" in self.results

    @property
    def is_from_scratch(self) -> bool:
        """The run began with random weights."""
        return self.is_trained_here and not starts_from_weights(self.configuration)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The run's configuration; a field that an older run lacks had its default."""
        return self.results.get("configuration", {})

    @property
    def last_epochs(self) -> Mapping[str, float]:
        """Metrics of the run: means over its last epochs."""
        return self.results["last_epochs"]

    @property
    def is_student(self) -> bool:
        """The run learned from teachers."""
        return bool(self.results.get("teachers"))

    @property
    def name(self) -> str:
        """Name of the model: that of its repository."""
        return self.repo_id.rpartition("/")[2]

    @cached_property
    def summary(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation of each metric over all runs of the experiment."""
        return summarize_runs([run["last_epochs"] for run in (self.results, *self.runs)])

    @cached_property
    def baseline_summary(self) -> dict[str, dict[str, float]]:
        """The same of the student without teachers; empty where it is not known."""
        return summarize_runs([run["last_epochs"] for run in self.baseline]) if self.baseline else {}

    @property
    def architecture(self) -> str:
        """Name of the network's family."""
        return self.context.network or NETWORKS[self.configuration["architecture"]]

    @property
    def network(self) -> str:
        """Name of the network with its size."""
        if self.context.network is not None:
            return self.context.network
        size = self.configuration["size"].upper()
        return f"{self.architecture} ({size}{', modified' if self.overrides else ''})"

    @property
    def overrides(self) -> str | None:
        """What of the network differs from its size."""
        overrides = self.configuration.get("config_overrides")
        return None if overrides is None else ", ".join(item.strip() for item in overrides.split(","))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are known of the run."""
        return tuple(name for name, value in self.last_epochs.items() if is_number(value))


def starts_from_weights(configuration: Mapping[str, Any]) -> bool:
    """Says whether a run began with saved weights: those of a folder, or of the student that was adapted."""
    return bool(configuration.get("initial_weights") or configuration.get("model"))


def is_number(value: object) -> bool:
    """Says whether a metric has a value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def collect_facts(
    results: Mapping[str, Any],
    *,
    repo_id: str,
    extractor_settings: Mapping[str, Any] | None = None,
    context: CardContext | None = None,
    **beside: Any,
) -> CardFacts:
    """Collects what a model card is written from; see [`CardFacts`] for the arguments.

    Raises:
        ValueError: results lack an entry, the data or the front-end are not known, or runs do not belong together.
    """
    check_results(results)
    context = resolve_context(results["scenes"], results["devices"], context)
    if extractor_settings is None:
        extractor_settings = _usual_settings(results.get("configuration"))
    return CardFacts(results, repo_id, context, extractor_settings, **beside)


def _usual_settings(configuration: Mapping[str, Any] | None) -> dict[str, Any]:
    if configuration is None or starts_from_weights(configuration):
        raise ValueError(
            "the model began with saved weights, so that its front-end is theirs; give extractor_settings, what its "
            "preprocessor_config.json holds."
        )
    return AscFeatureExtractor.from_preset(configuration["architecture"]).to_dict()


def check_results(results: Mapping[str, Any]) -> None:
    """Checks that results are those of a finished run.

    Raises:
        ValueError: an entry is absent.
    """
    needed = NEEDED + (NEEDED_OF_TRAINING if "configuration" in results else ())
    missing = [name for name in needed if name not in results]
    if missing:
        raise ValueError(
            f"the results of {results.get('run', 'a run')} lack {', '.join(missing)}; expected what results.json of a "
            "finished training run holds."
        )
    empty = [name for name in ("training", "epochs", "last_epochs") if name in results and not results[name]]
    if empty:
        raise ValueError(f"{', '.join(empty)} of the results of {results.get('run', 'a run')} are empty; train it.")


def _check_same_experiment(results: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    ours, theirs = (_excerpt_configuration(run.get("configuration", {})) for run in (results, other))
    differing = [name for name in sorted(ours.keys() & theirs.keys() - SEED_FIELDS) if ours[name] != theirs[name]]
    differing += [name for name in ("scenes", "devices") if list(results[name]) != list(other[name])]
    differing += ["number of teachers"] if len(results.get("teachers", ())) != len(other.get("teachers", ())) else []
    if differing:
        raise ValueError(
            f"{other.get('run', 'a run')} is no other seed of {results.get('run', 'the run')}: they differ in "
            f"{', '.join(differing)}. Average only runs of one experiment."
        )


def _check_baseline(results: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    wrong = [] if results.get("teachers") else ["the run itself has no teachers"]
    wrong += ["the baseline has teachers"] if baseline.get("teachers") else []
    configurations = [_excerpt_configuration(run.get("configuration", {})) for run in (results, baseline)]
    for name in ("architecture", "size", "config_overrides", "data", "num_train_epochs", "device_generalization"):
        values = [configuration.get(name) for configuration in configurations]
        wrong += [f"{name} is {values[1]!r}, that of the student {values[0]!r}"] if values[0] != values[1] else []
    wrong += [f"{name} differ" for name in ("scenes", "devices") if list(results[name]) != list(baseline[name])]
    if wrong:
        raise ValueError(
            f"{baseline.get('run', 'the baseline')} is not the student without distillation: {'; '.join(wrong)}."
        )


def _excerpt_configuration(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with the last part of each path in place of the path."""

    def last_part(value: Any) -> Any:
        if isinstance(value, list):
            return [last_part(item) for item in value]
        return PurePath(value.replace("\\", "/")).name if isinstance(value, str) else value

    return {name: last_part(value) if name in PATH_FIELDS else value for name, value in configuration.items()}


def results_excerpt(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a card needs of the results of a run: the last epoch, the means, and no path of the machine.

    A card of the excerpt is the card of the results.

    Args:
        results (`Mapping`): what `results.json` holds.

    Raises:
        ValueError: an entry is absent.
    """
    check_results(results)
    excerpt = {name: results[name] for name in ("run", *NEEDED_OF_TRAINING, *NEEDED) if name in results}
    if "configuration" in excerpt:
        excerpt["configuration"] = _excerpt_configuration(results["configuration"])
        excerpt["training"], excerpt["epochs"] = results["training"][-1:], results["epochs"][-1:]
    return excerpt


def read_template(name: str) -> str:
    """Returns the text of a card's template."""
    return (Path(__file__).with_name("templates") / name).read_text(encoding="utf-8")


__all__ = ["DG_METHODS", "NETWORKS", "CardFacts", "check_results", "collect_facts", "is_number", "read_template"]
__all__ += ["results_excerpt"]
