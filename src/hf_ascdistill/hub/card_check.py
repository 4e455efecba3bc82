"""Checks a card as the Hub would, without the Hub, and that nothing in it was left open."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from huggingface_hub import DatasetCardData, ModelCardData, SpaceCardData

# The Hub's names of the licences that are likely here; its whole list: huggingface.co/docs/hub/repositories-licenses
LICENSES = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"}
LICENSES |= {"cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"}
LICENSES |= {"cc-by-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail", "unlicense", "other"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
MAX_SHORT_DESCRIPTION = 60  # characters

MODEL_FIELDS = ("library_name", "pipeline_tag", "license", "datasets", "metrics", "tags", "model-index")
DATASET_FIELDS = ("pretty_name", "license", "task_categories", "size_categories", "tags", "configs")
SPACE_FIELDS = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "license", "models")

HEAD = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
EMPTY_CELLS = re.compile(r"\|\s*\|")
FORBIDDEN = {
    "a placeholder": re.compile(
        r"\$\{?[a-z_]+\b|\{\{\s*[\w.]+\s*\}\}|\{%|\[?More Information Needed\]?|\bTODO\b|\bTBD\b|\bFIXME\b|\bXXX\b"
    ),
    "a path of one machine": re.compile(
        r"(?<![\w.~:/-])/(home|root|Users|tmp|work|mnt|data|scratch|var)/|\b[A-Z]:\\|file://"
    ),
    "what looks like an access token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
}
UNSET = re.compile(r"\b(None(?! of\b)|nan|NaN|inf|null|undefined)\b")


def check_card(text: str) -> None:
    """Checks the card of a model, a dataset or a Space: metadata, figures, and that nothing was left open.

    Args:
        text (`str`): the whole README.md.

    Raises:
        ValueError: something is wrong with it; all that is wrong is named.
    """
    match = HEAD.match(text)
    if match is None:
        raise ValueError("the card does not begin with metadata: expected a block of YAML between two lines of ---.")
    metadata, body = _read_metadata(match[1]), match[2]
    wrong = [*_wrong_metadata(metadata), *_wrong_text(text), *_wrong_body(body)]
    if "model-index" in metadata and not wrong:
        wrong += _wrong_figures(metadata["model-index"], body)
    if wrong:
        raise ValueError(f"the card is not ready: {'; '.join(wrong)}.")


def _read_metadata(block: str) -> dict[str, Any]:
    try:
        metadata = yaml.safe_load(block)
    except yaml.YAMLError as error:
        raise ValueError(f"the card's metadata are not valid YAML: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"the card's metadata are a {type(metadata).__name__}; expected a mapping.")
    return metadata


def kind_of(metadata: Mapping[str, Any]) -> str:
    """Returns whether metadata are those of a `model`, a `dataset` or a `space`."""
    if "sdk" in metadata:
        return "space"
    return "dataset" if "task_categories" in metadata else "model"


def _wrong_metadata(metadata: dict[str, Any]) -> Iterator[str]:
    kind = kind_of(metadata)
    needed = {"model": MODEL_FIELDS, "dataset": DATASET_FIELDS, "space": SPACE_FIELDS}[kind]
    missing = [name for name in needed if name not in metadata]
    if missing:
        yield f"its metadata lack {', '.join(missing)}"
    yield from (f"{place} is empty" for place in _empty_places(metadata, ""))
    yield from _wrong_license(metadata)
    parse: Callable = {"model": ModelCardData, "dataset": DatasetCardData, "space": SpaceCardData}[kind]
    try:
        parse(**metadata)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # of a malformed model-index, by huggingface_hub
        yield f"huggingface_hub cannot read its metadata ({error})"
    for name in ("datasets", "models", "base_model"):
        names = metadata.get(name) or []
        for value in [names] if isinstance(names, str) else names:
            if not (isinstance(value, str) and HUB_NAME.fullmatch(value)):
                yield f"{name} holds {value!r}, expected a name as on the Hub"
    if kind == "space":
        yield from _wrong_space(metadata)


def _empty_places(value: Any, place: str) -> Iterator[str]:
    if value is None or (isinstance(value, str | list | dict) and not value) or value == " ":
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _empty_places(item, f"{place}.{key}" if place else str(key))


def _wrong_license(metadata: Mapping[str, Any]) -> Iterator[str]:
    name = metadata.get("license")
    if name is not None and name not in LICENSES:
        yield f"license is {name!r}, expected one of {', '.join(sorted(LICENSES))}"
    if name == "other" and not {"license_name", "license_link"} <= metadata.keys():
        yield "license is other without license_name and license_link"


def _wrong_space(metadata: Mapping[str, Any]) -> Iterator[str]:
    for name in ("colorFrom", "colorTo"):
        if metadata.get(name) not in COLOURS:
            yield f"{name} is {metadata.get(name)!r}, expected one of {', '.join(sorted(COLOURS))}"
    description = str(metadata.get("short_description", ""))
    if len(description) > MAX_SHORT_DESCRIPTION:
        yield f"short_description has {len(description)} characters, expected at most {MAX_SHORT_DESCRIPTION}"
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(metadata.get("sdk_version"))):
        yield f"sdk_version is {metadata.get('sdk_version')!r}, expected a version such as 6.0.0"


def _wrong_text(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in FORBIDDEN.items():
            if pattern.search(line):
                yield f"line {number} holds {what}"


def _wrong_body(body: str) -> Iterator[str]:
    prose = CODE.sub("code", body)
    lines = [line for line in prose.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        yield "its text does not begin with a title"
    for line, after in zip(lines, [*lines[1:], "# end"], strict=True):
        heading, follower = HEADING.match(line), HEADING.match(after)
        if heading and follower and len(follower[1]) <= len(heading[1]):
            yield f"the section {heading[2]!r} is empty"
        is_table = line.startswith("|")
        if is_table and EMPTY_CELLS.search(line.removeprefix("| |").removeprefix("|  |")):
            yield f"a cell of the table row {line!r} is empty"
    unset = UNSET.search(prose)
    if unset:
        yield f"its text says {unset[0]!r}, which is no figure"


def _wrong_figures(index: list[dict[str, Any]], body: str) -> Iterator[str]:
    metrics = [metric for model in index for result in model["results"] for metric in result["metrics"]]
    if not any(metric["type"] == "accuracy" for metric in metrics):
        yield "model-index holds no accuracy"
    for metric in metrics:
        name, value, is_share = metric.get("name", metric["type"]), metric["value"], metric["type"] == "accuracy"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield f"the value of {name} in model-index is {value!r}, expected a number"
        elif is_share and not 0 <= value <= 1:
            yield f"the value of {name} in model-index is {value}, expected a share between 0 and 1"
        elif (shown := f"{100 * value:.1f}" if is_share else f"{value:.3f}") not in body:
            yield f"the value of {name} in model-index is {value}, but {shown} stands nowhere in the text"


__all__ = ["check_card", "kind_of"]
