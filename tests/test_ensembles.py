"""The accuracy of an ensemble is that of the mean of its members' raw logits, over the clips that they belong to."""

import json
import sys

import numpy as np
import pytest
from accelerate import PartialState
from tiny_corpus import example_ids, tiny_store
from tiny_teachers import tiny_teachers

from hf_ascdistill import (
    LogitsSet,
    PredictionSettings,
    ensemble_metrics,
    ensemble_summary,
    evaluate_clips,
    finished_ensemble,
    finished_sets,
    load_prepared,
    named_by_folder,
    predict_logits_of_many,
    scene_metrics,
    shifted_crops,
    write_ensemble,
)
from hf_ascdistill.data.store import clip_contents
from hf_ascdistill.ensembles import members_on_average

GROUPS = {"real": ["a", "b", "c"], "seen": ["s1", "s2", "s3"], "unseen": ["s4", "s5", "s6"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_prepared(tiny_store(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def clips(data):
    return data["evaluate"]


def made_up(clips, seed: int = 0) -> LogitsSet:
    """Random logits, right more often than by chance."""
    logits = np.random.default_rng(seed).normal(0, 3, (len(clips), 10)).astype(np.float32)
    logits[np.arange(len(clips)), clips.with_format(None)["labels"][:]] += 3
    names, scenes = np.array(example_ids(clips), dtype=object), tuple(clips.features["labels"].names)
    member = {"name": f"teacher {seed}"}
    return LogitsSet(names, logits, clip_contents(clips), scenes, (member,))


def taken(logits: LogitsSet, rows) -> LogitsSet:
    return LogitsSet(
        logits.example_ids[rows], logits.logits[rows], logits.content[rows], logits.scenes, logits.members
    )


def made_up_sets(clips, count: int) -> dict[str, LogitsSet]:
    return {f"member-{seed}": made_up(clips, seed) for seed in range(count)}


def metrics_of(clips, logits: np.ndarray) -> dict[str, float]:
    labels, device_ids = (np.array(clips.with_format(None)[name][:]) for name in ("labels", "device_ids"))
    names = {"scenes": clips.features["labels"].names, "devices": clips.features["device_ids"].names}
    metrics = scene_metrics(logits, labels, device_ids, groups=GROUPS, **names)
    return {"clips": len(labels), "correct": int((logits.argmax(1) == labels).sum()), **metrics}


@pytest.fixture(scope="module")
def predicted(clips, tmp_path_factory):
    """Teachers of three front-ends, and the folder of their logits."""
    PartialState(cpu=True)
    teachers = tiny_teachers(clips.features["labels"].names)
    folder = tmp_path_factory.mktemp("logits")
    predict_logits_of_many(teachers, clips, folder, settings=PredictionSettings(batch_size=8))
    return teachers, folder


def test_members_of_three_front_ends_are_averaged_and_each_is_judged(predicted, clips):
    teachers, folder = predicted
    results = ensemble_metrics({name: folder / name for name in teachers}, clips)
    alone = {
        name: evaluate_clips(model, clips, frontend=frontend, batch_size=8)
        for name, (model, frontend) in teachers.items()
    }
    assert list(results["members"]) == list(teachers)
    for name, metrics in alone.items():
        assert results["members"][name] == pytest.approx(metrics, abs=1e-5)
    sets = predict_logits_of_many(teachers, clips, folder)
    mean = np.mean([logits.logits for logits in sets.values()], axis=0, dtype=np.float64).astype(np.float32)
    assert results["ensemble"] == metrics_of(clips, mean)
    assert [teacher["model"]["type"] for teacher in results["teachers"]] == [
        "asc-cp-mobile",
        "asc-cp-mobile",
        "asc-cp-resnet",
        "asc-passt",
    ]


@pytest.mark.parametrize("count", [1, 12, 27])
def test_ensemble_of_many_is_the_mean_of_raw_logits(clips, count):
    sets = made_up_sets(clips, count)
    results = ensemble_metrics(sets, clips)
    mean = np.mean([logits.logits for logits in sets.values()], axis=0, dtype=np.float64).astype(np.float32)
    assert results["ensemble"] == metrics_of(clips, mean)
    assert results["members"] == {name: metrics_of(clips, logits.logits) for name, logits in sets.items()}
    assert (results["groups"], results["ensemble"]["clips"]) == (GROUPS, 30)
    assert results["scenes"] == clips.features["labels"].names


def test_sure_member_outweighs_those_that_are_not(clips):
    sets = made_up_sets(clips, 3)
    for logits, scale in zip(sets.values(), (30.0, 1.0, 1.0), strict=True):
        logits.logits[:] *= scale
    results = ensemble_metrics(sets, clips)
    assert results["ensemble"]["accuracy"] == results["members"]["member-0"]["accuracy"]


def test_members_may_come_in_any_order_of_their_clips(clips):
    sets = made_up_sets(clips, 3)
    order = np.random.default_rng(5).permutation(len(clips))
    shuffled = {**sets, "member-1": taken(sets["member-1"], order)}
    assert ensemble_metrics(shuffled, clips) == ensemble_metrics(sets, clips)


def test_order_of_the_members_does_not_change_the_ensemble(clips):
    sets = made_up_sets(clips, 5)
    backwards = dict(reversed(sets.items()))
    assert ensemble_metrics(backwards, clips)["ensemble"] == ensemble_metrics(sets, clips)["ensemble"]


def test_groups_of_the_corpus_win(clips):
    results = ensemble_metrics(made_up_sets(clips, 2), clips, groups={"unseen": ("a",)})
    assert results["groups"] == {"unseen": ["a"]}
    assert results["ensemble"]["accuracy_unseen"] == results["ensemble"]["accuracy_a"]


def test_sets_of_more_clips_need_leave(clips):
    sets, few = made_up_sets(clips, 2), clips.select(range(7, 20))
    with pytest.raises(ValueError, match="teacher 0 hold 17 clips that the dataset of 13 lacks"):
        ensemble_metrics(sets, few)
    results = ensemble_metrics(sets, few, allow_extra=True)
    assert results["members"]["member-1"] == metrics_of(few, sets["member-1"].logits[7:20])


def test_set_that_lacks_a_clip_raises(clips):
    sets = {"whole": made_up(clips), "short": taken(made_up(clips, 1), slice(1, None))}
    with pytest.raises(ValueError, match=f"1 of 30 clips have no logits, among them {example_ids(clips)[0]}.*teacher"):
        ensemble_metrics(sets, clips)


def test_set_of_another_dataset_raises(data, clips):
    crops = shifted_crops(data["train"])
    with pytest.raises(ValueError, match="30 of 30 clips have no logits.*teacher 4"):
        ensemble_metrics({"whole": made_up(clips), "other": made_up(crops, 4)}, clips)


def test_set_of_the_same_names_and_other_audio_raises(clips):
    other = made_up(clips, 1)
    other.content[3] = "0" * 32
    with pytest.raises(ValueError, match=f"teacher 1 belong to other audio than the dataset.*{example_ids(clips)[3]}"):
        ensemble_metrics({"same": made_up(clips), "other": other}, clips)


def test_set_of_other_classes_raises(clips):
    member = made_up(clips)
    other = LogitsSet(member.example_ids, member.logits, member.content, member.scenes[::-1], ({"name": "backwards"},))
    with pytest.raises(ValueError, match=r"backwards have 10 classes \(server_room, .*the dataset's are 10 \(arcade"):
        ensemble_metrics({"same": member, "other": other}, clips)


def test_ensemble_without_members_raises(clips):
    with pytest.raises(ValueError, match="at least one logits set"):
        ensemble_metrics({}, clips)


@pytest.fixture
def results(clips) -> dict:
    return {**ensemble_metrics(made_up_sets(clips, 3), clips), "configuration": {"split": "evaluate"}}


def test_table_has_a_row_for_each_member_their_average_and_the_ensemble(results, tmp_path):
    lines = ensemble_summary(results, tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["", "all", "real", "seen", "unseen"]
    names = [*results["members"], "the 3 on average", "ensemble (mean of raw logits)"]
    assert [row[0] for row in cells[2:]] == names
    rows = [*results["members"].values(), members_on_average(results), results["ensemble"]]
    for row, metrics in zip(cells[2:], rows, strict=True):
        wanted = [metrics[name] for name in ("accuracy", "accuracy_real", "accuracy_seen", "accuracy_unseen")]
        assert row[1:] == [f"{100 * value:.2f}" for value in wanted]
    assert members_on_average(results)["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in rows[:3]]))
    assert lines[-1] == f"results: {tmp_path / 'results.json'}"


def test_table_leaves_cells_of_absent_groups_empty(clips, tmp_path):
    results = ensemble_metrics(made_up_sets(clips, 2), clips, groups={})
    row = ensemble_summary(results, tmp_path).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")][2:] == ["-", "-", "-"]


def test_what_is_written_is_what_is_read(results, tmp_path):
    write_ensemble(results, tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "devices.png").stat().st_size > 5_000
    assert finished_ensemble(tmp_path / "new" / "folder", results["configuration"]) == results
    assert finished_ensemble(tmp_path, results["configuration"]) is None


def test_without_a_picture_matplotlib_is_not_needed(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="--pictures false"):
        write_ensemble(results, tmp_path)
    assert not (tmp_path / "results.json").exists()
    write_ensemble(results, tmp_path, picture=False)
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_full_disk_leaves_no_half_results(results, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_ensemble(results, tmp_path, picture=False)
    assert not list(tmp_path.iterdir())


def test_results_of_another_ensemble_raise_and_the_difference_is_named(results, tmp_path):
    write_ensemble(results, tmp_path, picture=False)
    with pytest.raises(ValueError, match="another ensemble: split was 'evaluate', now 'train'"):
        finished_ensemble(tmp_path, {"split": "train"})


def test_damaged_results_raise(tmp_path):
    (tmp_path / "results.json").write_text('{"ensemble": ')
    with pytest.raises(ValueError, match="results.json is damaged"):
        finished_ensemble(tmp_path, {})


def test_two_folders_of_one_name_raise_and_both_are_named():
    with pytest.raises(ValueError, match="a/cpr-s0 and b/cpr-s0 are both named cpr-s0"):
        named_by_folder(["a/cpr-s0", "b/cpr-s0"])


def test_names_are_those_of_the_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = named_by_folder(["a/cpr-s0", "b/cpr-s1/", "user/model", "c/x/..", "."])
    assert list(named) == ["cpr-s0", "cpr-s1", "model", "c", tmp_path.name]


def test_set_that_is_not_finished_raises(predicted, tmp_path):
    _, folder = predicted
    with pytest.raises(FileNotFoundError, match="nothing holds no finished logits set"):
        finished_sets([folder / "cpm-s0", tmp_path / "nothing"])
    assert finished_sets([folder / "cpm-s0"]) == {"cpm-s0": folder / "cpm-s0"}
