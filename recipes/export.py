"""Exports a run, a saved model or a model of the Hub for other runtimes, and checks each file on real clips.

python recipes/export.py --model runs/student-cpr-128k-dirfms-s0 --data prepared/tau22 --output exported/student

An int8 network as well, its ranges measured on the training clips, and the program of torch:

python recipes/export.py --model USER/NAME --data tau22 --output exported/student --formats onnx onnx-int8 torch-export

Needs the extra `export`; the format `executorch` needs the extra of that name. docs/onnx_example.py classifies a wav
with the file.
"""

from dataclasses import dataclass, field

from hf_ascdistill import ExportSettings, export_model, load_classifier, load_split, parse_recipe, shifted_crops


@dataclass
class ExportArguments:
    """Parameters that control which model is exported, where to, and which clips it is checked on."""

    model: str = field(metadata={"help": "run folder, saved model or Hub name"})
    data: str = field(metadata={"help": "corpus in TAU22's layout, or a store written by prepare_data.py"})
    output: str = field(metadata={"help": "folder of the files"})
    split: str = field(default="evaluate", metadata={"help": "clips to check on: evaluate, train or all"})
    crop_hop: float | None = field(
        default=None, metadata={"help": "take 1-s crops of recordings of any length, this many seconds apart"}
    )


def main(argv: list[str] | None = None) -> None:
    arguments, settings = parse_recipe(ExportArguments, ExportSettings, argv=argv, description=__doc__)
    clips = {"clips": load_split(arguments.data, arguments.split)}
    model, extractor = load_classifier(arguments.model, clips["clips"].features["labels"].names)
    if "onnx-int8" in settings.formats:
        clips["calibration_clips"] = load_split(arguments.data, "train")
    if arguments.crop_hop is not None:
        clips = {name: shifted_crops(part, hop_seconds=arguments.crop_hop) for name, part in clips.items()}
    for file in export_model(model, extractor, arguments.output, settings=settings, **clips):
        print(file.text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
