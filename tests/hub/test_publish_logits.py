"""Teacher logits on the Hub: read back by name and revision, replaced in one commit, never half a set."""

import json
from pathlib import Path

import numpy as np
import pytest
from loopback_hub import USER

from hf_ascdistill import SCENES, load_logits, publish_logits
from hf_ascdistill.data.hub_folders import local_folder
from hf_ascdistill.data.logits import FORMAT, write_logits_file
from hf_ascdistill.files import write_json
from hf_ascdistill.hub.model_card import check_card

IDS = [f"airport-lyon-1-1-{slice}-a" for slice in range(5)]
CONTENT = [f"{number:032x}" for number in range(5)]


@pytest.fixture
def logits_set(tmp_path) -> Path:
    """A finished set of five clips, in two files."""
    folder = tmp_path / "cpr-s0"
    folder.mkdir()
    logits = np.random.default_rng(0).standard_normal((5, len(SCENES))).astype(np.float32)
    files = {"logits-00000.arrow": slice(0, 3), "logits-00001.arrow": slice(3, 5)}
    for file, rows in files.items():
        write_logits_file(folder / file, IDS[rows], logits[rows], content=CONTENT[rows])
    meta = {"format": FORMAT, "name": "cpr-s0", "model": {"type": "asc-cp-resnet", "weights": "0" * 32}}
    meta |= {"front_end": {"sampling_rate": 32_000, "n_mels": 256, "hop_length": 750}, "scenes": list(SCENES)}
    write_json(folder / "meta.json", {**meta, "clips": 5, "data": "1" * 32, "files": list(files)})
    write_json(folder / "plan.json", meta)
    return folder


def test_logits_come_back_from_the_hub_by_name_and_revision(hub, client, logits_set, tmp_path):
    name = f"{USER}/cpr-logits"
    client("client_calls:run_recipe", "publish", "--logits", logits_set, "--repo", name)
    head = hub.head(name, repo_type="dataset")
    assert set(head.files) == {".gitattributes", "README.md", "meta.json", "logits-00000.arrow", "logits-00001.arrow"}
    check_card(head.files["README.md"].decode())
    first = load_logits(logits_set).logits
    backwards = IDS[::-1], CONTENT[::-1]
    assert np.array_equal(client("client_calls:read_logits", f"hf://datasets/{name}", *backwards), first[::-1])

    meta = json.loads((logits_set / "meta.json").read_text())
    write_logits_file(logits_set / "logits-00000.arrow", IDS, first + 1, content=CONTENT)
    write_json(logits_set / "meta.json", {**meta, "files": ["logits-00000.arrow"]})
    url = client("hf_ascdistill:publish_logits", logits_set, name)
    assert url.startswith(f"{hub.address}/datasets/{name}/commit/")
    assert "logits-00001.arrow" not in hub.head(name, repo_type="dataset").files
    assert np.array_equal(client("client_calls:read_logits", f"hf://datasets/{name}", IDS, CONTENT), first + 1)
    old = f"hf://datasets/{name}@{head.sha}"
    assert np.array_equal(client("client_calls:read_logits", old, IDS, CONTENT), first)
    missing = client("client_calls:read_logits", f"hf://datasets/{USER}/nothing", IDS, CONTENT)
    assert missing["error"] == "FileNotFoundError" and f"{USER}/nothing" in missing["text"]


def test_a_dry_run_stages_logits_that_load(logits_set, tmp_path):
    staged = publish_logits(logits_set, "user/logits", dry_run=True, staging=tmp_path / "staged")
    assert np.array_equal(load_logits(staged).logits, load_logits(logits_set).logits)


def test_a_manifest_that_names_files_elsewhere_is_refused(logits_set, tmp_path):
    meta = json.loads((logits_set / "meta.json").read_text())
    (logits_set / "meta.json").write_text(json.dumps({**meta, "files": ["../secret"]}))
    (logits_set.parent / "secret").write_text("mine")
    with pytest.raises(ValueError, match=r"names '\.\./secret'; expected names of files beside it"):
        load_logits(logits_set)
    with pytest.raises(ValueError, match=r"names '\.\./secret'; expected names of files beside it"):
        publish_logits(logits_set, "user/logits", dry_run=True, staging=tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


def test_an_unfinished_set_is_not_published(logits_set):
    (logits_set / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished logits set"):
        publish_logits(logits_set, "user/logits", dry_run=True)


@pytest.mark.parametrize(
    "name", ["hf://user/name", "hf://datasets/user", "hf://models/user/name", "hf://datasets/a/b@"]
)
def test_a_name_that_stands_for_no_dataset_is_refused(name):
    with pytest.raises(ValueError, match="expected hf://datasets/user/name"):
        local_folder(name, ["*"])


def test_a_folder_stays_a_folder():
    assert local_folder("logits/x", ["*"]) == Path("logits/x")
