"""Predicts a teacher's logits for every training clip or crop, once; students read them from then on.

accelerate launch recipes/cache_logits.py --model runs/cpr-128k-dirfms-s0 --data prepared/tau22 --crop_hop 0.5 \
    --output logits/cpr-128k-dirfms-s0
"""

from dataclasses import dataclass, field

from accelerate import PartialState

from hf_ascdistill import (
    AcousticFrontend,
    DataArguments,
    load_classifier,
    load_training_data,
    parse_recipe,
    predict_logits,
)


@dataclass
class CacheArguments:
    """Parameters that control whose logits are predicted, for which split, and where they go."""

    model: str = field(metadata={"help": "run folder, saved model or Hub name of the teacher"})
    output: str = field(metadata={"help": "folder of the logits set"})
    split: str = field(default="train", metadata={"help": "train or evaluate"})
    batch_size: int = field(default=256, metadata={"help": "clips at a time"})
    clips_per_file: int = field(default=4096, metadata={"help": "work of a process between two files"})
    use_cpu: bool = field(default=False, metadata={"help": "predict on the CPU where there is an accelerator too"})


def main(argv: list[str] | None = None) -> None:
    arguments, data_args = parse_recipe(CacheArguments, DataArguments, argv=argv, description=__doc__)
    if arguments.use_cpu:
        PartialState(cpu=True)
    data = load_training_data(data_args)
    if arguments.split not in data:
        raise ValueError(f"{data_args.data} has no split {arguments.split!r}; expected one of {', '.join(data)}.")
    clips = data[arguments.split]
    model, extractor = load_classifier(arguments.model, clips.features["labels"].names)
    logits = predict_logits(
        model,
        clips,
        arguments.output,
        frontend=AcousticFrontend(extractor),
        batch_size=arguments.batch_size,
        clips_per_file=arguments.clips_per_file,
    )
    print(f"{len(logits.example_ids)} clips x {len(logits.scenes)} scenes: {arguments.output}")


if __name__ == "__main__":
    main()
