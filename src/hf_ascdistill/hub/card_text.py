"""The sentences of a model card that follow from its figures."""

from collections.abc import Sequence

from .card_facts import DG_METHODS, CardFacts, starts_from_weights
from .card_tables import SCENE, TYPES, percent, several

PAPER = (
    "[Morocutti, Schmid, Koutini and Widmer, *Creating a Good Teacher for Knowledge Distillation in Acoustic Scene "
    "Classification*, DCASE 2023](https://arxiv.org/abs/2503.11363)"
)
NAMED_SCENES = 3  # the best and the worst classes that are named


def summary(facts: CardFacts) -> str:
    """Returns the card's first paragraphs: what the model is, how it was made, what it reaches."""
    scenes, (verb, _, name) = facts.results["scenes"], budget(facts).partition(":")[0].partition(" ")
    return "\n\n".join(
        (
            f"A {facts.network} network that says which of {len(scenes)} classes one second of audio is: "
            f"{', '.join(scenes)}. {_origin(facts)}",
            f"{_reached(facts)} It has {facts.results['complexity']['parameters']:,} parameters and "
            f"{verb} the limits of {name} for small devices.",
        )
    )


def budget(facts: CardFacts) -> str:
    """Returns the verdict of the budget, to stand inside a sentence."""
    return facts.results["complexity"]["verdict"]


def _origin(facts: CardFacts) -> str:
    if not facts.is_trained_here:
        return "How it was trained is not recorded here."
    count = len(facts.results["teachers"])
    teachers = "one teacher" if count == 1 else several(count, "teacher")
    source = f"labels and the logits of {teachers} (knowledge distillation)" if facts.is_student else "labels alone"
    start = "It began with saved weights and learned" if starts_from_weights(facts.configuration) else "It learned"
    method = facts.configuration["device_generalization"]
    means = (
        "" if method == "none" else f", with {DG_METHODS[method]} to prepare it for microphones that it never heard"
    )
    return f"{start} from {source}{means}."


def _reached(facts: CardFacts) -> str:
    chance = f"guessing would reach {percent(1 / len(facts.results['scenes']))} %"
    all_devices = f"It is right on {percent(facts.last_epochs['accuracy'])} % of the evaluation clips ({chance})"
    if "accuracy_unseen" not in facts.metrics:
        return f"{all_devices}."
    unseen = percent(facts.last_epochs["accuracy_unseen"])
    return f"{all_devices}, and on {unseen} % of those from devices that are in no training clip."


def protocol(facts: CardFacts) -> str:
    """Returns what the figures are means of."""
    if not facts.is_trained_here:
        clips = facts.last_epochs.get("clips")
        return f"Figures of these weights on the evaluation clips{'' if clips is None else f' ({clips:,} of them)'}."
    epochs, last = facts.last_epochs["epochs"], facts.results["epochs"][-1]
    runs = len(facts.runs) + 1
    several_runs = "A single run: how far runs with other seeds differ is not known."
    if facts.runs:
        seeds = sorted(run["configuration"]["seed"] for run in (facts.results, *facts.runs))
        several_runs = (
            f"Where {runs} runs are named, it is their mean ± sample standard deviation over the seeds "
            f"{', '.join(map(str, seeds))}; the weights here are those of seed {facts.configuration['seed']}."
        )
    averaged = f"the mean of the last {epochs} epochs, as in the paper" if epochs > 1 else "that of the last epoch"
    return (
        f"Every figure is {averaged}; no epoch was selected. The weights are those of the last epoch, which alone "
        f"reaches {percent(last['accuracy'])} % over all devices. {several_runs}"
    )


def distillation(facts: CardFacts) -> str:
    """Returns what the teachers gained the student; nothing for a model without teachers."""
    if not facts.is_student:
        return ""
    if not facts.baseline:
        return (
            "How the same student does without its teachers was not given, so what distillation gained is not known."
        )
    gains = [
        f"{100 * (facts.summary[metric]['mean'] - facts.baseline_summary[metric]['mean']):+.1f} points on {where}"
        for metric, where in (("accuracy", "all devices"), ("accuracy_unseen", "unseen devices"))
        if metric in facts.summary and metric in facts.baseline_summary
    ]
    return (
        f"Against the same student without distillation: {', '.join(gains)} (difference of the means of "
        f"{several(len(facts.runs) + 1, 'run')} and {several(len(facts.baseline), 'run')}).{_within_spread(facts)}"
    )


def _within_spread(facts: CardFacts) -> str:
    spreads = [summary["accuracy"]["std"] for summary in (facts.summary, facts.baseline_summary)]
    if None in spreads:
        return " With a single run on a side, such a difference may be chance."
    gain = abs(facts.summary["accuracy"]["mean"] - facts.baseline_summary["accuracy"]["mean"])
    if gain > 2 * max(spreads):
        return ""
    return " That is at most two standard deviations of the runs: take it for a tendency."


