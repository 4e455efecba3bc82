"""Cards tell what the results hold, name what is unknown and refuse what does not belong together."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hf_ascdistill import DEVICES, SCENES, PasstConfig
from hf_ascdistill.hub.card_context import TAU22
from hf_ascdistill.hub.model_card import (
    CardContext,
    check_card,
    render_logits_card,
    render_model_card,
    render_space_card,
    results_excerpt,
)

HOME = "/" + "home/someone"  # in two parts: no file of the project names a path of a machine
RESULTS = Path(__file__).resolve().parents[2] / "model_cards" / "results"
CONTEXT = CardContext(
    dataset_name="Nine phones in town",
    dataset_id="someone/nine-phones",
    dataset_note="Recorded in one town.",
    data_license="The recordings are CC BY 4.0.",
    impulse_responses="responses of 46 microphones",
)


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def student() -> dict:
    return read("student-cpr-128k-dirfms-s0")


def render(results: dict, **settings) -> str:
    card = render_model_card(results, repo_id="someone/student", **{"context": CONTEXT, **settings})
    check_card(card)
    return card


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def row(card: str, name: str) -> list[str]:
    [line] = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def as_tau22(results: dict) -> dict:
    """The same figures under TAU22's names."""
    text = json.dumps(results)
    for own, scene in zip(results["scenes"], SCENES, strict=True):
        text = text.replace(f'"{own}"', f'"{scene}"').replace(f'"accuracy_scene_{own}"', f'"accuracy_scene_{scene}"')
    return json.loads(text)


def converted(results: dict) -> dict:
    """What is known of a model that was trained elsewhere and evaluated here."""
    known = ("complexity", "scenes", "devices", "groups")
    return {**{name: results[name] for name in known}, "last_epochs": {**results["last_epochs"], "clips": 2709}}


def test_a_single_run_is_called_a_single_run(student):
    card = render(student)
    assert row(card, "all devices") == ["68.6"]
    assert "A single run" in card
    assert "what distillation gained is not known" in card


def test_runs_and_baseline_stand_beside_the_published_run_with_their_spread(student):
    runs = [read(f"student-cpr-128k-dirfms-s{seed}") for seed in (1, 2)]
    baseline = [read(f"cpm-128k-dirfms-s{seed}") for seed in range(3)]
    card = render(student, runs=runs, baseline=baseline)
    # 68.559, 68.374, 68.217 and 66.916, 66.288, 68.245 of the results
    assert row(card, "all devices") == ["68.6", "68.4 ± 0.2", "67.1 ± 1.0"]
    assert "+1.2 points on all devices" in card
    assert "at most two standard deviations" in card


def test_one_baseline_may_be_given_by_itself(student):
    card = render(student, baseline=read("cpm-128k-dirfms-s0"))
    assert row(card, "all devices") == ["68.6", "66.9"]
    assert "may be chance" in card


def test_a_teacher_has_no_section_of_teachers():
    card = render(read("cpr-128k-dirfms-s0"))
    assert "## Teachers" not in card
    assert "from labels alone" in card
    assert "cross-entropy with the labels" in card
    assert "knowledge-distillation" not in metadata(card)["tags"]


def test_all_members_of_an_ensemble_are_named(student):
    [member] = student["teachers"]
    student["teachers"] = [{**member, "name": f"cpr-128k-dirfms-s{seed}"} for seed in range(3)]
    card = render(student)
    assert "the logits of 3 teachers" in card
    assert "from the mean of their raw logits" in card
    assert all(f"`cpr-128k-dirfms-s{seed}`" in card for seed in range(3))


def test_a_card_holds_no_path_of_the_machine(student):
    student["configuration"]["data"] = f"{HOME}/esc10-store"
    student["configuration"]["teacher_logits"] = [f"{HOME}/logits/cpr"]
    card = render(student)
    assert HOME not in card and "esc10-store" not in card


def test_the_card_of_an_excerpt_is_the_card_of_the_results(student):
    full = copy.deepcopy(student)
    full["configuration"] |= {"data": f"{HOME}/esc10-store", "impulse_responses": "C:\\bank"}
    full["epochs"] = [{**full["epochs"][0], "accuracy": 0.5}, *full["epochs"]]
    excerpt = results_excerpt(full)
    assert "someone" not in json.dumps(excerpt) and "C:" not in json.dumps(excerpt)
    assert len(excerpt["epochs"]) == 1
    assert render(excerpt) == render(full)


