"""The index of crops on the Hub: with one's own store of the audio it is the very crops that logits belong to.

The Hub is our own server on this machine; that the real one shows the rows in its viewer takes a push with an account.
"""

import numpy as np
import pytest
from loopback_hub import TOKEN, USER, Fault
from tiny_corpus import example_ids, tiny_corpus, tiny_model, tiny_store

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    load_prepared,
    load_tau22,
    predict_logits,
    publish_crops_index,
    random_crops,
    shifted_crops,
)
from hf_ascdistill.data.crops_index import crops_summary, read_crops_index
from hf_ascdistill.hub.model_card import check_card


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def crops(store):
    data = load_prepared(store)
    return {**data, "train": shifted_crops(data["train"], hop_seconds=0.25)}


@pytest.fixture(scope="module")
def published(client, store) -> str:
    name = f"{USER}/crops"
    answer = client("client_calls:run_recipe", "publish", "--crops", store, "--crop_hop", "0.25", "--repo", name)
    assert answer is None, answer
    return name


def test_the_repository_holds_rows_and_a_card_and_no_audio(hub, client, published, crops, store):
    head = hub.head(published, repo_type="dataset")
    assert set(head.files) == {".gitattributes", "README.md", "train.parquet", "evaluate.parquet"}
    card = head.files["README.md"].decode()
    check_card(card)
    summary = crops_summary(crops)
    assert summary["splits"]["train"]["data"] in card and summary["splits"]["train"]["grid"] == 0.25
    assert sum(map(len, head.files.values())) < 0.1 * sum(file.stat().st_size for file in store.glob("shard-*"))
    assert TOKEN not in client.output()


def test_published_logits_attach_to_the_crops_of_one_s_own_store(client, published, crops, store, tmp_path):
    train = crops["train"]
    model = tiny_model(train.features["labels"].names)
    frontend = AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))
    logits = predict_logits(model, train, tmp_path / "logits", frontend=frontend)
    client("hf_ascdistill:publish_logits", tmp_path / "logits", f"{USER}/crop-logits")
    names = (f"hf://datasets/{published}", store, f"hf://datasets/{USER}/crop-logits")
    found = client("client_calls:read_crops", *names)
    assert found.get("example_ids") == example_ids(train), found
    assert np.array_equal(np.float32(found["samples"]), train[-1]["waveform"])
    assert np.array_equal(np.float32(found["logits"]), logits.logits)


def test_anybody_reads_it_as_a_table(client, published, crops):
    found, train = client("client_calls:read_table", published), crops["train"]
    assert found.get("rows") == len(train), found
    assert found["scenes"] == train.features["labels"].names
    first = train.with_format(None)[0]
    assert {name: first[name] for name in found["first"]} == found["first"]


def test_another_index_replaces_it_in_one_commit_or_not_at_all(hub, client, published, store):
    before = hub.head(published, repo_type="dataset")
    hub.fault = Fault("commit", 500, times=1_000)
    answer = client("hf_ascdistill:publish_crops_index", store, published)
    assert answer["error"] == "ConnectionError" and hub.fault.seen
    assert hub.head(published, repo_type="dataset") is before
    hub.fault = None
    url = client("hf_ascdistill:publish_crops_index", store, published)
    after = hub.head(published, repo_type="dataset")
    assert url.endswith(after.sha) and after.files["train.parquet"] != before.files["train.parquet"]


def test_a_dry_run_stages_an_index_that_loads(crops, tmp_path):
    staged = publish_crops_index(crops, "user/crops", dry_run=True, staging=tmp_path / "staged")
    assert crops_summary(read_crops_index(staged)) == crops_summary(crops)


def test_what_is_no_crops_of_a_store_is_not_published(store, tmp_path, tmp_path_factory):
    wavs = load_tau22(tiny_corpus(tmp_path_factory.getbasetemp()))
    with pytest.raises(ValueError, match=r"split 'train' lacks the column.*content.*load_prepared"):
        publish_crops_index(wavs, "user/crops", dry_run=True, staging=tmp_path / "s")
    with pytest.raises(ValueError, match="split 'train' holds random crops"):
        publish_crops_index(random_crops(load_prepared(store)["train"]), "user/crops", dry_run=True)
    with pytest.raises(FileNotFoundError, match="no finished store"):
        publish_crops_index(tmp_path, "user/crops", dry_run=True)
    assert not (tmp_path / "s").exists()
