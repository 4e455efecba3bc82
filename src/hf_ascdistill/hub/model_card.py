"""The cards of what is published: models, teacher logits, crops, the Space; written from results, never by hand."""

import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from . import card_tables, card_text
from .card_check import check_card
from .card_context import CardContext, resolve_context
from .card_facts import CardFacts, collect_facts, read_template, results_excerpt
from .card_metadata import crops_metadata, logits_metadata, model_metadata, space_metadata

SPACE_TITLE = "Acoustic scenes"
SPACE_PYTHON = "3.11"  # Spaces run an older one unless they are told
SPACE_LEAD = "Small networks say what a recording sounds like, one second at a time."


def render_model_card(
    results: Mapping[str, Any],
    *,
    repo_id: str,
    extractor_settings: Mapping[str, Any] | None = None,
    runs: Sequence[Mapping[str, Any]] = (),
    baseline: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    picture: str | None = "devices.png",
    context: CardContext | None = None,
) -> str:
    """Writes the card of a model from its results.

    Args:
        results (`Mapping`): what `results.json` of the published run holds; of a model that was trained elsewhere, all
            of it but configuration, teachers, training and epochs.
        repo_id (`str`): `user/name`.
        extractor_settings (`Mapping`, *optional*): what `preprocessor_config.json` holds; unset: the usual front-end
            of the run's architecture.
        runs (`Sequence[Mapping]`, *optional*): results of the same experiment with other seeds, for the spread.
        baseline (`Mapping` or a sequence of them, *optional*): results of the same student without teachers.
        picture (`str`, *optional*, defaults to `"devices.png"`): file in the repository with the accuracy per device.
        context ([`CardContext`], *optional*): name, address and licence of the data, and what else no run knows;
            unset: that of TAU22 or of the synthetic corpus, where classes and devices are theirs.

    Returns:
        `str`: the whole README.md, metadata first.

    Raises:
        ValueError: the data are not known and no context is given, results lack an entry, or runs do not belong
            together.
    """
    baseline = (baseline,) if isinstance(baseline, Mapping) else tuple(baseline or ())
    facts = collect_facts(
        results,
        repo_id=repo_id,
        extractor_settings=extractor_settings,
        context=context,
        runs=tuple(runs),
        baseline=baseline,
        picture=picture,
    )
    return _fill("model_card.md", {"metadata": model_metadata(facts).strip(), **_model_parts(facts)})


def _model_parts(facts: CardFacts) -> dict[str, str]:
    rate, sentences = facts.extractor_settings["sampling_rate"], ("computing", "data", "distillation", "limitations")
    sentences += ("protocol", "related", "summary")
    return {
        "name": facts.name,
        "repo_id": facts.repo_id,
        "rate": f"{rate:_}",
        "sampling_rate": f"{rate:,}",
        "paper": card_text.PAPER,
        "bibtex": read_template("citation.bib").strip(),
        "license": card_text.licence(facts),
        "budget": f"it {card_text.budget(facts)}",
        **{name: getattr(card_text, name)(facts) for name in sentences},
        **_model_tables(facts),
    }


def _model_tables(facts: CardFacts) -> dict[str, str]:
    teachers = training = ""
    if facts.is_student:
        teachers = _section("Teachers", card_text.teachers(facts), card_tables.teacher_table(facts))
    if facts.is_trained_here:
        training = _section("Training", card_tables.recipe_table(facts))
    return {
        "accuracy": card_tables.accuracy_table(facts, card_tables.metric_names(facts), head="accuracy (%)"),
        "devices": _subsection("Per device (%)", card_text.picture(facts), card_tables.device_table(facts)),
        "scenes": _subsection("Per class (%)", card_tables.scene_table(facts)),
        "size": card_tables.size_table(facts),
        "front_end": card_tables.front_end_table(facts),
        "teachers": teachers,
        "training": training,
    }


def _section(title: str, *parts: str) -> str:
    return "\n\n".join((f"## {title}", *parts))


def _subsection(title: str, *parts: str) -> str:
    parts = [part for part in parts if part]
    return "\n\n".join((f"### {title}", *parts)) if parts else ""


def render_logits_card(meta: Mapping[str, Any], *, repo_id: str, context: CardContext | None = None) -> str:
    """Writes the card of a set of teacher logits from its manifest.

    Args:
        meta (`Mapping`): what the set's `meta.json` holds.
        repo_id (`str`): `user/name` of the dataset repository.
        context ([`CardContext`], *optional*): name, address and licence of the data; unset: that of TAU22 or of the
            synthetic corpus, where the classes are theirs.

    Returns:
        `str`: the whole README.md, metadata first.

    Raises:
        ValueError: the data are not known and no context is given, or the manifest lacks an entry.
    """
    missing = [name for name in ("name", "model", "front_end", "scenes", "clips", "data", "files") if name not in meta]
    if missing:
        raise ValueError(f"the manifest lacks {', '.join(missing)}; expected what meta.json of a finished set holds.")
    context = resolve_context(meta["scenes"], None, context)
    network = card_tables.TYPES.get(meta["model"]["type"], meta["model"]["type"])
    parts = {
        "metadata": logits_metadata(meta, context).strip(),
        "name": repo_id.rpartition("/")[2],
        "repo_id": repo_id,
        "teacher_name": meta["name"],
        "network": network,
        "weights": meta["model"]["weights"],
        "data": meta["data"] or "not known",
        "clips": f"{meta['clips']:,}",
        "scenes": ", ".join(meta["scenes"]),
        "dataset": _dataset_link(context),
        "paper": card_text.PAPER,
        "note": context.dataset_note,
        "front_end": _front_end(meta["front_end"]),
        "limitations": "\n".join(f"- {text}" for text in context.limitations),
        "license": context.data_license,
        "related": card_text.links(context.related),
        "bibtex": read_template("citation.bib").strip(),
    }
    return _fill("logits_card.md", parts)


