"""Calls of plain values that tests make in the process with the Hub client."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, load_dataset
from transformers import AutoModel

from hf_ascdistill import attach_logits, load_classifier, load_crops_index, load_logits, measured_results, publish
from hf_ascdistill.data.columns import CONTENT, EXAMPLE_ID
from hf_ascdistill.data.corpus import load_split
from hf_ascdistill.data.index import index_features
from hf_ascdistill.hub.upload import Target, upload_folder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def upload(folder: str, repo_id: str, *, replaced: list[str] | None = None, **target) -> str:
    return upload_folder(folder, Target(repo_id, **target), message="Publish", replaced=replaced or [])


def publish_measured(run: str, repo_id: str, *, data: str) -> float:
    """Publishes a converted model with what it reaches on a corpus, which is returned."""
    results = measured_results(run, load_split(data, "evaluate"))
    publish(run, repo_id, results=results)
    return results["last_epochs"]["accuracy"]


def load_with_package(repo_id: str, clips: str) -> dict:
    """Loads a repository without the flag, and returns the types and the logits of the clips in a file."""
    model, extractor = load_classifier(repo_id)
    inputs = extractor(np.load(clips), sampling_rate=32_000, return_tensors="pt")
    parts = (model, extractor, AutoModel.from_pretrained(repo_id))
    return {"types": [type(part).__module__ for part in parts], "logits": model(**inputs).logits.tolist()}


def run_recipe(name: str, *arguments: str) -> None:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(list(map(str, arguments)))


def read_crops(path: str, store: str, logits: str) -> dict:
    """Cuts the crops of a published index from a store, attaches published logits, and returns what they are."""
    crops = attach_logits(load_crops_index(path, store)["train"], logits)
    rows = crops.with_format(None)
    found = {"example_ids": rows[EXAMPLE_ID][:], "logits": rows["teacher_logits"][:]}
    return {**found, "samples": crops[-1]["waveform"].tolist()}


def read_table(repo_id: str) -> dict:
    """Reads a dataset repository as anybody does, without the package."""
    table = load_dataset(repo_id, split="train")
    return {"rows": len(table), "scenes": table.features["labels"].names, "first": table[0]}


def read_logits(path: str, example_ids: list[str], content: list[str]) -> list:
    """Attaches the logits that a name stands for to clips, and returns them."""
    logits = load_logits(path)
    columns = {EXAMPLE_ID: example_ids, "recording": example_ids, CONTENT: content, "city": ["x"] * len(example_ids)}
    numbers = {name: [0] * len(example_ids) for name in ("start", "length", "labels", "device_ids")}
    features = index_features(logits.scenes, ["a"])
    features[CONTENT] = features[EXAMPLE_ID]
    table = pa.table({name: {**columns, **numbers}[name] for name in features}, schema=features.arrow_schema)
    return attach_logits(Dataset(table), path)["teacher_logits"][:]
