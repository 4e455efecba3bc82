"""Quantises a finished student to int8, after training and while it is distilled further, and compares both.

accelerate launch recipes/quantize.py --config recipes/configs/qat.yaml \
    --initial_weights runs/student-cpr-128k-dirfms-s0 --teacher_logits logits/cpr-128k-dirfms-s0 \
    --data prepared/tau22 --crop_hop 0.5 \
    --impulse_responses /data/micirp --resample_impulse_responses true --output_dir runs/int8-student-s0 --seed 0

The folder gets float.onnx, ptq.onnx (ranges measured on training clips) and qat.onnx (24 epochs with rounded weights
and activations), quantization.json with their accuracies in onnxruntime, and the run's usual files: model.safetensors
is the float model with the rounded weights of qat.onnx.
"""

import copy
import json
from dataclasses import dataclass, field

from transformers import set_seed

from hf_ascdistill import (
    AugmentationArguments,
    DataArguments,
    DistillationTrainingArguments,
    FreezeRanges,
    ModelArguments,
    TeacherArguments,
    attach_teachers,
    build_model,
    build_trainer,
    build_training_frontend,
    calibrate,
    compare_networks,
    finish_run,
    finished_results,
    fuse,
    leave_process_group,
    load_training_data,
    networks_table,
    open_run,
    parse_recipe,
    plain_model,
    prepare_qat,
    print_once,
    publish_finished,
    require_onnx,
    run_summary,
)

COMPARISON_NAME = "quantization.json"


@dataclass
class QuantizationArguments:
    """Parameters that control how the ranges of activations are measured."""

    calibration_clips: int = field(default=512, metadata={"help": "training clips that the first ranges come from"})
    frozen_epochs: int = field(default=4, metadata={"help": "last epochs, in which the ranges stay"})


def main(argv: list[str] | None = None) -> None:
    kinds = (DataArguments, ModelArguments, AugmentationArguments, TeacherArguments, QuantizationArguments)
    arguments = parse_recipe(*kinds, DistillationTrainingArguments, argv=argv, description=__doc__)
    data_args, model_args, augmentation, teacher_args, quantization, training = arguments
    require_onnx()
    if model_args.initial_weights is None:
        raise ValueError("there is nothing to quantise: pass the folder of a finished student as --initial_weights.")
    folder = open_run(training, *arguments[:-1])
    if results := finished_results(folder):
        publish_finished(training, folder)
        networks = json.loads((folder / COMPARISON_NAME).read_text())
        return print_once(f"{run_summary(results, folder)}\n{networks_table(networks)}")

    data = load_training_data(data_args)
    features = data["train"].features
    data["train"], teachers = attach_teachers(data["train"], teacher_args)
    set_seed(training.seed)
    model, extractor = build_model(model_args, features["labels"].names)
    frontend = build_training_frontend(extractor, augmentation, data_args, devices=features["device_ids"].names)
    networks = {"float": fuse(model)}
    student, clips = prepare_qat(networks["float"]), {"max_clips": quantization.calibration_clips}
    networks["ptq"] = copy.deepcopy(calibrate(student, data["train"], frontend=frontend, **clips))

    trainer = build_trainer(student, training, data, frontend=frontend)
    trainer.add_callback(FreezeRanges(quantization.frozen_epochs))
    trainer.train(resume_from_checkpoint=True)
    networks["qat"] = trainer.model.cpu()
    trainer.model = plain_model(networks["qat"])
    compared = compare_networks(networks, folder, data=data, frontend=frontend) if training.should_save else {}
    results = finish_run(trainer, folder, teachers=teachers)
    print_once(f"{run_summary(results, folder)}\n{networks_table(compared)}")


if __name__ == "__main__":
    main()
    leave_process_group()
