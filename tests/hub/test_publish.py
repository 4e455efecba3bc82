"""Published repositories load anywhere: by name from the Hub, without the package, with it, and saved again.

The Hub is our own server on this machine; that the real service shows the card and runs the handler behind an
Inference Endpoint takes a push with a real account.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback_hub import TOKEN, USER
from packaging.requirements import Requirement
from publishing_parts import client_environment
from serving_parts import noise, save_model, small_model

from hf_ascdistill import SCENES, AscFeatureExtractor, stage_repository, validate_repository
from hf_ascdistill.files import write_json
from hf_ascdistill.hub.repository import REQUIREMENTS

JOB = Path(__file__).with_name("repositories_job.py")
FAMILIES = ("cp-mobile", "cp-resnet", "passt")
WAYS = ("AutoModelForAudioClassification", "pipeline", "handler")
COMPLEXITY = {"parameters": 10, "fused_parameters": 9, "int8_bytes": 9, "macs": 100, "verdict": "fits"}
METRICS = {"clips": 80, "correct": 60, "accuracy": 0.75, "macro_accuracy": 0.74, "log_loss": 0.9}
RESULTS = {"run": "tiny", "complexity": COMPLEXITY, "scenes": list(SCENES), "devices": ["a", "s1"], "groups": {}}
RESULTS["last_epochs"] = METRICS


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A file of four clips, float32 (4, T)."""
    path = tmp_path_factory.mktemp("clips") / "clips.npy"
    np.save(path, np.stack([noise(1, seed=seed) for seed in range(4)]))
    return path


