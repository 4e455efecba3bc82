"""Exports a run, a saved model or a model of the Hub for other runtimes, and checks each file on real clips.

python recipes/export.py --model runs/student-cpr-128k-dirfms-s0 --data prepared/tau22 --output exported/student

An int8 network as well, its ranges measured on the training clips, and the program of torch:

python recipes/export.py --model USER/NAME --data tau22 --output exported/student --formats onnx onnx-int8 torch-export

Needs the extra `export`; the format `executorch` needs the extra of that name. docs/onnx_example.py classifies a wav
with the file.
"""

from dataclasses import dataclass, field

from hf_ascdistill import ExportSettings, export_model, load_classifier, load_split, parse_recipe


@dataclass
class ExportArguments:
    """Parameters that control which model is exported, where to, and which clips it is checked on."""

    model: str = field(metadata={"help": "run folder, saved model or Hub name"})
    data: str = field(metadata={"help": "corpus in TAU22's layout, or a store written by prepare_data.py"})
    output: str = field(metadata={"help": "folder of the files"})
    split: str = field(default="evaluate", metadata={"help": "clips to check on: evaluate, train or all"})


def main(argv: list[str] | None = None) -> None:
    arguments, settings = parse_recipe(ExportArguments, ExportSettings, argv=argv, description=__doc__)
    clips = load_split(arguments.data, arguments.split)
    calibration = load_split(arguments.data, "train") if "onnx-int8" in settings.formats else None
    model, extractor = load_classifier(arguments.model, clips.features["labels"].names)
    parts = {"clips": clips, "calibration_clips": calibration, "settings": settings}
    for file in export_model(model, extractor, arguments.output, **parts):
        print(file.text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
