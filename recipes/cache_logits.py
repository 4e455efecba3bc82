"""Predicts teachers' logits for every training clip or crop, once; students read them from then on.

accelerate launch recipes/cache_logits.py --model runs/cpr-128k-dirfms-s0 --data prepared/tau22 --crop_hop 0.5 \
    --output logits/cpr-128k-dirfms-s0

Several teachers at once, whatever their front-ends, read the audio once; each gets a folder of its run's name:

accelerate launch recipes/cache_logits.py --model runs/cpr-128k-dirfms-s0 runs/passt-s-dirfms-s0 \
    --data prepared/tau22 --crop_hop 0.5 --output logits
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from hf_ascdistill import (
    DataArguments,
    PredictionSettings,
    leave_process_group,
    load_classifiers,
    load_training_data,
    parse_recipe,
    predict_logits,
    predict_logits_of_many,
    print_once,
)


@dataclass
class CacheArguments:
    """Parameters that control whose logits are predicted, for which split, and where they go."""

    model: list[str] = field(metadata={"help": "run folders, saved models or Hub names of the teachers"})
    output: str = field(metadata={"help": "folder of the logits set; of several teachers, of their folders"})
    split: str = field(default="train", metadata={"help": "train or evaluate"})
    use_cpu: bool = field(default=False, metadata={"help": "predict on the CPU where there is an accelerator too"})


def main(argv: list[str] | None = None) -> None:
    classes = CacheArguments, PredictionSettings, DataArguments
    arguments, settings, data_args = parse_recipe(*classes, argv=argv, description=__doc__)
    if arguments.use_cpu:
        PartialState(cpu=True)
    data = load_training_data(data_args)
    if arguments.split not in data:
        raise ValueError(f"{data_args.data} has no split {arguments.split!r}; expected one of {', '.join(data)}.")
    clips, output = data[arguments.split], Path(arguments.output)
    runs = load_classifiers(arguments.model, clips.features["labels"].names)
    if len(runs) == 1:
        [(model, frontend)] = runs.values()
        sets = {output: predict_logits(model, clips, output, frontend=frontend, settings=settings)}
    else:
        sets = predict_logits_of_many(runs, clips, output, settings=settings)
    for name, logits in sets.items():
        print_once(f"{len(logits.example_ids)} clips x {len(logits.scenes)} scenes: {output / name}")


if __name__ == "__main__":
    main()
    leave_process_group()
