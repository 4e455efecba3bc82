"""The tables of a model card: accuracy over devices, scenes and runs, size, front-end, training, teachers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..complexity import ModelComplexity, complexity_rows
from .card_facts import CardFacts, is_number, starts_from_weights

SCENE, LOG_LOSS = "accuracy_scene_", "log_loss"
TYPES = {"asc-cp-mobile": "CP-Mobile", "asc-cp-resnet": "CP-ResNet", "asc-passt": "PaSST"}
HASH_DIGITS = 12  # of a hash that people compare by eye
ABSENT = "-"
SETTINGS = {  # of the front-end, in the order of its work
    "sampling_rate": "sampling rate (Hz)",
    "preemphasis": "pre-emphasis",
    "n_fft": "FFT (samples)",
    "win_length": "Hann window (samples)",
    "hop_length": "hop (samples)",
    "n_mels": "mel bands",
    "fmin": "lowest frequency (Hz)",
    "fmax": "highest frequency (Hz)",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; all columns but the first are set flush right where they hold figures."""
    rows = [list(map(str, row)) for row in rows]
    is_figure = [all(_is_figure(row[column]) for row in rows) for column in range(len(head))]
    rule = ["---:" if is_right and column else "---" for column, is_right in enumerate(is_figure)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _is_figure(text: str) -> bool:
    return text == ABSENT or all(part.replace(",", "").replace(".", "").isdigit() for part in text.split(" ± "))


def percent(share: float) -> str:
    """Returns a share as percent."""
    return f"{100 * share:.1f}"


def several(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 run`, `3 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def metric_names(facts: CardFacts) -> dict[str, str]:
    """Returns what a card calls the metrics over all clips and groups, those that the run has, in order."""
    names = {"accuracy": "all devices"}
    names |= {
        f"accuracy_{group}": f"{group}: {', '.join(devices)}" for group, devices in facts.results["groups"].items()
    }
    names |= {"macro_accuracy": "mean over classes", LOG_LOSS: "log loss (nats)"}
    return {metric: name for metric, name in names.items() if metric in facts.metrics}


def accuracy_table(facts: CardFacts, names: Mapping[str, str], *, head: str) -> str:
    """Returns a table of metrics: of this run, of all runs, and of the student without teachers.

    Args:
        facts ([`CardFacts`]): the runs.
        names (`Mapping[str, str]`): metric to what its row is called.
        head (`str`): what the first column is called.

    Returns:
        `str`: the table; empty where there are no metrics.
    """
    if not names:
        return ""
    columns = {"this model": {name: {"mean": value} for name, value in facts.last_epochs.items()}}
    if facts.runs:
        columns[several(len(facts.runs) + 1, "run")] = facts.summary
    if facts.baseline:
        columns[f"{several(len(facts.baseline), 'run')} without distillation"] = facts.baseline_summary
    rows = (
        [name, *(_cell(values.get(metric), metric) for values in columns.values())] for metric, name in names.items()
    )
    return table([head, *columns], rows)


def _cell(value: Mapping[str, float] | None, metric: str) -> str:
    if value is None or not is_number(value["mean"]):
        return ABSENT
    form = "{:.3f}".format if metric == LOG_LOSS else percent
    spread = value.get("std")
    return form(value["mean"]) + (f" ± {form(spread)}" if is_number(spread) else "")


def device_table(facts: CardFacts) -> str:
    """Returns the table of accuracy per device."""
    names = {
        f"accuracy_{device}": device for device in facts.results["devices"] if f"accuracy_{device}" in facts.metrics
    }
    return accuracy_table(facts, names, head="device")


def scene_table(facts: CardFacts) -> str:
    """Returns the table of accuracy per class."""
    names = {SCENE + scene: scene for scene in facts.results["scenes"] if SCENE + scene in facts.metrics}
    return accuracy_table(facts, names, head="class")


def size_table(facts: CardFacts) -> str:
    """Returns the table of what the network costs."""
    cost = ModelComplexity.from_results(facts.results["complexity"])
    return table(["cost", "this model"], complexity_rows(cost, None))


def front_end_table(facts: CardFacts) -> str:
    """Returns the table of the front-end's settings."""
    settings = facts.extractor_settings
    rows = [(label, f"{settings[name]:,g}") for name, label in SETTINGS.items()]
    normalisation = f"(ln(mel + {settings['log_offset']:g}) + {settings['shift']:g}) / {settings['scale']:g}"
    frames = (settings["sampling_rate"] - 1) // settings["hop_length"] + 1
    return table(
        ["setting", "value"],
        [
            *rows,
            ("normalisation", normalisation),
            ("one second gives", f"{settings['n_mels']} x {frames} (mels x frames)"),
        ],
    )


def teacher_table(facts: CardFacts) -> str:
    """Returns the table of the teachers."""
    rows = []
    for teacher in facts.results["teachers"]:
        model = teacher["model"]
        rows.append(
            (f"`{teacher['name']}`", TYPES.get(model["type"], model["type"]), f"`{model['weights'][:HASH_DIGITS]}`")
        )
    return table(["teacher", "network", "hash of its weights (beginning)"], rows)


def recipe_table(facts: CardFacts) -> str:
    """Returns the table of the training recipe."""
    return table(["setting", "value"], [(name, text) for name, text in _recipe_rows(facts).items() if text])


def _recipe_rows(facts: CardFacts) -> dict[str, str]:
    used = facts.configuration
    batch = used["per_device_train_batch_size"] * used["gradient_accumulation_steps"] * used["world_size"]
    precision = "bfloat16" if used["bf16"] else "float16" if used["fp16"] else "float32"
    return {
        "network": facts.network + (f", with {facts.overrides}" if facts.overrides else ""),
        "starts from": "saved weights" if starts_from_weights(used) else "random weights",
        "seed": str(used["seed"]),
        "training examples": _examples(used),
        "epochs": f"{used['num_train_epochs']:g} ({facts.results['training'][-1]['step']:,} steps)",
        "batch": f"{batch} clips",
        "optimiser": f"Adam, peak learning rate {used['learning_rate']:g}, weight decay (L2) {used['weight_decay']:g}",
        "learning rate": _schedule(used),
        "loss": _loss(facts),
        **_augmentation(facts),
        "precision": precision,
    }


def _examples(used: Mapping[str, Any]) -> str:
    listed = (
        "" if used["train_list"] is None else f", those of the list `{str(used['train_list']).rpartition('/')[2]}`"
    )
    if used.get("random_crops"):
        return f"1-s crops at random samples, drawn anew each epoch{listed}"
    return f"1-s clips{listed}" if used["crop_hop"] is None else f"1-s crops, every {used['crop_hop']:g} s{listed}"


def _schedule(used: Mapping[str, Any]) -> str:
    reference, warm_up = used["lr_reference_epochs"], used["lr_warmup_epochs"]
    end = used["lr_ramp_start"] + used["lr_ramp_length"]
    scaled = "" if reference == used["num_train_epochs"] else f", scaled to {used['num_train_epochs']:g}"
    return (
        f"warm-up to epoch {warm_up}, constant to {used['lr_ramp_start']}, falling linearly to {used['lr_last']:g} of "
        f"the peak at {end}, of {reference} epochs{scaled}"
    )


def _loss(facts: CardFacts) -> str:
    used = facts.configuration
    if not facts.is_student:
        return "cross-entropy with the labels"
    weights = f"{used['kd_lambda']:g} x cross-entropy + {1 - used['kd_lambda']:g} x distillation"
    return (
        f"Eq. 1 of the paper: {weights} at temperature {used['kd_temperature']:g}, reduction `{used['kd_reduction']}`"
    )


def _augmentation(facts: CardFacts) -> dict[str, str]:
    used = facts.configuration
    method = used["device_generalization"]
    devices = "all devices" if used["dir_devices"] is None else f"devices {', '.join(used['dir_devices'])}"
    responses = "a small generated bank" if used["impulse_responses"] is None else facts.context.impulse_responses
    source = "impulse responses of a folder that the publisher does not name" if responses is None else responses
    bounds = {"mel bands": used["max_freq_mask"], "frames": used["max_time_mask"]}
    masks = " and ".join(f"below {bound} {unit}" for unit, bound in bounds.items() if bound)
    each = "one for each clip" if used["mask_per_clip"] else "one for the whole batch"
    roll = used["roll_max_shift"]
    return {
        "DIR": f"p = {used['dir_p']:g}, {devices}, {source}" if "dir" in method else "not used",
        "Freq-MixStyle": f"p = {used['fms_p']:g}, alpha = {used['fms_alpha']:g}" if "fms" in method else "not used",
        "time roll": f"up to {roll:,} samples" if roll else "not used",
        "masks": f"{masks}, {each}" if masks else "not used",
        "upper edge of the mel bank": "jittered in training" if used["fmax_jitter"] else "fixed",
    }


__all__ = [
    "accuracy_table",
    "device_table",
    "front_end_table",
    "metric_names",
    "percent",
    "recipe_table",
    "scene_table",
    "several",
    "size_table",
    "table",
    "teacher_table",
]