def model_of(family: str) -> torch.nn.Module:
    """A small model whose logits are below 4, where a float32 is 2e-7 from the next."""
    model = small_model(family)
    if family == "passt":
        model.classifier.linear.weight.data.mul_(0.1)
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A finished run of each architecture, with what a training leaves beside: nothing of it may be published."""
    folders = {family: tmp_path_factory.mktemp(family) / "run" for family in FAMILIES}
    for family, folder in folders.items():
        model_of(family).save_pretrained(folder)
        AscFeatureExtractor.from_preset(family).save_pretrained(folder)
        write_json(folder / "results.json", RESULTS)
        (folder / "devices.png").write_bytes(b"\x89PNG")
        (folder / "training_args.bin").write_bytes(TOKEN.encode())
        (folder / "checkpoint-1").mkdir()
    return folders


@pytest.fixture(scope="module")
def published(hub, client, runs, tmp_path_factory) -> dict[str, str]:
    """Their repositories on the Hub; the PaSST goes the whole way, the others are only pushed."""
    names = {family: f"{USER}/{family}" for family in FAMILIES}
    for family in FAMILIES[:2]:
        staged = stage_repository(runs[family], tmp_path_factory.mktemp("staged") / "r", repo_id=names[family])
        client("client_calls:upload", staged, names[family])
    url = client("hf_ascdistill:publish", runs["passt"], names["passt"], private=True, message="First")
    assert url == f"{hub.address}/{names['passt']}/commit/{hub.head(names['passt']).sha}"
    return names


def original_logits(family: str, clips: Path) -> np.ndarray:
    extractor = AscFeatureExtractor.from_preset(family)
    inputs = extractor(np.load(clips), sampling_rate=32_000, return_tensors="pt")
    with torch.no_grad():
        return model_of(family)(**inputs).logits.numpy()


def tolerance(logits: np.ndarray) -> float:
    """1e-6 of the largest logit: random weights give hundreds, where float32 itself is no finer than 6e-5."""
    return 1e-6 * max(1.0, float(np.abs(logits).max()))


def run_job(environment: dict[str, str], *arguments) -> None:
    command = [sys.executable, str(JOB), *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert TOKEN not in result.stderr + result.stdout


def test_repositories_hold_what_they_need_and_nothing_else(hub, published):
    code = {
        "cp-mobile": {"configuration_cp_mobile.py", "modeling_cp_mobile.py"},
        "cp-resnet": {"configuration_cp_resnet.py", "modeling_cp_resnet.py"},
        "passt": {"configuration_passt.py", "modeling_passt.py"},
    }
    common = {".gitattributes", "README.md", "config.json", "configuration_asc.py", "devices.png", "model.safetensors"}
    common |= {"feature_extraction_asc.py", "handler.py", "preprocessor_config.json", "requirements.txt"}
    for family, name in published.items():
        head = hub.head(name)
        assert set(head.files) == common | code[family]
        assert {"AutoConfig", "AutoModel", "AutoModelForAudioClassification"} == set(
            json.loads(head.files["config.json"])["auto_map"]
        )
        assert "AutoFeatureExtractor" in json.loads(head.files["preprocessor_config.json"])["auto_map"]
        assert not any(TOKEN.encode() in data for data in head.files.values())
    assert hub.history(published["passt"]) == ["initial commit", "First"]
    assert hub.repositories["model", published["passt"]].private


def test_they_load_without_the_package_and_after_being_saved_again(hub, published, clips, tmp_path):
    environment = client_environment(hub, tmp_path / "hub", PYTHONPATH="")
    run_job(environment, tmp_path / "hub.npz", clips, *published.values(), "--save", tmp_path / "again")
    folders = [tmp_path / "again" / family for family in FAMILIES]
    for folder in folders:
        assert "--" not in (folder / "config.json").read_text() + (folder / "preprocessor_config.json").read_text()
        (folder / "handler.py").write_bytes(hub.head(published["passt"]).files["handler.py"])
    offline = client_environment(hub, tmp_path / "empty", PYTHONPATH="", HF_HUB_OFFLINE="1")
    run_job(offline, tmp_path / "again.npz", clips, *folders)
    for found in (np.load(tmp_path / "hub.npz"), np.load(tmp_path / "again.npz")):
        for family in FAMILIES:
            original = original_logits(family, clips)
            assert np.ptp(original, axis=1).min() > 0.1
            for way in WAYS:
                assert np.allclose(found[f"{family}/{way}"], original, rtol=0, atol=tolerance(original)), (family, way)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_package_its_own_code_loads_them_without_a_flag(client, published, clips, family):
    answer = client("client_calls:load_with_package", published[family], clips)
    assert all(module.startswith("hf_ascdistill.models.") for module in answer["types"]), answer
    original = original_logits(family, clips)
    assert np.allclose(answer["logits"], original, rtol=0, atol=tolerance(original))


def test_a_dry_run_asks_nothing_of_the_hub_and_can_be_inspected(hub, client, runs, tmp_path):
    asked = len(hub.requests)
    folder = client("hf_ascdistill:publish", runs["cp-mobile"], f"{USER}/dry", dry_run=True, staging=tmp_path / "dry")
    assert folder == str(tmp_path / "dry") and (tmp_path / "dry" / "model.safetensors").exists()
    assert len(hub.requests) == asked


def test_a_refused_login_stops_before_anything_is_staged(hub, client, runs, tmp_path):
    answer = client("hf_ascdistill:publish", runs["passt"], f"{USER}/x", staging=tmp_path / "s", token="hf_wrong")
    assert answer["error"] == "PermissionError" and "hf auth login" in answer["text"]
    assert not (tmp_path / "s").exists()
    assert ("model", f"{USER}/x") not in hub.repositories


def test_the_token_is_in_no_output(client, published):
    assert "authenticated: True" in client.output()
    assert TOKEN not in client.output()


def broken(folder: Path, what: str) -> str:
    """Breaks a staged repository, and returns words of the error."""
    path, text = folder / "handler.py", (folder / "handler.py").read_text()
    if what == "handler":
        path.write_text(text.replace("logits.double()", "-logits.double()"))
        return "scores of the handler and of the model are"
    if what == "import":
        path.write_text("import hf_ascdistill\n" + text)
        return "No module named 'hf_ascdistill'|import of hf_ascdistill halted"
    if what == "token":
        (folder / "config.json").write_text('{"a": "hf_' + "x" * 34 + '"}')
        return "access token"
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("license:", "licence:"))
    return "licen[cs]e"


@pytest.mark.parametrize("what", ["handler", "import", "token", "card"])
def test_a_repository_that_does_not_work_by_itself_is_refused(runs, tmp_path, what):
    staged = stage_repository(runs["cp-mobile"], tmp_path / "staged", repo_id="user/x")
    words = broken(staged, what)
    with pytest.raises(ValueError, match=words):
        validate_repository(staged)


def test_what_cannot_be_staged_is_named(runs, tmp_path):
    run, staged = tmp_path / "run", tmp_path / "staged"
    with pytest.raises(FileNotFoundError, match=f"{run} holds no model"):
        stage_repository(run, staged, repo_id="user/x")
    save_model("cp-mobile", run)
    with pytest.raises(FileNotFoundError, match=f"{run} holds no results.json"):
        stage_repository(run, staged, repo_id="user/x")
    (run / "results.json").write_text("{")
    with pytest.raises(ValueError, match="results.json is damaged"):
        stage_repository(run, staged, repo_id="user/x")
    assert not staged.exists()
    staged.mkdir()
    (staged / "notes.txt").touch()
    with pytest.raises(ValueError, match=f"{staged} exists already"):
        stage_repository(runs["passt"], staged, repo_id="user/x")


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    ranges = {Requirement(text).name: Requirement(text).specifier for text in project["dependencies"]}
    for text in REQUIREMENTS:
        assert Requirement(text).specifier == ranges[Requirement(text).name], text
