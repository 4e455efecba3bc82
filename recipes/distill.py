"""Distils a student from teachers: CP-Mobile 128K, Eq. 1 with lambda 0.02 and tau 2.

The paper's way, from logits of the clean clips that cache_logits.py has written:

accelerate launch recipes/distill.py --config recipes/configs/student.yaml --teacher_logits logits/cpr-128k-dirfms-s0 \
    --data prepared/tau22 --crop_hop 0.5 --impulse_responses /data/micirp --resample_impulse_responses true \
    --output_dir runs/student-cpr-128k-dirfms-s0 --seed 0

The online way, with teachers in the training loop that hear the student's augmented clips, and no logits on disk (so
--random_crops true is possible too):

accelerate launch recipes/distill.py --config recipes/configs/student.yaml --teacher_mode online \
    --teachers runs/cpr-128k-dirfms-s0 --data prepared/tau22 --crop_hop 0.5 --impulse_responses /data/micirp \
    --resample_impulse_responses true --output_dir runs/student-online-cpr-128k-dirfms-s0 --seed 0
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
    leave_process_group,
    load_online_teachers,
    load_training_data,
    open_run,
    parse_recipe,
    print_once,
    publish_finished,
    run_summary,
)


def main(argv: list[str] | None = None) -> None:
    kinds = (DataArguments, ModelArguments, AugmentationArguments, TeacherArguments, DistillationTrainingArguments)
    data_args, model_args, augmentation, teacher_args, training = parse_recipe(*kinds, argv=argv, description=__doc__)
    folder = open_run(training, data_args, model_args, augmentation, teacher_args)
    if results := finished_results(folder):
        publish_finished(training, folder)
        return print_once(run_summary(results, folder))

    data = load_training_data(data_args)
    features, online = data["train"].features, None
    if teacher_args.teacher_mode == "online":
        online = load_online_teachers(teacher_args, features["labels"].names)
        teachers = online.identities
    else:
        data["train"], teachers = attach_teachers(data["train"], teacher_args)
    set_seed(training.seed)
    model, extractor = build_model(model_args, features["labels"].names)
    frontend = build_training_frontend(extractor, augmentation, data_args, devices=features["device_ids"].names)

    trainer = build_trainer(model, training, data, frontend=frontend, teachers=online)
    trainer.train(resume_from_checkpoint=True)
    results = finish_run(trainer, folder, teachers=teachers)
    print_once(run_summary(results, folder))


if __name__ == "__main__":
    main()
    leave_process_group()