def test_data_that_are_not_known_by_name_must_be_named(student):
    with pytest.raises(ValueError, match="baby_cry.*give context=CardContext"):
        render_model_card(student, repo_id="someone/student")


def test_tau22_is_known_by_its_names_and_non_commercial(student):
    card = render(as_tau22(student), context=None)
    data = metadata(card)
    assert (data["license"], data["license_name"]) == ("other", TAU22.license_name)
    assert "non-commercial" in card and "zenodo.org/record/6337421" in card
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == TAU22.dataset_id


def test_other_devices_under_tau22_s_scenes_are_not_taken_for_tau22(student):
    results = as_tau22(student)
    results["devices"] = [*DEVICES[:-1], "my-phone"]
    with pytest.raises(ValueError, match="not known by name"):
        render_model_card(results, repo_id="someone/student")


def test_devices_without_groups_have_no_rows_of_groups(student):
    student["groups"] = {}
    for name in ("accuracy_real", "accuracy_seen", "accuracy_unseen"):
        del student["last_epochs"][name]
    card = render(student)
    assert "unseen" not in card.split("## Front-end")[0].split("## Data")[1]
    assert len(metadata(card)["model-index"][0]["results"][0]["metrics"]) == 3


def test_the_front_end_is_that_of_the_architecture_or_the_given_one(student):
    assert row(render(student), "one second gives") == ["256 x 64 (mels x frames)"]
    assert row(render(read("cpr-128k-dirfms-s0")), "one second gives") == ["256 x 43 (mels x frames)"]
    assert row(render(read("passt-s-dirfms-s0")), "one second gives") == ["128 x 100 (mels x frames)"]
    [teacher] = student["teachers"]
    card = render(student, extractor_settings=teacher["front_end"])
    assert row(card, "hop (samples)") == ["750"]


def test_a_small_passt_from_random_weights_says_so():
    card = render(read("passt-s-dirfms-s0"))
    assert "hidden_size=192" in card and "no size of the paper" in card
    assert "It began with random weights" in card
    assert "exceeds DCASE 2023" in card and "fits" not in card
    assert PasstConfig.from_preset("s").hidden_size != 192


def test_the_recipe_follows_the_configuration(student):
    used = student["configuration"]
    used |= {"device_generalization": "fms", "crop_hop": None, "max_freq_mask": 0, "roll_max_shift": 0}
    used |= {"gradient_accumulation_steps": 2, "world_size": 4, "bf16": True, "train_list": "lists/split25.csv"}
    card = render(student)
    assert row(card, "DIR") == row(card, "time roll") == row(card, "masks") == ["not used"]
    assert row(card, "batch") == ["256 clips"]
    assert row(card, "precision") == ["bfloat16"]
    assert row(card, "training examples") == ["1-s clips, those of the list `split25.csv`"]


def test_a_run_that_began_with_saved_weights_must_name_the_network(student):
    student["configuration"]["initial_weights"] = "models/base"
    settings = student["teachers"][0]["front_end"]
    with pytest.raises(ValueError, match="network="):
        render(student, extractor_settings=settings)
    named = replace(CONTEXT, network="CP-Mobile (128K)", base_model="someone/base")
    card = render(student, context=named, extractor_settings=settings)
    assert metadata(card)["base_model"] == "someone/base"
    assert row(card, "starts from") == ["saved weights"]
    with pytest.raises(ValueError, match="extractor_settings"):
        render(student, context=named)


def test_a_converted_model_says_that_its_training_is_not_recorded(student):
    named = replace(CONTEXT, network="CP-Mobile (128K)")
    card = render(converted(student), context=named, extractor_settings=student["teachers"][0]["front_end"])
    assert (
        "How it was trained is not recorded" in card and "those who trained them" in card and "2,709 of them" in card
    )
    assert "## Training" not in card and "the weights here are those of seed" not in card


def test_runs_of_another_experiment_are_refused(student):
    with pytest.raises(ValueError, match="architecture.*device_generalization|architecture"):
        render(student, runs=[read("cpr-128k-dirfms-s1")])


def test_a_run_counts_once(student):
    with pytest.raises(ValueError, match="each once"):
        render(student, runs=[student])


@pytest.mark.parametrize("name", ["student-cpr-128k-dirfms-s1", "cpr-128k-dirfms-s0"])
def test_a_baseline_is_the_same_student_without_teachers(student, name):
    with pytest.raises(ValueError, match="not the student without distillation"):
        render(student, baseline=read(name))


