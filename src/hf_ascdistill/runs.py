"""The folder of a run: its configuration, results and pictures."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from .arguments import DistillationTrainingArguments
from .building import load_classifier
from .complexity import ModelComplexity, check_budget, complexity_rows, measure_complexity
from .data.columns import DEVICE_IDS, LABELS, SAMPLING_RATE
from .denormals import zero_denormals
from .evaluation import evaluate_clips, metrics_table, usual_groups
from .files import write_json, written_whole
from .metrics import mean_over_last_epochs
from .models import AscFeatureExtractor
from .pictures import draw_device_accuracy, draw_training_curve, require_matplotlib
from .trainer import DistillationTrainer
from .transforms import AcousticFrontend

CONFIGURATION_NAME = "configuration.json"
RESULTS_NAME = "results.json"
CURVE_NAME = "training_curve.png"
# fields of the training arguments that change a run's numbers
NUMERIC_FIELDS = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "channels_last",
    "data_seed",
    "dataloader_drop_last",
    "flush_denormals",
    "fp16",
    "frontend_seat",
    "fused_adam",
    "gradient_accumulation_steps",
    "kd_lambda",
    "kd_reduction",
    "kd_temperature",
    "last_epochs",
    "learning_rate",
    "lr_last",
    "lr_ramp_length",
    "lr_ramp_start",
    "lr_reference_epochs",
    "lr_warmup_epochs",
    "max_grad_norm",
    "max_steps",
    "native_kernels",
    "num_train_epochs",
    "per_device_train_batch_size",
    "seed",
    "torch_compile",
    "weight_decay",
    "world_size",
)


def open_run(training: DistillationTrainingArguments, *others: Any) -> Path:
    """Opens the folder of a run: writes its configuration, or checks that it is the same as before.

    A field that the configuration of an older run lacks is taken to have had its default.

    Args:
        training ([`DistillationTrainingArguments`]): names the folder.
        others (`Any`): the recipe's other argument dataclasses.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: the run would not be evaluated once, or the folder belongs to a run of another configuration; the
            arguments that differ are named.
        ImportError: pictures are wanted and matplotlib is absent.
    """
    if training.pictures:
        require_matplotlib()
    if training.eval_strategy == "no":
        raise ValueError(
            "eval_strategy is no, but a run's results are means over its last evaluations; set it to epoch."
        )
    counts_epochs = training.eval_strategy == "epoch" and training.max_steps <= 0
    if counts_epochs and training.eval_delay > training.num_train_epochs:
        raise ValueError(
            f"eval_delay is {training.eval_delay:g}, but num_train_epochs {training.num_train_epochs:g}: the run "
            "would not be evaluated; pass an --eval_delay below that."
        )
    folder = Path(training.output_dir)
    path = folder / CONFIGURATION_NAME
    wanted = {name: getattr(training, name) for name in NUMERIC_FIELDS}
    for arguments in others:
        wanted.update(asdict(arguments))
    if path.exists():
        present = {**_defaults(training, *others), **json.loads(path.read_text())}
        differing = [
            f"{name} was {present.get(name)!r}, now {wanted.get(name)!r}"
            for name in sorted(wanted.keys() | present.keys())
            if present.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(
                f"{folder} holds a run of another configuration: {'; '.join(differing)}. Choose another "
                "--output_dir, or remove this one."
            )
    elif training.should_save:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
    return folder


def _defaults(training: DistillationTrainingArguments, *others: Any) -> dict[str, Any]:
    """Returns the defaults of what a configuration holds: a run that was opened before a field was there had those."""
    defaults = {
        known.name: known.default if known.default_factory is MISSING else known.default_factory()
        for arguments in (training, *others)
        for known in fields(arguments)
        if known.name in NUMERIC_FIELDS or arguments is not training
    }
    return {name: value for name, value in defaults.items() if value is not MISSING}


def finish_run(trainer: DistillationTrainer, folder: Path, *, teachers: Sequence[dict] = ()) -> dict[str, Any]:
    """Saves the model with its front-end, `results.json` and the pictures; with `--push_to_hub`, publishes the run.

    Args:
        trainer ([`DistillationTrainer`]): after training.
        folder (`Path`): the run's folder.
        teachers (`Sequence[dict]`): identity of the teachers of a student.

    Returns:
        `dict`: what `results.json` holds: run, configuration, complexity, teachers, training, epochs, last_epochs.
    """
    zero_denormals(trainer.model.state_dict().values())  # here alone: checkpoints must resume to the bit
    trainer.save_model(str(folder), _internal_call=True)  # a run is pushed once its results are there
    evaluation = trainer.compute_metrics
    complexity = measure_complexity(trainer.model, clip_shape(trainer.frontend.extractor))
    epochs = [evaluation_row(row) for row in trainer.state.log_history if "eval_accuracy" in row]
    results = {
        "run": folder.name,
        "configuration": json.loads((folder / CONFIGURATION_NAME).read_text()),
        "complexity": {**asdict(complexity), "verdict": check_budget(complexity).text},
        "scenes": evaluation.scenes,
        "devices": evaluation.devices,
        "groups": evaluation.groups,
        "teachers": list(teachers),
        # sorted: the state of a resumed training is, and the same run must give the same bytes
        "training": [dict(sorted(row.items())) for row in trainer.state.log_history if "loss" in row],
        "epochs": epochs,
        "last_epochs": mean_over_last_epochs(epochs, trainer.args.last_epochs),
    }
    if trainer.args.should_save:
        if trainer.args.pictures:
            draw_training_curve(results, folder / CURVE_NAME)
            names = {"devices": evaluation.devices, "groups": evaluation.groups}
            draw_device_accuracy([results], folder / "devices.png", **names)
        write_json(folder / RESULTS_NAME, results)  # last: a run that has it is finished
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    return results


def measured_results(path: str | Path, clips, *, batch_size: int = 64) -> dict[str, Any]:
    """Returns what a model card tells of a model that was not trained here: its size, and its metrics on a dataset.

    Args:
        path (`str | Path`): folder or Hub name of the model.
        clips (`datasets.Dataset`): clips of one length that it is evaluated on.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.

    Returns:
        `dict`: `run`, `complexity`, `scenes`, `devices`, `groups` and `last_epochs`, as in `results.json`.

    Raises:
        ValueError: the model has other classes than the clips.
    """
    scenes, devices = clips.features[LABELS].names, clips.features[DEVICE_IDS].names
    model, extractor = load_classifier(path, scenes)
    complexity, groups = measure_complexity(model, clip_shape(extractor)), usual_groups(devices)
    metrics = evaluate_clips(model, clips, frontend=AcousticFrontend(extractor), batch_size=batch_size)
    return {
        "run": Path(path).name,
        "complexity": {**asdict(complexity), "verdict": check_budget(complexity).text},
        "scenes": scenes,
        "devices": devices,
        "groups": groups,
        "last_epochs": metrics,
    }


def evaluation_row(row: Mapping[str, float]) -> dict[str, float]:
    """Strips an entry of the log history to the epoch and its metrics, in the order of their names."""
    speed = ("runtime", "samples_per_second", "steps_per_second")
    names = {name: name.removeprefix("eval_") for name in sorted(row) if name.startswith("eval_")}
    return {"epoch": row["epoch"]} | {short: row[name] for name, short in names.items() if short not in speed}


def run_summary(results: Mapping[str, Any], folder: Path) -> str:
    """Returns the result of a run and where everything is, to be printed."""
    lines = [
        metrics_table(results["last_epochs"]),
        *(f"{name}: {value}" for name, value in complexity_rows(ModelComplexity.from_results(results["complexity"]))),
        f"model, {RESULTS_NAME} and pictures: {folder}",
    ]
    return "\n".join(lines)


def print_once(text: str) -> None:
    """Prints a text on the main process alone."""
    PartialState().print(text)


def leave_process_group() -> None:
    """Leaves the group of processes that a launcher made, if there is one: the last act of a recipe.

    A process that exits while a thread of the group still lets go of tensors aborts, upon which the launcher stops
    those that still write results. The group's threads end with the last of its users; models and trainers that were
    trained in it are collected here, but one that the caller still holds keeps them.
    """
    gc.collect()
    PartialState().destroy_process_group()


def finished_results(folder: Path) -> dict[str, Any] | None:
    """Returns the results of a run that is finished, `None` for one that is not."""
    path = folder / RESULTS_NAME
    return json.loads(path.read_text()) if path.exists() else None


def publish_finished(training: DistillationTrainingArguments, folder: Path) -> None:
    """Publishes a run that was finished before, where its arguments ask for that: an earlier push may have failed.

    Args:
        training ([`DistillationTrainingArguments`]): `push_to_hub` and its like.
        folder (`Path`): the run's folder.
    """
    if not (training.push_to_hub and training.should_save):
        return
    from huggingface_hub import create_repo

    from .hub.publish import publish

    token, private = training.hub_token, training.hub_private_repo
    name = training.hub_model_id or folder.resolve().name
    repo = create_repo(name, token=token, private=private, exist_ok=True).repo_id
    publish(folder, repo, private=bool(private), revision=training.hub_revision, token=token)


def percent(mean: float | None, spread: float | None = None) -> str:
    """Returns a share as percent, with the standard deviation over runs where there is one."""
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a Markdown table: a row per run, accuracy over all, real, seen and unseen devices, size and verdict.

    Args:
        results (`Mapping[str, Mapping]`): name of the row to what the run's `results.json` holds; `spread` beside
            `last_epochs` is the standard deviation over runs.
    """
    columns = {"all": "accuracy", **{name: f"accuracy_{name}" for name in ("real", "seen", "unseen")}}
    lines = [f"| | {' | '.join(columns)} | parameters | MACs | budget |", "|---" * (len(columns) + 4) + "|"]
    for name, run in results.items():
        means, complexity = run["last_epochs"], run["complexity"]
        cells = [percent(means.get(metric), run.get("spread", {}).get(metric)) for metric in columns.values()]
        cells += [f"{complexity['parameters']:,}", f"{complexity['macs'] / 1e6:.1f} M", complexity["verdict"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_report(results: Mapping[str, Mapping[str, Any]], folder: str | Path) -> str:
    """Writes `report.md` with the table of several runs and a picture of their accuracy per device.

    Args:
        results (`Mapping[str, Mapping]`): name of the row to what the run's `results.json` holds.
        folder (`str | Path`): where the report goes; the runs' own folders lie in it.

    Returns:
        `str`: the table and the report's path, to be printed.
    """
    folder = Path(folder)
    runs = list(results.values())
    names = {"devices": runs[0]["devices"], "groups": runs[0]["groups"]}
    draw_device_accuracy([{**run, "run": name} for name, run in results.items()], folder / "devices.png", **names)
    epochs = runs[0]["last_epochs"]["epochs"]
    curves = [Path(run["run"]) / CURVE_NAME for run in runs]
    table = results_table(results)
    text = [
        f"Accuracy in percent on the evaluate list, mean of the last {epochs} epochs.",
        table,
        "![accuracy per device](devices.png)",
        *(f"![{curve.parent}]({curve})" for curve in curves if (folder / curve).exists()),
    ]
    with written_whole(folder / "report.md") as staged:
        staged.write_text("# Report\n\n" + "\n\n".join(text) + "\n")
    return f"{table}\n\nreport with pictures: {folder / 'report.md'}"


def clip_shape(extractor: AscFeatureExtractor, seconds: float = 1.0) -> tuple[int, int, int]:
    """Returns the shape of the log-mel of one clip, `(1, M, F)`."""
    samples = round(seconds * SAMPLING_RATE)
    return tuple(extractor.log_mel(torch.zeros(1, samples)).shape)


__all__ = [
    "clip_shape",
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
]
