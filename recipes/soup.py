"""Averages the weights of runs that were fine-tuned from one set of weights, or of checkpoints of one run: a soup.

for seed in 0 1 2; do
    accelerate launch recipes/distill.py --config recipes/configs/adapt.yaml --device_generalization dirfms \
        --initial_weights runs/student-s0 --teacher_logits logits/cpr-128k-dirfms-s0 \
        --data prepared/tau22 --crop_hop 0.5 --output_dir runs/tuned-s$seed --seed $seed
done
python recipes/soup.py --model runs/tuned-s0 runs/tuned-s1 runs/tuned-s2 --data prepared/tau22 --crop_hop 0.5 \
    --output models/soup

With --data the statistics of batch normalisation are measured anew on the training clips, and the evaluate list shows
whether the soup is worth it. The mean of runs that began apart, with a seed each, is at chance; it says so.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

from hf_ascdistill import (
    DataArguments,
    SceneEvaluation,
    average_weights,
    check_unused,
    leave_process_group,
    load_classifiers,
    load_training_data,
    parse_recipe,
    reestimate_batch_norm,
    soup_metrics,
    soup_summary,
    write_soup,
)

BATCH_NORMS = ("reestimate", "average")


@dataclass
class SoupArguments:
    """Parameters that control which weights are averaged, and on which clips the result is measured."""

    model: list[str] = field(metadata={"help": "folders of runs, or of checkpoints of one run"})
    output: str = field(metadata={"help": "new folder of the soup"})
    data: str | None = field(default=None, metadata={"help": "corpus or store; unset: the soup is not evaluated"})
    train_list: str | None = field(default=None, metadata={"help": "csv of training clips (a DCASE24 split)"})
    crop_hop: float | None = field(default=None, metadata={"help": "seconds between shifted crops; unset: clips"})
    batch_norm: str | None = field(
        default=None, metadata={"help": "reestimate or average its statistics; unset: the first where data is given"}
    )
    batch_size: int = field(default=64, metadata={"help": "clips at a time"})
    seed: int = field(default=0, metadata={"help": "of the order in which clips re-estimate the statistics"})

    def __post_init__(self) -> None:
        self.batch_norm = self.batch_norm or BATCH_NORMS[self.data is None]
        if self.batch_norm not in BATCH_NORMS:
            raise ValueError(f"batch_norm is {self.batch_norm!r}; expected one of {', '.join(BATCH_NORMS)}.")
        if self.batch_norm == "reestimate" and self.data is None:
            raise ValueError("batch_norm is reestimate, which takes training clips: pass --data, or average them.")


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(SoupArguments, argv=argv, description=__doc__)
    check_unused(Path(arguments.output))
    if arguments.data is None:
        members = load_classifiers(arguments.model)
    else:
        data = load_training_data(DataArguments(arguments.data, arguments.train_list, arguments.crop_hop))
        members = load_classifiers(arguments.model, data["train"].features["labels"].names)
    soup, results = average_weights(members), {"configuration": asdict(arguments)}

    if arguments.data is not None:
        device, frontend = PartialState().device, next(iter(members.values()))[1]
        for model in (soup, *(model for model, _ in members.values())):
            model.to(device)
        if arguments.batch_norm == "reestimate":
            settings = {"batch_size": arguments.batch_size, "seed": arguments.seed}
            reestimate_batch_norm(soup, data["train"], frontend=frontend, **settings)
        groups = SceneEvaluation.of(data).groups
        results |= soup_metrics(soup, members, data["evaluate"], groups=groups, batch_size=arguments.batch_size)
    write_soup(soup, members, arguments.output, results=results)
    print(soup_summary(results, members, arguments.output))


if __name__ == "__main__":
    main()
    leave_process_group()
