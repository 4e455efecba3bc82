"""Publishes a finished run on the Hub: staged in a folder, loaded there in a fresh process, pushed in one commit.

Log in before (`hf auth login`, or the variable HF_TOKEN); a dry run stages and checks without asking the Hub:

python recipes/publish.py --run runs/student-cpr-128k-dirfms-s0 --repo user/cpm-student --dry_run
python recipes/publish.py --run runs/student-cpr-128k-dirfms-s0 --repo user/cpm-student

With further runs of the experiment, whose spread the card tells, and the student without teachers:

python recipes/publish.py --run runs/student-s0 --seeds runs/student-s1 runs/student-s2 --baseline runs/cpm-s0 \
    --repo user/cpm-student

A converted checkpoint, which has no results of a training: the card tells those on the evaluate list of a corpus:

python recipes/publish.py --run models/cpm-student --data prepared/tau22 --repo user/cpm-dcase23

A set of teacher logits, as a dataset repository; `--teacher_logits hf://datasets/user/cpr-logits` trains with it:

python recipes/publish.py --logits logits/cpr-128k-dirfms-s0 --repo user/cpr-logits
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hf_ascdistill import CardContext, load_split, measured_results, parse_recipe, publish, publish_logits


@dataclass
class PublishArguments:
    """Parameters that control what is published, what its card tells, and where it goes."""

    repo: str = field(metadata={"help": "user/name on the Hub; made where there is none"})
    run: str | None = field(default=None, metadata={"help": "folder of a finished run or of a converted model"})
    logits: str | None = field(default=None, metadata={"help": "in place of a run: folder of a finished logits set"})
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
        if (self.run is None) == (self.logits is None):
            raise ValueError(f"--run is {self.run}, --logits {self.logits}; expected one of them.")


def read_results(runs: list[str] | None) -> list[dict]:
    return [json.loads((Path(run) / "results.json").read_text()) for run in runs or []]


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(PublishArguments, argv=argv, description=__doc__)
    context = None if arguments.context is None else CardContext.load(arguments.context)
    names = ("private", "revision", "dry_run", "staging")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.logits is not None:
        print(publish_logits(arguments.logits, arguments.repo, context=context, **settings))
        return
    results = (
        None if arguments.data is None else measured_results(arguments.run, load_split(arguments.data, "evaluate"))
    )
    card = {"runs": read_results(arguments.seeds), "baseline": read_results(arguments.baseline), "context": context}
    print(publish(arguments.run, arguments.repo, results=results, card=card, **settings))


if __name__ == "__main__":
    main()
