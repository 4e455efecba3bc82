"""Evaluates an ensemble: the mean of its members' raw logits, and each member beside it.

python recipes/evaluate_ensemble.py --teacher_logits logits/evaluate/cpr-128k-dirfms-s0 \
    logits/evaluate/passt-s-fms-s0 --data prepared/tau22 --output ensembles/cpr-128k-dirfms+passt-s-fms

Runs whose logits are not there yet are named by --model; their sets go to logits/ in the output's folder:

accelerate launch recipes/evaluate_ensemble.py --model runs/cpr-128k-dirfms-s0 runs/passt-s-fms-s0 \
    --data prepared/tau22 --output ensembles/cpr-128k-dirfms+passt-s-fms
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from hf_ascdistill import (
    DataArguments,
    PredictionSettings,
    SceneEvaluation,
    ensemble_metrics,
    ensemble_summary,
    finished_ensemble,
    finished_sets,
    leave_process_group,
    load_classifiers,
    load_training_data,
    named_by_folder,
    parse_recipe,
    predict_logits_of_many,
    print_once,
    write_ensemble,
)


@dataclass
class EnsembleArguments:
    """Parameters that control whose logits are averaged, on which clips, and where the results go."""

    output: str = field(metadata={"help": "folder of results.json and devices.png"})
    teacher_logits: list[str] | None = field(default=None, metadata={"help": "logit sets written by cache_logits.py"})
    model: list[str] | None = field(default=None, metadata={"help": "run folders, saved models or Hub names"})
    split: str = field(default="evaluate", metadata={"help": "evaluate or train"})
    allow_extra_logits: bool = field(default=False, metadata={"help": "the sets may hold more clips than the split"})
    pictures: bool = field(default=True, metadata={"help": "draw the accuracy per device"})
    use_cpu: bool = field(default=False, metadata={"help": "predict on the CPU where there is an accelerator too"})


def main(argv: list[str] | None = None) -> None:
    classes = EnsembleArguments, PredictionSettings, DataArguments
    arguments, settings, data_args = parse_recipe(*classes, argv=argv, description=__doc__)
    if arguments.use_cpu:
        PartialState(cpu=True)
    folder, sets, models = Path(arguments.output), arguments.teacher_logits or [], arguments.model or []
    where = {name: getattr(data_args, name) for name in ("data", "train_list", "crop_hop")}
    configuration = {**where, "split": arguments.split, "members": list(named_by_folder([*sets, *models]))}
    if results := finished_ensemble(folder, configuration):
        return print_once(ensemble_summary(results, folder))

    members = finished_sets(sets)
    data = load_training_data(data_args)
    if arguments.split not in data:
        raise ValueError(f"{data_args.data} has no split {arguments.split!r}; expected one of {', '.join(data)}.")
    clips, groups = data[arguments.split], SceneEvaluation.of(data).groups
    if models:
        runs = load_classifiers(models, clips.features["labels"].names)
        members |= predict_logits_of_many(runs, clips, folder / "logits", settings=settings)
    results = ensemble_metrics(members, clips, groups=groups, allow_extra=arguments.allow_extra_logits)
    results["configuration"] = configuration
    write_ensemble(results, folder, picture=arguments.pictures)
    print_once(ensemble_summary(results, folder))


if __name__ == "__main__":
    main()
    leave_process_group()