def teachers(facts: CardFacts) -> str:
    """Returns how the teachers taught."""
    count = len(facts.results["teachers"])
    kinds = {TYPES.get(teacher["model"]["type"], teacher["model"]["type"]) for teacher in facts.results["teachers"]}
    is_online = facts.configuration.get("teacher_mode") == "online"
    how = (
        "ran in the training loop, on the student's own augmented clips"
        if is_online
        else "saw the clean clips, once and before the training"
    )
    mean = "" if count == 1 else ", and the student learned from the mean of their raw logits"
    who, they = ("One teacher", "It") if count == 1 else (several(count, "teacher"), "They")
    return f"{who} ({', '.join(sorted(kinds))}). {they} {how}{mean}."


def limitations(facts: CardFacts) -> str:
    """Returns what the model cannot do, as a list."""
    items = [
        f"It always answers with one of its {len(facts.results['scenes'])} classes, also for a sound that is none of "
        "them, for silence and for noise.",
        _errors(facts),
        _devices(facts),
        "Its scores are the softmax of its logits and were not calibrated: a score of 0.9 does not mean right in nine "
        "of ten cases.",
        "It was evaluated on one split of one dataset. It learned from 1-s clips; longer windows were not evaluated.",
        *_training_limits(facts),
        *facts.context.limitations,
    ]
    return "\n".join(f"- {item}" for item in items if item)


def _errors(facts: CardFacts) -> str:
    shares = {
        scene: facts.last_epochs[SCENE + scene] for scene in facts.results["scenes"] if SCENE + scene in facts.metrics
    }
    if not shares:
        return ""
    worst = sorted(shares, key=shares.__getitem__)[:NAMED_SCENES]
    named = ", ".join(f"{scene} ({percent(shares[scene])} %)" for scene in worst)
    best = max(shares, key=shares.__getitem__)
    return (
        f"Classes differ: it is right least often on {named}, and most often on {best} ({percent(shares[best])} %). "
        "Which class it takes them for is not recorded."
    )


def _devices(facts: CardFacts) -> str:
    known = {
        device: facts.last_epochs[f"accuracy_{device}"]
        for device in facts.results["devices"]
        if f"accuracy_{device}" in facts.metrics
    }
    if not known:
        return ""
    worst = min(known, key=known.__getitem__)
    text = f"Devices differ: on device {worst} it is right in {percent(known[worst])} % only"
    if {"accuracy_seen", "accuracy_unseen"} <= set(facts.metrics):
        drop = 100 * (facts.last_epochs["accuracy_seen"] - facts.last_epochs["accuracy_unseen"])
        text += f", and unseen devices stand {drop:.1f} points {'below' if drop > 0 else 'above'} seen ones"
    return f"{text}. A microphone of another kind may cost more."


def _training_limits(facts: CardFacts) -> list[str]:
    used, limits = facts.configuration, []
    if not facts.is_trained_here:
        return ["As its training is not recorded, neither is how far runs with other seeds differ."]
    if used["num_train_epochs"] < used["lr_reference_epochs"]:
        limits.append(
            f"It trained for {used['num_train_epochs']:g} epochs, on a schedule that was made for "
            f"{used['lr_reference_epochs']} and shortened in proportion: it may be far from what "
            "more training would reach."
        )
    if facts.is_from_scratch and used["architecture"] == "passt":
        limits.append(
            "It began with random weights. The paper's PaSST teachers began with weights from AudioSet; this "
            "one is no substitute for them."
        )
    if facts.overrides:
        limits.append(f"The network is no size of the paper: {facts.overrides}.")
    return limits


def licence(facts: CardFacts) -> str:
    """Returns whose licence the data have, and where the weights are others' that theirs is to be asked for."""
    if facts.is_trained_here:
        return facts.context.data_license
    return (
        f"{facts.context.data_license} The weights are under the licence of those who trained them: where that is "
        "someone else than the publisher, ask them."
    )


def data(facts: CardFacts) -> str:
    """Returns what the data are, and why figures differ from the paper's."""
    context = facts.context
    name = context.dataset_name if context.dataset_url is None else f"[{context.dataset_name}]({context.dataset_url})"
    return f"{name}. {context.dataset_note}"


def computing(facts: CardFacts) -> str:
    """Returns what is known of the run's cost, and what is not."""
    macs = facts.results["complexity"]["macs"] / 1e6
    training = f" Training took {facts.results['training'][-1]['step']:,} steps." if facts.is_trained_here else ""
    known = "" if facts.context.computing is None else f" {facts.context.computing}"
    return (
        f"Energy and emissions were not measured.{training} In use, one second of audio costs {macs:,.1f} million "
        f"multiply-accumulates.{known}"
    )


def picture(facts: CardFacts) -> str:
    """Returns the picture of the accuracy per device, where there is one."""
    return f"![accuracy per device, in percent]({facts.picture})" if facts.picture else ""


def related(facts: CardFacts) -> str:
    """Returns links to what belongs to the model on the Hub, where there is anything."""
    return links(facts.context.related)


def links(names: Sequence[str]) -> str:
    """Returns links to repositories of the Hub, datasets as `datasets/user/name`; nothing for none."""
    linked = [f"[{name.removeprefix('datasets/')}](https://huggingface.co/{name})" for name in names]
    return f"Belonging to it: {', '.join(linked)}." if linked else ""


__all__ = [
    "PAPER",
    "budget",
    "computing",
    "data",
    "distillation",
    "licence",
    "limitations",
    "links",
    "picture",
    "protocol",
    "related",
    "summary",
    "teachers",
]
