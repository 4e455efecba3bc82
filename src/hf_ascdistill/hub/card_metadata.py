"""The YAML metadata at the head of a card, as the Hub reads them."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData

from ..complexity import DCASE_2023_BUDGET
from ..data.crops_index import SUFFIX
from .card_context import CardContext
from .card_facts import CardFacts
from .card_tables import LOG_LOSS, TYPES, metric_names

TASK, TASK_NAME = "audio-classification", "Audio Classification"
TAGS = ("audio", "acoustic-scene-classification", "dcase")
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
LARGEST_SIZE = "10M<n<100M"


def model_metadata(facts: CardFacts) -> str:
    """Returns the metadata of a model, YAML without its fences.

    The values of `model-index` are those of the run's `last_epochs`, unrounded.
    """
    cost = facts.results["complexity"]
    is_small = cost["int8_bytes"] <= DCASE_2023_BUDGET.max_bytes and cost["macs"] <= DCASE_2023_BUDGET.max_macs
    tags = [
        *TAGS,
        *(["knowledge-distillation"] if facts.is_student else []),
        *(["low-complexity"] if is_small else []),
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        **_license(facts.context),
        datasets=[facts.context.dataset_id],
        metrics=["accuracy"],
        base_model=facts.context.base_model,
        tags=tags,
        model_name=facts.name,
        eval_results=[_eval_result(facts, metric, name) for metric, name in metric_names(facts).items()],
    )
    return data.to_yaml()


def _license(context: CardContext) -> dict[str, str | None]:
    return {name: getattr(context, name) for name in ("license", "license_name", "license_link")}


def _eval_result(facts: CardFacts, metric: str, name: str) -> EvalResult:
    is_loss = metric == LOG_LOSS
    return EvalResult(
        task_type=TASK,
        task_name=TASK_NAME,
        dataset_type=facts.context.dataset_id,
        dataset_name=facts.context.dataset_name,
        dataset_split="evaluate",
        metric_type=LOG_LOSS if is_loss else "accuracy",
        metric_name=name if is_loss else f"accuracy, {name}",
        metric_value=facts.last_epochs[metric],
    )


def logits_metadata(meta: Mapping[str, Any], context: CardContext) -> str:
    """Returns the metadata of a set of logits, YAML without its fences."""
    kind = TYPES.get(meta["model"]["type"], meta["model"]["type"])
    return _dataset_metadata(
        context,
        pretty_name=f"Logits of {meta['name']} ({kind}) for {context.dataset_name}",
        rows=meta["clips"],
        tags=["knowledge-distillation", "logits"],
        files={"train": list(meta["files"])},
    )


def crops_metadata(summary: Mapping[str, Any], context: CardContext) -> str:
    """Returns the metadata of an index of crops, YAML without its fences."""
    return _dataset_metadata(
        context,
        pretty_name=f"Crops of {context.dataset_name}",
        rows=sum(split["crops"] for split in summary["splits"].values()),
        tags=["index"],
        files={split: f"{split}{SUFFIX}" for split in summary["splits"]},
    )


def _dataset_metadata(
    context: CardContext, *, pretty_name: str, rows: int, tags: list[str], files: Mapping[str, str | list[str]]
) -> str:
    data = DatasetCardData(
        pretty_name=pretty_name,
        **_license(context),
        task_categories=[TASK],
        size_categories=[next((name for limit, name in SIZES.items() if rows < limit), LARGEST_SIZE)],
        tags=[*TAGS, *tags],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": path} for split, path in files.items()],
            }
        ],
    )
    return data.to_yaml()


def space_metadata(title: str, **fields: Any) -> str:
    """Returns the metadata of a Gradio Space, YAML without its fences; `fields` are those of `SpaceCardData`."""
    return SpaceCardData(title=title, sdk="gradio", app_file="app.py", pinned=False, **fields).to_yaml()


__all__ = ["TAGS", "TASK", "crops_metadata", "logits_metadata", "model_metadata", "space_metadata"]
