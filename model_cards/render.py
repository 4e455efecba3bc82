"""Renders the reviewed cards of this folder from `releases.yaml` and `results/`, and takes results of runs in.

python model_cards/render.py
python model_cards/render.py --take runs/student-cpr-128k-dirfms-s0 logits/cpr-128k-dirfms-s0
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hf_ascdistill.data.crops_index import SUFFIX, crops_summary, read_crops_index
from hf_ascdistill.hub.model_card import (
    CardContext,
    render_crops_card,
    render_logits_card,
    render_model_card,
    render_space_card,
    results_excerpt,
)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
OWNER = "hf-ascdistill"
CARD_NAME = "README.md"


def read_releases() -> dict[str, Any]:
    """Reads what is released: models, logits, crops and Spaces, by their folders."""
    return yaml.safe_load((FOLDER / "releases.yaml").read_text(encoding="utf-8"))


def read_results(name: str) -> dict[str, Any]:
    """Reads the results that a card is rendered from."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def render_cards() -> Iterator[tuple[str, str]]:
    """Yields the folder of each card and its text."""
    releases = read_releases()
    for name, release in releases["models"].items():
        published, *others = map(read_results, release["results"])
        card = render_model_card(
            published,
            repo_id=f"{OWNER}/{name}",
            runs=others,
            baseline=[read_results(run) for run in release.get("baseline", ())],
            context=CardContext.parse(release["context"], name=name),
        )
        yield name, card
    for name, release in releases["logits"].items():
        context = CardContext.parse(release["context"], name=name)
        yield name, render_logits_card(read_results(release["meta"]), repo_id=f"{OWNER}/{name}", context=context)
    for name, release in releases["crops"].items():
        context = CardContext.parse(release["context"], name=name)
        yield name, render_crops_card(read_results(release["index"]), repo_id=f"{OWNER}/{name}", context=context)
    for name, release in releases["spaces"].items():
        yield name, render_space_card(**release)


def take(path: Path) -> None:
    """Copies what a card needs from the folder of a run, a logits set or an index, without paths of the machine."""
    if (path / "meta.json").exists():
        name, excerpt = f"logits-{path.name}", json.loads((path / "meta.json").read_text(encoding="utf-8"))
    elif any(path.glob(f"*{SUFFIX}")):
        name, excerpt = f"crops-{path.name}", crops_summary(read_crops_index(path))
    else:
        name, excerpt = path.name, results_excerpt(json.loads((path / "results.json").read_text(encoding="utf-8")))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(excerpt, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--take", nargs="*", type=Path, default=[], help="finished runs, logit sets, staged indices of crops"
    )
    for path in parser.parse_args().take:
        take(path)
    for name, card in render_cards():
        (FOLDER / name).mkdir(exist_ok=True)
        (FOLDER / name / CARD_NAME).write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
