"""Writes a corpus of made-up scenes and devices in TAU22's layout, to try things out without real audio.

python recipes/synthetic_corpus.py --output data/synthetic --train_segments_per_scene 24
"""

from dataclasses import dataclass, field

from hf_ascdistill import SyntheticSettings, parse_recipe, write_synthetic_corpus


@dataclass
class CorpusArguments:
    """Parameters that control where the corpus goes and which one of many it is."""

    output: str = field(metadata={"help": "folder of the corpus"})
    corpus_seed: int = field(default=0, metadata={"help": "seed of all randomness"})
    num_proc: int = field(default=1, metadata={"help": "processes"})


def main(argv: list[str] | None = None) -> None:
    arguments, settings = parse_recipe(CorpusArguments, SyntheticSettings, argv=argv, description=__doc__)
    write_synthetic_corpus(
        arguments.output, settings=settings, seed=arguments.corpus_seed, num_proc=arguments.num_proc
    )
    print(f"corpus: {arguments.output}")


if __name__ == "__main__":
    main()
