"""Distils a student from teacher logits: CP-Mobile 128K, Eq. 1 with lambda 0.02 and tau 2.

accelerate launch recipes/distill.py --config recipes/configs/student.yaml --teacher_logits logits/cpr-128k-dirfms-s0 \
    --data prepared/tau22 --crop_hop 0.5 --impulse_responses /data/micirp --resample_impulse_responses true \
    --output_dir runs/student-cpr-128k-dirfms-s0 --seed 0
"""

from transformers import set_seed

from hf_ascdistill import (
    AugmentationArguments,
    DataArguments,
    DistillationTrainingArguments,
    ModelArguments,
    TeacherArguments,
    attach_teachers,
    build_model,
    build_trainer,
    build_training_frontend,
    finish_run,
    finished_results,
    load_training_data,
    open_run,
    parse_recipe,
    print_once,
    run_summary,
)


def main(argv: list[str] | None = None) -> None:
    kinds = (DataArguments, ModelArguments, AugmentationArguments, TeacherArguments, DistillationTrainingArguments)
    data_args, model_args, augmentation, teacher_args, training = parse_recipe(*kinds, argv=argv, description=__doc__)
    folder = open_run(training, data_args, model_args, augmentation, teacher_args)
    if results := finished_results(folder):
        return print_once(run_summary(results, folder))

    data = load_training_data(data_args)
    data["train"], teachers = attach_teachers(data["train"], teacher_args)
    features = data["train"].features
    set_seed(training.seed)
    model, extractor = build_model(model_args, features["labels"].names)
    frontend = build_training_frontend(extractor, augmentation, data_args, devices=features["device_ids"].names)

    trainer = build_trainer(model, training, data, frontend=frontend)
    trainer.train(resume_from_checkpoint=True)
    results = finish_run(trainer, folder, teachers=teachers)
    print_once(run_summary(results, folder))


if __name__ == "__main__":
    main()