def test_results_of_an_unfinished_run_are_refused(student):
    del student["last_epochs"]
    with pytest.raises(ValueError, match="lack last_epochs"):
        render(student)


@pytest.mark.parametrize("repo_id", ["student", "a/b/c", "/student"])
def test_a_repository_is_named_with_its_owner(student, repo_id):
    with pytest.raises(ValueError, match="user/name"):
        render_model_card(student, repo_id=repo_id, context=CONTEXT)


def test_without_a_picture_none_is_shown(student):
    assert "![" in render(student)
    assert "![" not in render(student, picture=None)


def test_a_context_is_read_from_yaml(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(
        yaml.safe_dump({"dataset_name": "a", "dataset_id": "b", "dataset_note": "c.", "data_license": "d."})
    )
    assert CardContext.load(path) == CardContext("a", "b", "c.", "d.")
    path.write_text("dataset_name: a\ndataset: b\n")
    with pytest.raises(ValueError, match="card.yaml holds.*expected a mapping with dataset_name"):
        CardContext.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_name": " "}, "dataset_name"),
        ({"limitations": "none"}, "limitations is the text"),
        ({"license": "other"}, "license_name and license_link"),
    ],
)
def test_an_empty_or_incomplete_context_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONTEXT, **change)


def test_the_citation_is_that_of_the_project(student):
    citation = yaml.safe_load((RESULTS.parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    paper, card = citation["preferred-citation"], render(student)
    assert (
        f"{{{paper['title']}}}" in card
        and paper["collection-title"] in " ".join(card.split())
        and paper["url"] in card
    )
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in card


def test_published_logits_without_a_front_end_have_a_card():
    meta = read("logits-cpr-128k-dirfms-s0")
    meta |= {"scenes": list(SCENES), "front_end": {}, "data": "", "clips": 230_350}
    meta["model"] = {"type": "published logits", "weights": "0" * 32}
    card = render_logits_card(meta, repo_id="someone/logits")
    check_card(card)
    assert metadata(card)["size_categories"] == ["100K<n<1M"]
    assert "not recorded" in card and "non-commercial" in card
    with pytest.raises(ValueError, match="lacks files"):
        render_logits_card({name: value for name, value in meta.items() if name != "files"}, repo_id="someone/logits")


def test_a_space_names_its_models():
    card = render_space_card(repo_id="someone/demo", models=["someone/student"], sdk_version="6.1.0")
    check_card(card)
    assert metadata(card)["models"] == ["someone/student"]
    with pytest.raises(ValueError, match="someone/demo offers"):
        render_space_card(repo_id="someone/demo", models=[], sdk_version="6.1.0")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("library_name: transformers\n", "", "lack library_name"),
        ("library_name: transformers", "library_name: ''", "library_name is empty"),
        ("license: apache-2.0", "license: my-own", "license is 'my-own'"),
        ("license: apache-2.0", "license: other", "without license_name"),
        ("- someone/nine-phones", "- nine phones", "datasets holds 'nine phones'"),
        ("pipeline_tag: audio-classification", "pipeline_tag: [", "not valid YAML"),
        ("type: someone/nine-phones", "typo: someone/nine-phones", "cannot read its metadata"),
        ("value: 0.6855850867478774", "value: 0.72", "72.0 stands nowhere"),
        ("value: 0.6855850867478774", "value: 68.6", "share between 0 and 1"),
        ("value: 0.6855850867478774", "value: .nan", "expected a number"),
        ("Recorded in one town.", "", ""),
        ("Recorded in one town.", f"Recorded in {HOME}/town.", "path of one machine"),
        ("Recorded in one town.", "Recorded in ${town}.", "a placeholder"),
        ("Recorded in one town.", "[More Information Needed]", "a placeholder"),
        ("Recorded in one town.", "Key hf_" + "a" * 34, "access token"),
        ("Recorded in one town.", "Recorded in None.", "'None', which is no figure"),
        ("| seed | 0 |", "| seed |  |", "a cell"),
        ("The recordings are CC BY 4.0.", "", "the section 'Licence' is empty"),
        ("---\n", "", "does not begin with metadata"),
    ],
)
def test_what_is_wrong_with_a_card_is_named(student, old, new, message):
    card = render(student)
    assert old in card
    broken = card.replace(old, new, 1)
    if message:
        with pytest.raises(ValueError, match=re.escape(message)):
            check_card(broken)
    else:
        check_card(broken)
