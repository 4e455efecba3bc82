"""Decodes and resamples a corpus once, into a memory-mapped store that training reads.

python recipes/prepare_data.py --data /data/TAU-urban-acoustic-scenes-2022-mobile-development --output prepared/tau22
"""

from dataclasses import dataclass, field

from hf_ascdistill import load_tau22, parse_recipe, prepare


@dataclass
class PrepareArguments:
    """Parameters that control what is prepared and which odd files are let in."""

    data: str = field(metadata={"help": "corpus in TAU22's layout: meta.csv, evaluation_setup/, audio/"})
    output: str = field(metadata={"help": "folder of the store"})
    num_proc: int | None = field(default=None, metadata={"help": "processes; unset: one per core"})
    stereo: str = field(default="error", metadata={"help": "error, or mean: average the channels of stereo files"})
    mixed_rates: bool = field(default=False, metadata={"help": "let in files of several sampling rates"})
    allow_silent: bool = field(default=False, metadata={"help": "let in files whose samples are all zero"})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(PrepareArguments, argv=argv, description=__doc__)
    corpus = load_tau22(arguments.data)
    store = prepare(
        corpus,
        arguments.output,
        num_proc=arguments.num_proc,
        stereo=arguments.stereo,
        mixed_rates=arguments.mixed_rates,
        allow_silent=arguments.allow_silent,
    )
    for split, clips in store.items():
        print(f"{split}: {len(clips)} clips")
    print(f"store: {arguments.output}")


if __name__ == "__main__":
    main()
