"""From tables to jobs, what they cost, and the presets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_ascdistill import CpMobileConfig, PasstConfig, load_tau22, shifted_crops, write_synthetic_corpus
from hf_ascdistill.data.logits import write_logits_file
from hf_ascdistill.data.store_reader import MANIFEST_NAME
from hf_ascdistill.data.synthetic import SyntheticSettings
from hf_ascdistill.experiments.costs import SpeedModel, corpus_size, estimate_costs, network_cost
from hf_ascdistill.experiments.grid import load_table, table_path
from hf_ascdistill.experiments.jobs import PlanSettings, build_plan
from hf_ascdistill.experiments.plan import Plan
from hf_ascdistill.experiments.presets import as_options, load_preset

TABLES = Path(__file__).resolve().parents[2] / "recipes" / "tables"
PRESETS = TABLES / "presets"
CROPS, CLIPS, EVALUATION = 265_278, 139_620, 29_680  # of TAU22, a crop every 0.5 s


def tables(*names):
    return [load_table(table_path(str(name), TABLES)) for name in names]


def options(job) -> dict[str, str]:
    """The command line by name; lists as one text."""
    texts = " ".join(job.options).split("--")[1:]
    return {name: value.strip() for name, _, value in (text.partition(" ") for text in texts)}


@pytest.fixture(scope="module")
def tau22(shared) -> PlanSettings:
    return PlanSettings("runs", load_preset(PRESETS / "paper.yaml"), str(shared / "data" / "tau22-meta"))


@pytest.fixture(scope="module")
def paper(tau22):
    return build_plan(tables(1, 2, 3, 4), tau22)


@pytest.fixture(scope="module")
def size(tau22):
    return corpus_size(tau22)


@pytest.fixture(scope="module")
def toy() -> PlanSettings:
    return PlanSettings("runs", load_preset(PRESETS / "toy.yaml"))


def of_stage(jobs, stage):
    return [job for job in jobs if job.stage == stage]


@pytest.mark.parametrize(
    ("names", "teachers", "students"),
    [((1,), 33, 33), ((1, 2), 60, 60), ((1, 2, 3), 60, 75), ((1, 2, 3, 4), 66, 147), ((4, 3, 2, 1), 66, 147)],
)
def test_what_tables_share_is_trained_once(tau22, names, teachers, students):
    jobs = build_plan(tables(*names), tau22)
    assert len(of_stage(jobs, "teacher")) == teachers
    assert len(of_stage(jobs, "student")) == students


def test_no_job_is_there_twice(paper):
    assert len({job.name for job in paper}) == len(paper)
    assert len({job.command("r") for job in paper}) == len(paper)
    outputs = [path for job in paper for path in job.done]
    assert len(set(outputs)) == len(outputs)


def test_every_job_comes_after_those_that_it_needs(paper):
    seen = set()
    for job in paper:
        assert seen.issuperset(job.needs), job.name
        seen.add(job.name)


def test_student_of_own_runs_learns_from_the_teacher_of_its_seed(paper):
    jobs = {job.name: job for job in paper}
    for seed in "012":
        job = jobs[f"students/cpr-450k-dirfms-x1-s{seed}"]
        assert options(job)["teacher_logits"] == f"runs/logits/train/cpr-450k-dirfms-s{seed}"
        assert options(job)["seed"] == seed


def test_student_of_all_runs_learns_from_every_run_of_every_kind(paper):
    job = next(job for job in paper if job.name == "students/cpr-128k-dirfms+passt-s-dirfms-x3-s1")
    expected = [
        f"runs/logits/train/{kind}-s{seed}" for kind in ("cpr-128k-dirfms", "passt-s-dirfms") for seed in "012"
    ]
    assert options(job)["teacher_logits"].split() == expected
    assert set(job.needs) == {"logits/train/cpr-128k-dirfms", "logits/train/passt-s-dirfms"}


def test_ensembles_are_scored_on_the_logits_of_the_evaluate_list(paper):
    job = next(job for job in paper if job.name == "ensembles/cpm-128k-dirfms-x3")
    assert options(job)["teacher_logits"].split() == [f"runs/logits/evaluate/cpm-128k-dirfms-s{s}" for s in "012"]
    predicted = {path for job in of_stage(paper, "logits") for path in job.done}
    for job in [*of_stage(paper, "ensemble"), *of_stage(paper, "student")]:
        assert {f"{path}/meta.json" for path in options(job)["teacher_logits"].split()} <= predicted


def test_only_members_of_ensembles_predict_the_evaluate_list(paper):
    evaluated = {job.kind.name for job in of_stage(paper, "logits") if job.split == "evaluate"}
    assert "cpr-450k-dirfms" in evaluated and "passt-s-dir" in evaluated
    assert not evaluated & {"cpr-8m-dirfms", "cpr-450k-none", "passt-s-none"}


def test_one_run_of_a_kind_predicts_into_its_own_folder(tau22):
    jobs = build_plan(tables(1), PlanSettings("runs", replace(tau22.preset, seeds=(7,)), tau22.data))
    job = next(job for job in jobs if job.name == "logits/train/cpr-128k-dirfms")
    assert options(job)["output"] == "runs/logits/train/cpr-128k-dirfms-s7"
    assert job.done == ("runs/logits/train/cpr-128k-dirfms-s7/meta.json",)


def test_impulse_responses_go_to_those_who_use_dir(tau22):
    settings = PlanSettings("runs", tau22.preset, tau22.data, "irs", True)
    jobs = {job.name: options(job) for job in build_plan(tables(2), settings)}
    for name in ("teachers/cpr-450k-dirfms-s0", "teachers/cpr-450k-dir-s0", "students/cpr-450k-none-x1-s0"):
        assert (jobs[name]["impulse_responses"], jobs[name]["resample_impulse_responses"]) == ("irs", "true")
    assert "impulse_responses" not in jobs["teachers/cpr-450k-fms-s0"]
    assert "impulse_responses" not in jobs["teachers/cpr-450k-none-s0"]


def test_pretrained_weights_go_to_passt_alone(tau22):
    settings = PlanSettings("runs", tau22.preset, tau22.data, weights={"passt": "models/passt-s"})
    for job in of_stage(build_plan(tables(1), settings), "teacher"):
        assert options(job).get("initial_weights") == ("models/passt-s" if job.kind.architecture == "passt" else None)


def test_plan_without_weights_says_what_is_needed_and_does_not_run(tau22):
    plan = Plan.of(tables(1), tau22, recipes="recipes")
    assert "pass --passt_weights FOLDER" in "".join(plan.warnings())
    with pytest.raises(ValueError, match="passt teachers start from pretrained weights"):
        plan.run(speed=SpeedModel(), report=print)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            PasstConfig(num_labels=527),
            "type asc-passt with 527 classes; expected asc-passt with 10: .*--num_labels",
        ),
        (CpMobileConfig(), "type asc-cp-mobile with 10 classes; expected asc-passt"),
        (None, "holds no saved model"),
    ],
)
def test_weights_that_no_passt_can_start_from_are_refused_before_anything_runs(toy, tmp_path, config, message):
    if config is not None:
        config.save_pretrained(tmp_path)
    settings = PlanSettings("runs", replace(toy.preset, pretrained=("passt",)), weights={"passt": str(tmp_path)})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Plan.of(tables(1), settings, recipes="recipes").check_ready()


def test_weights_of_the_right_classes_are_taken(toy, tmp_path):
    PasstConfig().save_pretrained(tmp_path)
    settings = PlanSettings("runs", replace(toy.preset, pretrained=("passt",)), weights={"passt": str(tmp_path)})
    plan = Plan.of(tables(1), settings, recipes="recipes")
    plan.check_ready()
    assert plan.warnings() == []


def test_plan_without_passt_needs_no_weights(tau22):
    [table] = tables(3)
    table = replace(table, cells=tuple(cell for cell in table.cells if "PaSST" not in cell.column))
    assert Plan.of([table], tau22, recipes="recipes").warnings() == []


def test_toy_says_that_passt_starts_from_random_weights(toy):
    assert Plan.of(tables(1), toy, recipes="r").warnings() == ["preset toy trains passt teachers from random weights"]


def test_toy_makes_its_corpus_and_store_first(toy):
    jobs = build_plan(tables(1), toy)
    assert [job.name for job in jobs[:2]] == ["corpus", "prepare"]
    assert jobs[1].needs == ("corpus",) and jobs[2].needs == ("prepare",)


def test_store_is_not_prepared_again(toy, tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("{}")
    jobs = build_plan(tables(1), PlanSettings("runs", toy.preset, str(tmp_path)))
    assert jobs[0].stage == "teacher" and jobs[0].needs == ()
    assert options(jobs[0])["data"] == str(tmp_path)


def test_preset_without_corpus_needs_data(tau22):
    with pytest.raises(ValueError, match="pass --data"):
        PlanSettings("runs", tau22.preset)


def test_commands_are_quoted(toy):
    settings = PlanSettings("my runs", toy.preset)
    assert "'my runs/prepared'" in Plan.of(tables(1), settings, recipes="recipes").commands()


# costs


def test_corpus_is_counted_from_its_tables(size):
    assert (size.train, size.evaluate, size.crops, size.scenes) == (CLIPS, EVALUATION, CROPS, 10)
    assert size.samples == (CLIPS + EVALUATION) * 32_000


def test_synthetic_corpus_is_counted_before_it_is_written(toy, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "toy-corpus"
    write_synthetic_corpus(folder, settings=SyntheticSettings(**toy.preset.corpus))
    data, size = load_tau22(folder), corpus_size(toy)
    crops = shifted_crops(data["train"], hop_seconds=toy.preset.crop_hop)
    assert (size.train, size.evaluate, size.crops) == (len(data["train"]), len(data["evaluate"]), len(crops))


@pytest.mark.parametrize(
    ("architecture", "size", "parameters", "macs", "training"),
    [
        ("cpr", "450k", 427_180, 91_330_000, 91_330_000),
        ("cpm", "128k", 126_952, 28_889_088, 28_889_088),
        ("passt", "s", 85_358_612, 9_587_000_000, 4_835_000_000),
    ],
)
def test_networks_cost_what_the_paper_says(architecture, size, parameters, macs, training):
    cost = network_cost(architecture, size)
    assert cost.parameters == parameters
    assert cost.macs == pytest.approx(macs, rel=1e-4)
    assert cost.training_macs == pytest.approx(training, rel=1e-4)


@pytest.mark.parametrize("overrides", ["base_channels=12", "channels=8", "base_channels"])
def test_impossible_overrides_are_named(overrides):
    with pytest.raises(ValueError, match=f"cpm-450k with config_overrides '{overrides}'"):
        network_cost("cpm", "450k", overrides)


def test_hours_follow_the_stated_model(tau22, paper, size):
    speed = SpeedModel(teraflops=50, launch_seconds=2e-5)
    costs = estimate_costs(paper, tau22, size, speed)
    steps, evaluation_steps = -(-CROPS // 80), -(-EVALUATION // 256)
    train = 3 * 2 * 4_835_384_832 * 80 / 50e12
    evaluate = 2 * 9_587_080_704 * 256 / 50e12
    expected = 10 + 25 * (steps * train + evaluation_steps * evaluate)
    assert costs["teachers/passt-s-none-s2"].seconds == pytest.approx(expected)
    launch = 54 * 11 * 2e-5  # the student's layers; more than its arithmetic and than reading with 4 workers
    expected = 10 + 150 * (-(-CROPS // 256) * launch + evaluation_steps * max(launch / 3, 256 * 1.3e-4 / 4))
    assert costs["students/cpr-128k-dirfms-x1-s0"].seconds == pytest.approx(expected)


def test_faster_machine_takes_fewer_hours(tau22, paper, size):
    speeds = (SpeedModel(teraflops=10), SpeedModel(teraflops=40), SpeedModel(teraflops=40, launch_seconds=1e-6))
    hours = [sum(cost.seconds for cost in estimate_costs(paper, tau22, size, speed).values()) for speed in speeds]
    assert hours[0] > hours[1] > hours[2]


def test_bytes_are_those_of_models_checkpoints_and_store(tau22, paper, size):
    costs = estimate_costs(paper, tau22, size, SpeedModel())
    passt = costs["teachers/passt-s-dirfms-s0"]
    assert passt.model_bytes == 4 * 85_358_612
    assert passt.checkpoint_bytes == 2 * 3 * 4 * 85_358_612  # two checkpoints: weights and the two moments of Adam
    assert costs["prepare"].bytes == pytest.approx(10.9e9, rel=0.01)


def test_bytes_of_logits_are_those_of_their_files(tau22, paper, size, tmp_path):
    rows, names = 4096, [f"airport-barcelona-203-{number:08d}" for number in range(4096)]
    write_logits_file(tmp_path / "x", names, np.zeros((rows, 10), np.float32), content=["0" * 32] * rows)
    row_bytes = (tmp_path / "x").stat().st_size / rows - len(names[0])
    costs = estimate_costs(paper, tau22, size, SpeedModel())
    expected = 3 * (CROPS * row_bytes + size.crop_name_bytes)
    assert costs["logits/train/cpr-8m-dirfms"].bytes == pytest.approx(expected, rel=0.01)


def test_summary_states_counts_hours_and_bytes(tau22):
    text = Plan.of(tables(1, 2, 3, 4), tau22, recipes="recipes").summary(SpeedModel())
    assert "66 teachers of 22 kinds, 147 students" in text
    assert "139,620 training clips, 265,278 crops, 29,680 evaluation clips" in text
    assert "estimate, not measured: 20 TFLOP/s" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:8]}
    assert [rows[stage][0] for stage in ("prepare", "teacher", "logits", "ensemble", "student", "all")] == [
        "1",
        "66",
        "33",
        "29",
        "147",
        "276",
    ]
    for column in (2, 4):  # hours and gigabytes add up, to the rounding
        parts = [float(rows[stage][column]) for stage in ("prepare", "teacher", "logits", "ensemble", "student")]
        assert float(rows["all"][column]) == pytest.approx(sum(parts), abs=0.3)


# presets


def preset(tmp_path, **changes) -> Path:
    content = yaml.safe_load((PRESETS / "toy.yaml").read_text())
    configs = {role: [str((PRESETS / name).resolve()) for name in names] for role, names in content["configs"].items()}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**content, "configs": configs, **changes}))
    return path


def test_specific_arguments_win_over_general_ones(tmp_path):
    arguments = {
        "all": {"fms_p": 0.1, "weight_decay": 0.5},
        "cpr": {"fms_p": 0.2},
        "cpr-450k": {"fms_p": 0.3},
        "cpr-450k-dir": {"fms_p": 0.4},
        "student": {"fms_p": 0.6},
    }
    settings = PlanSettings("runs", load_preset(preset(tmp_path, arguments=arguments)))
    jobs = {job.name: options(job) for job in build_plan(tables(1, 2), settings)}
    expected = {"cpm-128k-dir": "0.1", "cpr-1m-dirfms": "0.2", "cpr-450k-fms": "0.3", "cpr-450k-dir": "0.4"}
    for kind, value in expected.items():
        assert (jobs[f"teachers/{kind}-s0"]["fms_p"], jobs[f"teachers/{kind}-s0"]["weight_decay"]) == (value, "0.5")
    assert jobs["students/cpr-450k-dir-x1-s0"]["fms_p"] == "0.6"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds is"),
        ({"seeds": [0, 0]}, "seeds is"),
        ({"seeds": ["0"]}, "seeds is"),
        ({"crop_hop": "half"}, "crop_hop is 'half'"),
        ({"corpus": {"segments": 3}}, "corpus holds segments"),
        ({"pretrained": ["cpx"]}, "pretrained is"),
        ({"arguments": {"teacher": {}}}, "arguments holds 'teacher'"),
        ({"arguments": {"cpr": 3}}, "arguments.cpr is 3"),
        ({"arguments": ["cpr"]}, "arguments is"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_wrong_preset_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        load_preset(preset(tmp_path, **changes))
    assert "mine.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpr": {"epochs": 3}}, r"unknown argument\(s\) epochs"),
        ({"student": {"seed": 3}}, "seed is set by the plan itself"),
    ],
)
def test_argument_that_no_training_takes_is_refused_before_anything_runs(tmp_path, arguments, message):
    settings = PlanSettings("runs", load_preset(preset(tmp_path, arguments=arguments)))
    with pytest.raises(ValueError, match=message):
        build_plan(tables(1), settings)


def test_absent_config_of_a_preset_is_named(tmp_path):
    configs = {role: ["nowhere.yaml"] for role in ("cpr", "cpm", "passt", "student")}
    settings = PlanSettings("runs", load_preset(preset(tmp_path, configs=configs)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        build_plan(tables(1), settings)


def test_absent_preset_names_the_others():
    with pytest.raises(FileNotFoundError, match="esc10, paper, toy"):
        load_preset(PRESETS / "none.yaml")


def test_options_of_all_types():
    arguments = {"a": 1e-3, "b": True, "c": None, "d": ["x", "y"], "e": "z"}
    assert as_options(arguments) == ("--a", "0.001", "--b", "true", "--d", "x", "y", "--e", "z")
