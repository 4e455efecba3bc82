"""Evaluates a run, a converted checkpoint, a model of the Hub or per-device students on a corpus or a prepared store.

python recipes/evaluate_run.py --model runs/student-cpr-128k-dirfms-s0 --data prepared/tau22 --split evaluate --json
"""

import json
from dataclasses import dataclass, field

from accelerate import PartialState

from hf_ascdistill import (
    AcousticFrontend,
    DeviceStudents,
    aligned_only,
    evaluate_clips,
    has_device_students,
    inference_copy,
    load_classifier,
    load_split,
    metrics_table,
    parse_recipe,
    shifted_crops,
)


@dataclass
class EvaluateArguments:
    """Parameters that control which model is evaluated on which clips."""

    model: str = field(metadata={"help": "run folder, saved model, Hub name or folder of per-device students"})
    data: str = field(metadata={"help": "corpus in TAU22's layout, or a store written by prepare_data.py"})
    split: str = field(default="evaluate", metadata={"help": "evaluate, train or all"})
    crop_hop: float | None = field(default=None, metadata={"help": "evaluate shifted crops, this many seconds apart"})
    aligned: bool = field(default=False, metadata={"help": "of the crops, only those that begin where a clip does"})
    batch_size: int = field(default=64, metadata={"help": "clips at a time"})
    fused: bool = field(default=True, metadata={"help": "fold batch normalisations: faster, logits move by 1e-5"})
    native_kernels: bool = field(
        default=True, metadata={"help": "on a CPU, C++ for log-mels, CP-Mobile; fast products for PaSST"}
    )
    json: bool = field(default=False, metadata={"help": "print JSON instead of a table"})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = parse_recipe(EvaluateArguments, argv=argv, description=__doc__)
    clips = load_split(arguments.data, arguments.split)
    if arguments.crop_hop is not None:
        clips = shifted_crops(clips, hop_seconds=arguments.crop_hop)
        clips = aligned_only(clips) if arguments.aligned else clips
    native = arguments.native_kernels
    scenes, settings = clips.features["labels"].names, {"batch_size": arguments.batch_size}
    if has_device_students(arguments.model):  # each clip goes to the student of its device
        students = DeviceStudents.from_pretrained(arguments.model, scenes=scenes).to(PartialState().device)
        students.frontend = students.frontend.with_native_kernels(native)
        metrics = students.evaluate(clips, **settings)
    else:
        model, extractor = load_classifier(arguments.model, scenes)
        device = PartialState().device
        model = inference_copy(model, device, native_kernels=native) if arguments.fused else model.to(device)
        frontend = AcousticFrontend(extractor, native_kernels=native)
        metrics = evaluate_clips(model, clips, frontend=frontend, **settings)
    print(json.dumps(metrics, indent=1) if arguments.json else metrics_table(metrics))


if __name__ == "__main__":
    main()
