"""The reviewed cards of model_cards/ are what the code renders, their figures are those of the results."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from datasets import load_dataset
from huggingface_hub import ModelCard

from hf_ascdistill import AscFeatureExtractor, CpMobileConfig, CpMobileForAudioClassification
from hf_ascdistill.data.logits import write_logits_file
from hf_ascdistill.hub.model_card import check_card

CHECKOUT = Path(__file__).resolve().parents[2]
CARDS = CHECKOUT / "model_cards"
CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STUDENT = "cp-mobile-128k-esc10-devices-kd"
LOGITS = "cp-resnet-128k-esc10-devices-logits"


def load_render():
    spec = importlib.util.spec_from_file_location("render_cards", CARDS / "render.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = load_render()
RENDERED = dict(render.render_cards())
MODELS = render.read_releases()["models"]


def code_blocks(card: str, language: str) -> list[str]:
    return [code for found, code in CODE.findall(card) if found == language]


@pytest.mark.parametrize("name", RENDERED)
def test_a_reviewed_card_is_what_the_code_renders(name):
    reviewed = (CARDS / name / "README.md").read_text(encoding="utf-8")
    assert reviewed == RENDERED[name], "look at the new text, then run: python model_cards/render.py"


@pytest.mark.parametrize("name", RENDERED)
def test_a_reviewed_card_is_complete(name):
    check_card(RENDERED[name])


def test_every_kind_of_release_has_a_card():
    assert {path.parent.name for path in CARDS.glob("*/README.md")} == set(RENDERED)
    architectures = {
        render.read_results(model["results"][0])["configuration"]["architecture"] for model in MODELS.values()
    }
    assert architectures == {"cp-mobile", "cp-resnet", "passt"}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_index_equals_the_results(name):
    means = render.read_results(MODELS[name]["results"][0])["last_epochs"]
    index = ModelCard(RENDERED[name]).data.eval_results
    found = {result.metric_name.partition(":")[0]: result.metric_value for result in index}
    devices = ("all devices", "real", "seen", "unseen", "mean over classes")
    names = (*(f"accuracy, {name}" for name in devices), "log loss (nats)")
    metrics = ("accuracy", "accuracy_real", "accuracy_seen", "accuracy_unseen", "macro_accuracy", "log_loss")
    assert found == {short: means[metric] for short, metric in zip(names, metrics, strict=True)}


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_of_a_card_is_there(name):
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", RENDERED[name]):
        assert (CARDS / name / picture).read_bytes().startswith(b"\x89PNG")


def test_the_teacher_of_the_student_is_the_one_whose_logits_are_released():
    [teacher] = render.read_results(MODELS[STUDENT]["results"][0])["teachers"]
    meta = render.read_results(render.read_releases()["logits"][LOGITS]["meta"])
    assert (teacher["name"], teacher["model"], teacher["data"]) == (meta["name"], meta["model"], meta["data"])


def test_the_released_logits_belong_to_the_released_crops():
    [index] = [render.read_results(release["index"]) for release in render.read_releases()["crops"].values()]
    meta = render.read_results(render.read_releases()["logits"][LOGITS]["meta"])
    train = index["splits"]["train"]
    assert (train["data"], train["crops"], index["scenes"]) == (meta["data"], meta["clips"], meta["scenes"])


def test_the_weakest_model_is_the_one_whose_card_says_so():
    accuracies = {
        name: render.read_results(model["results"][0])["last_epochs"]["accuracy"] for name, model in MODELS.items()
    }
    assert [name for name in MODELS if "the weakest model" in RENDERED[name]] == [min(accuracies, key=accuracies.get)]


def test_the_metadata_are_what_the_hub_sorts_by():
    data = yaml.safe_load(RENDERED[STUDENT].split("---\n")[1])
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "audio-classification")
    assert {"knowledge-distillation", "low-complexity"} <= set(data["tags"])
    assert "base_model" not in data  # it began with random weights
    passt = yaml.safe_load(RENDERED["passt-small-esc10-devices"].split("---\n")[1])
    assert not {"knowledge-distillation", "low-complexity"} & set(passt["tags"])


def test_every_way_of_using_a_model_works_as_its_card_says(tmp_path, monkeypatch, capsys):
    """The python blocks run as they stand, on a stereo recording of another rate; the name becomes a folder's."""
    config = CpMobileConfig(base_channels=8, id2label={0: "park", 1: "tram"})
    CpMobileForAudioClassification(config).save_pretrained(tmp_path / "model")
    AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(tmp_path / "model")
    noise = 0.1 * np.random.default_rng(0).standard_normal((44_100, 2))
    soundfile.write(tmp_path / "clip.wav", noise, 44_100)
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(RENDERED[STUDENT], "python")
    for block in blocks:
        exec(compile(block.replace(f"hf-ascdistill/{STUDENT}", str(tmp_path / "model")), "card", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    labels = [re.search(r"park|tram", line)[0] for line in printed]
    assert len(blocks) == len(labels) == 3
    assert len(set(labels)) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_requests_of_a_card_are_what_a_server_understands(tmp_path, handler):
    from serving_parts import running

    soundfile.write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(32_000), 32_000)
    [commands] = code_blocks(RENDERED[STUDENT], "bash")
    with running(handler) as url:
        environment = {"ENDPOINT": url, "HF_TOKEN": "none", "PATH": os.environ["PATH"]}
        command = ["bash", "-e", "-c", commands.replace("curl ", "curl -s -w '\\n' ")]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    whole, best = map(json.loads, result.stdout.splitlines())
    assert len(whole) == 10 and len(best) == 3
    assert [entry["label"] for entry in whole[:3]] == [entry["label"] for entry in best]


def test_a_published_set_of_logits_loads_by_its_card(tmp_path):
    """`load_dataset` reads the repository's files by the metadata of its card."""
    (tmp_path / "README.md").write_text(RENDERED[LOGITS], encoding="utf-8")
    rows = np.arange(20, dtype=np.float32).reshape(2, 10)
    write_logits_file(tmp_path / "logits-00000.arrow", ["x-a", "y-a"], rows, content=["", ""])
    logits = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert logits["example_id"][:] == ["x-a", "y-a"]
    assert logits[1]["logits"] == rows[1].tolist()
