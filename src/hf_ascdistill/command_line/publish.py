"""Publishes a finished run, a converted model, teacher logits or the index of crops on the Hub, in one commit.

Log in before (`hf auth login`, or the variable HF_TOKEN); a dry run stages and checks without asking the Hub:

  ascdistill publish --run runs/student-cpr-128k-dirfms-s0 --repo user/cpm-student --dry_run
  ascdistill publish --run models/cpm-student --data prepared/tau22 --repo user/cpm-dcase23
  ascdistill publish --logits logits/cpr-128k-dirfms-s0 --repo user/cpr-logits
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..arguments import DataArguments
from ..building import load_training_data
from ..data.corpus import load_split
from ..hub.card_context import CardContext
from ..hub.publish import publish
from ..hub.publish_datasets import publish_crops_index, publish_logits
from ..hub.repository import read_results
from ..runs import measured_results
from .inputs import settings_of


@dataclass
class PublishArguments:
    """Parameters that control what is published, what its card tells, and where it goes.

    Args:
        repo (`str`): `user/name` on the Hub.
        run (`str`, *optional*): folder of a finished run or of a converted model.
        logits (`str`, *optional*): in place of a run: folder of a finished logits set.
        crops (`str`, *optional*): in place of a run: prepared store whose crops to index.
        crop_hop (`float`, *optional*): with crops: seconds between them; unset: the clips.
        data (`str`, *optional*): corpus or store to evaluate the model on, for the card.
        seeds (`list[str]`, *optional*): runs with other seeds, for the card.
        baseline (`list[str]`, *optional*): runs of the student without teachers, for the card.
        context (`str`, *optional*): YAML file that names the data and their licence.
        private (`bool`, *optional*, defaults to `False`): make the repository private.
        revision (`str`, *optional*): branch to push to; unset: the main one.
        dry_run (`bool`, *optional*, defaults to `False`): stage and check, do not push.
        staging (`str`, *optional*): new folder to stage in, which stays.

    Raises:
        ValueError: not exactly one of run, logits and crops is given, or a hop without crops.
    """

    repo: str = field(metadata={"help": "user/name on the Hub; made where there is none"})
    run: str | None = field(default=None, metadata={"help": "folder of a finished run or of a converted model"})
    logits: str | None = field(default=None, metadata={"help": "in place of a run: folder of a finished logits set"})
    crops: str | None = field(
        default=None, metadata={"help": "in place of a run: prepared store whose crops to index"}
    )
    crop_hop: float | None = field(default=None, metadata={"help": "with crops: as in training; unset: clips"})
    data: str | None = field(
        default=None, metadata={"help": "evaluate the model on this corpus or store, for the card"}
    )
    seeds: list[str] | None = field(default=None, metadata={"help": "runs with other seeds, for the card"})
    baseline: list[str] | None = field(default=None, metadata={"help": "runs of the student without teachers"})
    context: str | None = field(default=None, metadata={"help": "YAML file that names the data and their licence"})
    private: bool = field(default=False, metadata={"help": "private repository; a public one is refused"})
    revision: str | None = field(default=None, metadata={"help": "branch to push to; unset: the main one"})
    dry_run: bool = field(default=False, metadata={"help": "stage and check, do not push"})
    staging: str | None = field(default=None, metadata={"help": "new folder to stage in, which stays"})

    def __post_init__(self) -> None:
        if [self.run, self.logits, self.crops].count(None) != 2:
            raise ValueError(
                f"--run is {self.run}, --logits {self.logits}, --crops {self.crops}; expected one of them."
            )
        if self.crop_hop is not None and self.crops is None:
            raise ValueError(f"--crop_hop is {self.crop_hop} without --crops; name the store to cut.")


ARGUMENTS = (PublishArguments,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: all arguments are fields of the dataclass."""


def publish_chosen(arguments: PublishArguments) -> str:
    """Publishes what the arguments name.

    Args:
        arguments ([`PublishArguments`]): what, with which card, and where to.

    Returns:
        `str`: address of the commit; of a dry run, the staged folder.

    Raises:
        FileNotFoundError, ValueError, PermissionError, ConnectionError: see [`publish`].
    """
    context = None if arguments.context is None else CardContext.load(arguments.context)
    names = ("private", "revision", "dry_run", "staging")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.logits is not None:
        return publish_logits(arguments.logits, arguments.repo, context=context, **settings)
    if arguments.crops is not None:
        crops = load_training_data(DataArguments(arguments.crops, crop_hop=arguments.crop_hop))
        return publish_crops_index(crops, arguments.repo, context=context, **settings)
    results = (
        None if arguments.data is None else measured_results(arguments.run, load_split(arguments.data, "evaluate"))
    )
    card = {"runs": _results(arguments.seeds), "baseline": _results(arguments.baseline), "context": context}
    return publish(arguments.run, arguments.repo, results=results, card=card, **settings)


def _results(runs: Sequence[str] | None) -> list[dict]:
    return [read_results(Path(run)) for run in runs or []]


def run(arguments: argparse.Namespace) -> int:
    """Publishes what the arguments name, and prints where it is.

    Args:
        arguments (`argparse.Namespace`): with the fields of the dataclass.

    Returns:
        `int`: 0.

    Raises:
        FileNotFoundError, ValueError, PermissionError, ConnectionError: see [`publish`].
    """
    address = publish_chosen(settings_of(PublishArguments, arguments))
    told = {"repo": arguments.repo, "address": address, "pushed": not arguments.dry_run}
    print(json.dumps(told) if arguments.json else address)
    return 0


__all__ = ["PublishArguments", "add_arguments", "publish_chosen", "run"]