def _dataset_link(context: CardContext) -> str:
    url = context.dataset_url
    return context.dataset_name if url is None else f"[{context.dataset_name}]({url})"


def _front_end(settings: Mapping[str, Any]) -> str:
    if not settings:
        return "The front-end of the teacher is not recorded."
    return (
        f"The teacher heard it at {settings['sampling_rate']:,} Hz as {settings['n_mels']} mel bands every "
        f"{settings['hop_length']:g} samples."
    )


def render_crops_card(summary: Mapping[str, Any], *, repo_id: str, context: CardContext | None = None) -> str:
    """Writes the card of an index of crops.

    Args:
        summary (`Mapping`): what [`crops_summary`] says of it.
        repo_id (`str`): `user/name` of the dataset repository.
        context ([`CardContext`], *optional*): name, address and licence of the data; unset: that of TAU22 or of the
            synthetic corpus, where classes and devices are theirs.

    Returns:
        `str`: the whole README.md, metadata first.

    Raises:
        ValueError: the data are not known and no context is given.
    """
    context, splits = resolve_context(summary["scenes"], summary["devices"], context), summary["splits"]
    parts = {
        "metadata": crops_metadata(summary, context).strip(),
        "name": repo_id.rpartition("/")[2],
        "repo_id": repo_id,
        "split": next(iter(splits)),
        "crops": f"{sum(split['crops'] for split in splits.values()):,}",
        "scenes": ", ".join(summary["scenes"]),
        "devices": ", ".join(summary["devices"]),
        "splits": "\n".join(_split_row(name, split) for name, split in splits.items()),
        "dataset": _dataset_link(context),
        "paper": card_text.PAPER,
        "note": context.dataset_note,
        "license": context.data_license,
        "related": card_text.links(context.related),
        "bibtex": read_template("citation.bib").strip(),
    }
    return _fill("crops_card.md", parts)


def _split_row(name: str, split: Mapping[str, Any]) -> str:
    seconds = [f"{length:g}" for length in split["seconds"]]
    length = seconds[0] if len(seconds) == 1 else f"{seconds[0]} to {seconds[-1]}"
    begin = f"on a grid of {split['grid']:g} s" if split["grid"] else "with the recording"
    counts = f"{split['crops']:,} | {split['recordings']:,}"
    return f"| {name} | {counts} | {length} s | {begin} | `{split['data']}` |"


def render_space_card(
    *,
    repo_id: str,
    models: Sequence[str],
    sdk_version: str,
    title: str = SPACE_TITLE,
    license: str = "apache-2.0",
) -> str:
    """Writes the card of the demo, a Gradio Space.

    Args:
        repo_id (`str`): `user/name` of the Space.
        models (`Sequence[str]`): Hub names of the models that it offers.
        sdk_version (`str`): version of gradio that it runs with.
        title (`str`, *optional*): its title on the Hub.
        license (`str`, *optional*, defaults to `"apache-2.0"`): licence of its code, by its name on the Hub.

    Returns:
        `str`: the whole README.md, metadata first.

    Raises:
        ValueError: no model is named.
    """
    if not models or isinstance(models, str):
        raise ValueError(f"models is {models!r}; expected the Hub names of the models that {repo_id} offers.")
    metadata = space_metadata(
        title,
        emoji="\N{EAR}",
        colorFrom="blue",
        colorTo="green",
        sdk_version=sdk_version,
        python_version=SPACE_PYTHON,
        short_description="Small networks say what they hear",
        license=license,
        models=list(models),
        tags=["audio", "acoustic-scene-classification"],
    )
    parts = {
        "metadata": metadata.strip(),
        "title": title,
        "lead": SPACE_LEAD,
        "models": "\n".join(f"- [{name}](https://huggingface.co/{name})" for name in models),
        "paper": card_text.PAPER,
    }
    return _fill("space_card.md", parts)


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """Fills a template; where a part is empty, no second blank line stays."""
    text = Template(read_template(template)).substitute(parts)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip() + "\n"


__all__ = ["CardContext", "check_card", "render_crops_card", "render_logits_card", "render_model_card"]
__all__ += ["render_space_card", "resolve_context", "results_excerpt"]
