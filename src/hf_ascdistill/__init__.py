"""Tiny, device-robust acoustic scene classifiers, trained by knowledge distillation with the Hugging Face libraries.

Importing the package registers its models and its feature extractor with the Auto classes of transformers. Every
other public name is imported when it is first used, so that a model loads without `datasets`, `evaluate`, `soundfile`
or `soxr`.
"""

import shlex
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_PUBLIC_NAMES = {
    "models.configuration_cp_mobile": ("CpMobileConfig",),
    "models.modeling_cp_mobile": ("CpMobileForAudioClassification", "CpMobileModel"),
    "models.configuration_cp_resnet": ("CpResNetConfig",),
    "models.modeling_cp_resnet": ("CpResNetForAudioClassification", "CpResNetModel"),
    "models.configuration_passt": ("PasstConfig",),
    "models.modeling_passt": ("PasstForAudioClassification", "PasstModel"),
    "models.feature_extraction_asc": ("AscFeatureExtractor",),
    "files": ("check_unused",),
    "allocator": ("keep_freed_memory",),
    "data.tau22": ("DEVICES", "DEVICE_GROUPS", "SCENES", "device_groups", "load_tau22", "select_listed"),
    "data.crops": ("aligned_only", "shifted_crops"),
    "data.crops_index": ("load_crops_index",),
    "data.random_crops": ("random_crops",),
    "data.store": ("data_fingerprint", "load_prepared", "prepare", "prepare_recordings"),
    "data.corpus": ("load_corpus", "load_split"),
    "data.logits": ("LogitsSet", "load_logits"),
    "data.collator": ("collate_clips",),
    "data.impulse_responses": ("default_impulse_responses", "load_impulse_responses"),
    "data.synthetic": ("SyntheticSettings", "write_synthetic_corpus"),
    "transforms.waveform": ("DeviceImpulseResponse", "TimeRoll"),
    "transforms.spectrogram": ("FreqMixStyle", "SpectrogramMask"),
    "transforms.frontend": ("AcousticFrontend", "AugmentationSettings", "build_frontend", "with_frontend"),
    "metrics": ("load_scene_metrics", "mean_over_last_epochs", "scene_metrics", "summarize_runs"),
    "losses": ("distillation_loss", "distillation_loss_parts"),
    "schedule": ("EpochSchedule", "warmup_rampdown_factor"),
    "complexity": ("budget_table", "check_budget", "complexity_rows", "measure_complexity"),
    "fusing": ("drop_dead_channels", "fuse"),
    "native": ("use_native_kernels",),
    "pictures": ("draw_device_accuracy", "draw_training_curve"),
    "arguments": (
        "AugmentationArguments",
        "DataArguments",
        "DistillationTrainingArguments",
        "ModelArguments",
        "TeacherArguments",
        "check_world_size",
        "parse_recipe",
    ),
    "evaluation": ("SceneEvaluation", "evaluate_clips", "evaluate_logits", "metrics_table", "predict_batches"),
    "online": ("OnlineTeachers",),
    "teachers": ("attach_logits", "average_logits"),
    "ensembles": (
        "ensemble_metrics",
        "ensemble_summary",
        "finished_ensemble",
        "finished_sets",
        "named_by_folder",
        "write_ensemble",
    ),
    "inference": ("inference_copy",),
    "prediction": ("PredictionSettings", "predict_logits", "predict_logits_of_many"),
    "quantization": ("FreezeRanges", "calibrate", "plain_model", "prepare_qat"),
    "int8": ("int8_twin",),
    "export.compiled": ("compile_classifier",),
    "quantized_runs": ("compare_networks", "networks_table", "require_onnx"),
    "soup": ("average_weights", "check_alike", "reestimate_batch_norm", "soup_metrics", "soup_summary", "write_soup"),
    "conversion": ("ConversionSettings", "convert_checkpoint", "convert_logits", "load_checkpoint"),
    "trainer": ("DistillationTrainer", "last_complete_checkpoint"),
    "building": (
        "attach_teachers",
        "build_model",
        "build_trainer",
        "build_training_frontend",
        "load_classifier",
        "load_classifiers",
        "load_online_teachers",
        "load_training_data",
    ),
    "runs": (
        "finish_run",
        "finished_results",
        "leave_process_group",
        "measured_results",
        "open_run",
        "print_once",
        "publish_finished",
        "results_table",
        "run_summary",
        "write_report",
    ),
    "device_students": ("DeviceStudents", "has_device_students"),
    "device_adaptation": (
        "check_batches",
        "clips_of_device",
        "devices_to_adapt",
        "freeze_batch_norm",
        "save_general",
        "students_summary",
        "write_device_students",
    ),
    "hub.card_context": ("CardContext",),
    "hub.export": ("ExportSettings", "export_model"),
    "hub.publish": ("publish",),
    "hub.publish_datasets": ("publish_crops_index", "publish_logits"),
    "hub.repository": ("stage_repository", "validate_repository"),
    "experiments.grid": ("load_table", "student_name", "table_path"),
    "experiments.presets": ("load_preset", "preset_path"),
    "experiments.jobs": ("PlanSettings",),
    "experiments.costs": ("SpeedModel",),
    "experiments.plan": ("Plan",),
    "experiments.tables": ("collect_table", "planned_seeds"),
    "experiments.report": ("write_tables",),
    "hub.handler": ("BadRequest", "EndpointHandler", "Limits"),
    "hub.listening": ("Hearing", "describe_complexity", "draw_hearing", "hear", "load_students", "named_models"),
    "hub.serve": ("ServeArguments", "create_app"),
    "hub.streaming": ("StreamDecision", "StreamingClassifier"),
    "hub.windows": ("WindowScores", "predict_windows"),
    "command_line.convert": ("ConvertArguments", "convert_file"),
    "command_line.publish": ("PublishArguments", "publish_chosen"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC_NAMES.items() for name in names}


def _check_torchaudio() -> None:
    """Says how to mend a torchaudio that would make transformers fail with an error from deep inside it."""
    try:
        import torchaudio  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torchaudio":
            raise
    except (OSError, RuntimeError) as error:  # a library that is not there; another CUDA version than torch's
        script = shlex.quote(str(Path(__file__).resolve().with_name("repair_torchaudio.py")))
        raise ImportError(
            f"torchaudio does not fit the installed torch ({type(error).__name__}), so run `python {script}` once and "
            "import hf_ascdistill again."
        ) from error


def _register_models() -> None:
    from .models import register

    register()


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


_check_torchaudio()
_register_models()

__all__ = ["__version__", *_MODULE_OF]
