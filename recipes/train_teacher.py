"""Trains a teacher on labels alone: CP-ResNet or CP-Mobile of any of the paper's sizes, or PaSST from saved weights.

accelerate launch recipes/train_teacher.py --config recipes/configs/cpr_128k.yaml \
    --data prepared/tau22 --crop_hop 0.5 --impulse_responses /data/micirp --resample_impulse_responses true \
    --output_dir runs/cpr-128k-dirfms-s0 --seed 0

With --config recipes/configs/passt_s.yaml --initial_weights models/passt-s it fine-tunes a converted PaSST.
"""

from transformers import set_seed

from hf_ascdistill import (
    AugmentationArguments,
    DataArguments,
    DistillationTrainingArguments,
    ModelArguments,
    build_model,
    build_trainer,
    build_training_frontend,
    finish_run,
    finished_results,
    leave_process_group,
    load_training_data,
    open_run,
    parse_recipe,
    print_once,
    publish_finished,
    run_summary,
)


def main(argv: list[str] | None = None) -> None:
    kinds = (DataArguments, ModelArguments, AugmentationArguments, DistillationTrainingArguments)
    data_args, model_args, augmentation, training = parse_recipe(*kinds, argv=argv, description=__doc__)
    folder = open_run(training, data_args, model_args, augmentation)
    if results := finished_results(folder):
        publish_finished(training, folder)
        return print_once(run_summary(results, folder))

    data = load_training_data(data_args)
    features = data["train"].features
    set_seed(training.seed)
    model, extractor = build_model(model_args, features["labels"].names)
    frontend = build_training_frontend(extractor, augmentation, data_args, devices=features["device_ids"].names)

    trainer = build_trainer(model, training, data, frontend=frontend)
    trainer.train(resume_from_checkpoint=True)
    results = finish_run(trainer, folder)
    print_once(run_summary(results, folder))


if __name__ == "__main__":
    main()
    leave_process_group()
