"""From arguments to parts: data, model, front-end and trainer of a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProgressCallback
from transformers.utils import CONFIG_NAME

from .arguments import (
    AugmentationArguments,
    DataArguments,
    DistillationTrainingArguments,
    ModelArguments,
    TeacherArguments,
)
from .data.columns import LENGTH, SAMPLING_RATE
from .data.corpus import load_corpus
from .data.crops import shifted_crops
from .data.impulse_responses import default_impulse_responses, load_impulse_responses
from .data.index import rows_of
from .data.random_crops import random_crops
from .ensembles import named_by_folder
from .evaluation import SceneEvaluation
from .models import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
)
from .online import OnlineTeachers
from .teachers import attach_logits, average_logits, check_scenes, load_logits
from .trainer import DistillationTrainer
from .transforms import AcousticFrontend, AugmentationSettings, FreqMixStyle, build_frontend, with_frontend

ARCHITECTURES = {
    "cp-mobile": (CpMobileConfig, CpMobileForAudioClassification),
    "cp-resnet": (CpResNetConfig, CpResNetForAudioClassification),
    "passt": (PasstConfig, PasstForAudioClassification),
}


def load_training_data(arguments: DataArguments):
    """Opens the corpus or store of a recipe: the training clips or their crops, and the evaluate list.

    Args:
        arguments ([`DataArguments`]): where the data are and how they are cut.

    Returns:
        `datasets.DatasetDict`: `train` and `evaluate`. With a `crop_hop`, training is cut into 1-s crops every so many
        seconds, with `random_crops` at random samples that `DistillationTrainer` draws anew in each epoch; and
        evaluation recordings that are longer than 1 s into 1-s clips that do not overlap.

    Raises:
        ValueError: nothing cuts the clips of a split, which differ in length; or random crops are asked for and the
            data are not prepared.
    """
    data = load_corpus(arguments.data, train_list=arguments.train_list)
    lengths = {split: set(rows_of(clips)[LENGTH].to_pylist()) for split, clips in data.items()}
    is_cut = arguments.crop_hop is not None or arguments.random_crops
    if is_cut:
        cut = random_crops if arguments.random_crops else shifted_crops
        data["train"] = cut(data["train"], hop_seconds=1.0 if arguments.crop_hop is None else arguments.crop_hop)
        if lengths["evaluate"] != {SAMPLING_RATE}:
            data["evaluate"] = shifted_crops(data["evaluate"], hop_seconds=1.0)
    for split in () if is_cut else data:
        if len(lengths[split]) > 1:
            raise ValueError(
                f"the clips of {split} in {arguments.data} last {min(lengths[split]) / SAMPLING_RATE:g} to "
                f"{max(lengths[split]) / SAMPLING_RATE:g} s; a batch needs one length: cut them with --crop_hop 0.5."
            )
    return data


def build_model(arguments: ModelArguments, scenes: Sequence[str]) -> tuple[PreTrainedModel, AscFeatureExtractor]:
    """Builds a new model, or loads the one to start from, with the front-end that belongs to it.

    Args:
        arguments ([`ModelArguments`]): architecture and size, or a folder.
        scenes (`Sequence[str]`): names of the classes, in the order of the label ids.

    Raises:
        ValueError: the architecture is unknown, a loaded model has other classes, or `config_overrides` are no fields
            of the architecture or are given for a loaded model.
    """
    if arguments.initial_weights is not None:
        if arguments.config_overrides is not None:
            raise ValueError(
                f"config_overrides is {arguments.config_overrides!r}, but initial_weights is given: a saved model "
                "keeps its own configuration; give one of them."
            )
        return load_classifier(arguments.initial_weights, scenes)
    if arguments.architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {arguments.architecture!r}; expected one of {', '.join(ARCHITECTURES)}.")
    config_class, model_class = ARCHITECTURES[arguments.architecture]
    overrides = parse_overrides(arguments.config_overrides or "", config_class)
    config = config_class.from_preset(arguments.size, **overrides, **label_names(scenes))
    return model_class(config), AscFeatureExtractor.from_preset(arguments.architecture)


def parse_overrides(text: str, config_class: type[PreTrainedConfig]) -> dict[str, int | float]:
    """Reads `"hidden_size=48,num_hidden_layers=2"` as fields of a configuration.

    Args:
        text (`str`): `name=value` pairs, separated by commas; may be empty.
        config_class (`type[PreTrainedConfig]`): the configuration; only fields of its own may be named.

    Raises:
        ValueError: a pair has no `=`, a name is unknown or named twice, or a value is no number of the field's type.
    """
    inherited = {field.name for field in fields(PreTrainedConfig)}
    types = {field.name: field.type for field in fields(config_class) if field.name not in inherited}
    values: dict[str, int | float] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = map(str.strip, pair.partition("="))
        if not equals:
            raise ValueError(f"config_overrides has {pair!r}; expected name=value pairs, separated by commas.")
        if name not in types or name in values:
            problem = "twice" if name in values else "as a field"
            raise ValueError(
                f"config_overrides names {name!r} {problem}; expected fields of {config_class.__name__}, each once: "
                f"{', '.join(types)}."
            )
        try:
            values[name] = types[name](value)
        except ValueError as error:
            expected = "a whole number" if types[name] is int else "a number"
            raise ValueError(f"config_overrides gives {name} the value {value!r}; expected {expected}.") from error
    return values


def load_classifier(
    path: str | Path, scenes: Sequence[str] | None = None
) -> tuple[PreTrainedModel, AscFeatureExtractor]:
    """Loads a saved classifier and its front-end.

    Args:
        path (`str | Path`): folder or Hub name.
        scenes (`Sequence[str]`, *optional*): classes that the model must have, in order.

    Raises:
        ValueError: the model has other classes; both are named.
    """
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    model = AutoModelForAudioClassification.from_pretrained(path, dtype=torch.float32)  # as log-mels are
    if scenes is not None:
        check_scenes(model, scenes)
    return model, AutoFeatureExtractor.from_pretrained(path)


def load_classifiers(
    paths: Sequence[str | Path], scenes: Sequence[str] | None = None
) -> dict[str, tuple[PreTrainedModel, AcousticFrontend]]:
    """Loads several saved classifiers by the names of their folders, each with its front-end.

    Args:
        paths (`Sequence[str | Path]`): folders or Hub names.
        scenes (`Sequence[str]`, *optional*): classes that the models must have, in order.

    Raises:
        ValueError: two folders have the same name, or a model has other classes; it is named.
        FileNotFoundError: a folder is no finished run, or there is neither a folder nor a model of the Hub.
    """
    named = named_by_folder(paths)
    for path in named.values():
        if path.is_dir() and not (path / CONFIG_NAME).exists():
            raise FileNotFoundError(f"{path} is no finished run ({CONFIG_NAME} is missing); train it to its end.")
    runs = {}
    for name, path in named.items():
        try:
            model, extractor = load_classifier(path)
        except OSError as error:
            raise FileNotFoundError(
                f"{path} is neither the folder of a run nor a model of the Hub that can be loaded; its error: {error}"
            ) from error
        if scenes is not None:
            check_scenes(model, scenes, name=path)
        runs[name] = (model, AcousticFrontend(extractor))
    return runs


def label_names(scenes: Sequence[str]) -> dict[str, dict]:
    """Returns `id2label` and `label2id` of a configuration."""
    return {"id2label": dict(enumerate(scenes)), "label2id": {name: index for index, name in enumerate(scenes)}}


def build_training_frontend(
    extractor: AscFeatureExtractor, augmentation: AugmentationArguments, data: DataArguments, *, devices: Sequence[str]
) -> AcousticFrontend:
    """Builds the augmenting front-end of a training run.

    Args:
        extractor ([`AscFeatureExtractor`]): the model's log-mel settings.
        augmentation ([`AugmentationArguments`]): what is augmented and how often.
        data ([`DataArguments`]): names the folder of impulse responses.
        devices (`Sequence[str]`): device names in the order of their ids.

    Raises:
        ValueError: `dir_devices` names a device that the data lack.
    """
    settings = asdict(augmentation)
    names = settings.pop("dir_devices")
    unknown = sorted(set(names or ()) - set(devices))
    if unknown:
        raise ValueError(f"dir_devices names {', '.join(unknown)}; the data's devices are {', '.join(devices)}.")
    responses = None
    if "dir" in augmentation.device_generalization:
        responses = load_bank(data)
    jitter = AugmentationSettings().fmax_jitter if settings.pop("fmax_jitter") else None
    ids = None if names is None else tuple(devices.index(name) for name in names)
    return build_frontend(
        extractor, AugmentationSettings(**settings, dir_devices=ids, fmax_jitter=jitter), impulse_responses=responses
    )


def load_bank(arguments: DataArguments) -> torch.Tensor:
    """Returns the impulse responses of the folder that a recipe names, or the generated bank, `(n, taps)`."""
    if arguments.impulse_responses is None:
        return default_impulse_responses()
    return load_impulse_responses(arguments.impulse_responses, resample=arguments.resample_impulse_responses)


def attach_teachers(clips, arguments: TeacherArguments) -> tuple[Any, list[dict]]:
    """Attaches the mean of the teachers' logits to the training clips.

    Args:
        clips (`datasets.Dataset`): the student's training clips or crops.
        arguments ([`TeacherArguments`]): the teachers' logit sets.

    Returns:
        `tuple`: the clips with `teacher_logits`, and the identity of each teacher.

    Raises:
        ValueError: no set is named, or a set does not belong to these clips.
    """
    if not arguments.teacher_logits:
        raise ValueError(
            "a student needs teachers: pass --teacher_logits FOLDER..., or train it with train_teacher.py."
        )
    ensemble = average_logits(load_logits(folder) for folder in arguments.teacher_logits)
    return attach_logits(clips, ensemble, allow_extra=arguments.allow_extra_logits), list(ensemble.members)


def load_online_teachers(arguments: TeacherArguments, scenes: Sequence[str]) -> OnlineTeachers:
    """Loads the teachers that run in the student's training loop.

    Args:
        arguments ([`TeacherArguments`]): names the teachers' folders.
        scenes (`Sequence[str]`): classes that they must have, in order.

    Raises:
        ValueError: the arguments ask for cached logits, two folders have one name, or a teacher has other classes; it
            is named.
        FileNotFoundError: a folder is no finished run.
    """
    if arguments.teacher_mode != "online":
        raise ValueError(f"teacher_mode is {arguments.teacher_mode!r}; online teachers need 'online'.")
    return OnlineTeachers(load_classifiers(arguments.teachers, scenes))


class ConciseProgress(ProgressCallback):
    """Shows the few numbers of an epoch that one watches; all of them are in results.json."""

    SHOWN = ("loss", "label_loss", "teacher_loss", "eval_accuracy", "eval_accuracy_unseen", "eval_log_loss", "epoch")

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        shown = {name: logs[name] for name in self.SHOWN if name in (logs or {})}
        if shown.keys() - {"epoch"}:
            super().on_log(args, state, control, logs=shown, **kwargs)


def build_trainer(
    model: PreTrainedModel,
    arguments: DistillationTrainingArguments,
    data: Mapping[str, Any],
    *,
    frontend: AcousticFrontend,
    teachers: OnlineTeachers | None = None,
) -> DistillationTrainer:
    """Builds the trainer of a run, with the front-end in the seat that the arguments name.

    Args:
        model (`PreTrainedModel`): the network.
        arguments ([`DistillationTrainingArguments`]): training arguments.
        data (`Mapping[str, Dataset]`): `train` and `evaluate`.
        frontend ([`AcousticFrontend`]): the augmenting front-end.
        teachers ([`OnlineTeachers`], *optional*): teachers that run in the training loop; unset: the training data
            have `teacher_logits`, or labels alone.

    Raises:
        ValueError: an epoch would end in a batch of one clip, which Freq-MixStyle cannot mix; or teachers are online
            and the front-end sits in the workers.
    """
    train, evaluate = data["train"], data["evaluate"]
    if teachers is not None and arguments.frontend_seat == "workers":
        raise ValueError(
            "frontend_seat is workers, so only log-mels reach the trainer, but online teachers need the waveforms: "
            "pass --frontend_seat accelerator, or cache the teachers' logits."
        )
    check_last_batch(len(train), arguments, frontend)
    if not arguments.native_kernels:
        frontend = frontend.with_native_kernels(False)
    if arguments.frontend_seat == "workers":
        train, evaluate = with_frontend(train, frontend), with_frontend(evaluate, frontend.evaluation())
    trainer = DistillationTrainer(
        model,
        arguments,
        frontend=frontend,
        teachers=teachers,
        train_dataset=train,
        eval_dataset=evaluate,
        compute_metrics=SceneEvaluation.of(data),
        processing_class=frontend.extractor,
    )
    if not arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ConciseProgress())
    return trainer


def check_last_batch(clips: int, arguments: DistillationTrainingArguments, frontend: AcousticFrontend) -> None:
    """Raises before training where no batch would be whole, and what Freq-MixStyle would raise after the first epoch.

    Args:
        clips (`int`): number of training clips.
        arguments ([`DistillationTrainingArguments`]): has the size of the batch.
        frontend ([`AcousticFrontend`]): the augmenting front-end.

    Raises:
        ValueError: there is no batch in an epoch, or the front-end mixes and an epoch would end in one of one clip.
    """
    together = arguments.train_batch_size * arguments.world_size
    if clips == 0 or arguments.dataloader_drop_last and clips < together:
        raise ValueError(
            f"{clips} training clips are fewer than a batch of {together}, and dataloader_drop_last is "
            f"{arguments.dataloader_drop_last}: pass more clips, or a smaller --per_device_train_batch_size."
        )
    mixes = any(
        isinstance(transform, FreqMixStyle) and transform.p > 0 for transform in frontend.spectrogram_transforms
    )
    is_filled = arguments.dataloader_drop_last or arguments.world_size > 1  # several processes share out full batches
    if mixes and not is_filled and clips % arguments.train_batch_size == 1:
        raise ValueError(
            f"{clips} training clips in batches of {arguments.train_batch_size} leave a last batch of one clip, which "
            "Freq-MixStyle cannot mix: pass --dataloader_drop_last true, or another batch size."
        )


__all__ = [
    "ConciseProgress",
    "attach_teachers",
    "build_model",
    "build_trainer",
    "build_training_frontend",
    "check_last_batch",
    "load_bank",
    "load_classifier",
    "load_classifiers",
    "load_online_teachers",
    "load_training_data",
    "parse_overrides",
]
