"""Adapts a student to each device of the training clips, for where the device is known (DCASE 2025, task 1).

accelerate launch recipes/adapt_devices.py --config recipes/configs/adapt.yaml \
    --model runs/student-cpr-128k-dirfms-s0 --teacher_logits logits/cpr-128k-dirfms-s0 \
    --data prepared/tau22 --crop_hop 0.5 --output_dir runs/student-devices --seed 0

Each device gets a copy of the general student, fine-tuned on its clips alone, with the teachers' logits or on labels.
Devices without training clips keep the general student. `DeviceStudents.from_pretrained` and evaluate_run.py read the
folder. Results are those of the last epoch; a student that is worse than the general one on its device is named, not
replaced: the evaluate list must not choose, and the general student has already seen every training clip.
"""

from dataclasses import dataclass, field, replace

from accelerate import PartialState
from transformers import set_seed

from hf_ascdistill import (
    AugmentationArguments,
    DataArguments,
    DeviceStudents,
    DistillationTrainingArguments,
    SceneEvaluation,
    TeacherArguments,
    attach_teachers,
    build_trainer,
    build_training_frontend,
    check_batches,
    clips_of_device,
    devices_to_adapt,
    finish_run,
    finished_results,
    freeze_batch_norm,
    has_device_students,
    leave_process_group,
    load_classifier,
    load_online_teachers,
    load_training_data,
    open_run,
    parse_recipe,
    print_once,
    save_general,
    students_summary,
    write_device_students,
)


@dataclass
class AdaptArguments:
    """Parameters that control which student is adapted, and to which devices."""

    model: str = field(metadata={"help": "run folder, saved model or Hub name of the general student"})
    devices: list[str] | None = field(default=None, metadata={"help": "devices; unset: all of the training clips"})
    keep_statistics: bool = field(
        default=True, metadata={"help": "keep the general student's statistics of batch normalisation"}
    )


def main(argv: list[str] | None = None) -> None:
    kinds = (AdaptArguments, DataArguments, AugmentationArguments, TeacherArguments, DistillationTrainingArguments)
    adapt, data_args, augmentation, teacher_args, training = parse_recipe(*kinds, argv=argv, description=__doc__)
    if training.push_to_hub:
        raise ValueError(
            "push_to_hub is True, but there is a student for each device: push one with publish.py --run."
        )
    folder = open_run(training, adapt, data_args, augmentation, teacher_args)
    if has_device_students(folder):
        return print_once(students_summary(finished_results(folder), folder))

    data = load_training_data(data_args)
    features, devices = data["train"].features, devices_to_adapt(data, adapt.devices)
    scenes, groups, teachers, online = features["labels"].names, SceneEvaluation.of(data).groups, [], None
    if teacher_args.teacher_mode == "online":
        online = load_online_teachers(teacher_args, scenes)
        teachers = online.identities
    elif teacher_args.teacher_logits:
        data["train"], teachers = attach_teachers(data["train"], teacher_args)
    student, extractor = load_classifier(adapt.model, scenes)
    frontend = build_training_frontend(extractor, augmentation, data_args, devices=features["device_ids"].names)
    clips = {device: clips_of_device(data, device) for device in devices}
    counts = {device: len(of_device["train"]) for device, of_device in clips.items()}
    check_batches(counts, training, frontend)
    with PartialState().main_process_first():  # the others then find it, and look whether it is the same
        general = save_general(student, extractor, folder)

    for device, of_device in clips.items():
        run = replace(training, output_dir=str(folder / device))
        run_folder = open_run(run, replace(adapt, devices=[device]), data_args, augmentation, teacher_args)
        if finished_results(run_folder):
            continue
        set_seed(training.seed)
        model, _ = load_classifier(general)
        if adapt.keep_statistics:
            freeze_batch_norm(model)
        trainer = build_trainer(model, run, of_device, frontend=frontend, teachers=online)
        trainer.train(resume_from_checkpoint=True)
        finish_run(trainer, run_folder, teachers=teachers)

    if PartialState().is_main_process:
        students = DeviceStudents.of_devices(folder, devices).to(training.device)
        compared = students.compare(data["evaluate"], batch_size=training.per_device_eval_batch_size, groups=groups)
        results = {
            "run": folder.name,
            "model": adapt.model,
            "training_clips": counts,
            "teachers": teachers,
            **compared,
        }
        write_device_students(folder, devices, results=results, picture=training.pictures)
    PartialState().wait_for_everyone()
    print_once(students_summary(finished_results(folder), folder))


if __name__ == "__main__":
    main()
    leave_process_group()
