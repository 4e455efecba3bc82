"""The distillation loss: the published values and gradients, both reductions, and the refusals."""

import numpy as np
import pytest
import torch

from hf_ascdistill import distillation_loss, distillation_loss_parts

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
CLASSES = 10
TEMPERATURES, LAMBDAS = (1, 2, 4), ("0.02", "0.5")


@pytest.fixture(scope="module")
def kd(golden):
    return golden("kd")


def tensors(kd):
    return (torch.from_numpy(kd[name]) for name in ("student", "teacher", "label"))


def parts_and_gradient(kd, **settings):
    student, teacher, labels = tensors(kd)
    student.requires_grad_()
    parts = distillation_loss_parts(student, teacher, labels, **settings)
    parts.loss.backward()
    return parts, student.grad.numpy()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kd_lambda", LAMBDAS)
def test_the_mean_over_clips_and_classes_is_the_published_loss(kd, temperature, kd_lambda):
    name = f"T{temperature}_l{kd_lambda}"
    parts, gradient = parts_and_gradient(
        kd, kd_lambda=float(kd_lambda), temperature=float(temperature), reduction="mean"
    )
    for value, key in ((parts.loss, "loss"), (parts.label_loss, "ce"), (parts.teacher_loss, "kd")):
        np.testing.assert_allclose(value.item(), kd[f"{name}_{key}"], **TOLERANCE)
    np.testing.assert_allclose(float(kd_lambda) * parts.label_loss.item(), kd[f"{name}_label_part"], **TOLERANCE)
    np.testing.assert_allclose((1 - float(kd_lambda)) * parts.teacher_loss.item(), kd[f"{name}_kd_part"], **TOLERANCE)
    np.testing.assert_allclose(gradient, kd[f"{name}_grad"], **TOLERANCE)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kd_lambda", LAMBDAS)
def test_the_mean_over_clips_has_a_teacher_part_as_many_times_larger_as_there_are_classes(kd, temperature, kd_lambda):
    name, weight = f"T{temperature}_l{kd_lambda}", float(kd_lambda)
    parts, gradient = parts_and_gradient(kd, kd_lambda=weight, temperature=temperature, reduction="batchmean")
    teacher_loss = CLASSES * kd[f"{name}_kd"]
    np.testing.assert_allclose(parts.teacher_loss.item(), teacher_loss, **TOLERANCE)
    np.testing.assert_allclose(parts.loss.item(), weight * kd[f"{name}_ce"] + (1 - weight) * teacher_loss, **TOLERANCE)
    # two published gradients of one temperature give that of each part
    mixed = [kd[f"T{temperature}_l{name}_grad"] for name in LAMBDAS]
    weights = np.array([[float(name), 1 - float(name)] for name in LAMBDAS])
    of_labels, of_teacher = np.tensordot(np.linalg.inv(weights), np.stack(mixed), axes=1)
    np.testing.assert_allclose(gradient, weight * of_labels + (1 - weight) * CLASSES * of_teacher, **TOLERANCE)


def test_the_default_is_the_papers(kd):
    expected, _ = parts_and_gradient(kd, kd_lambda=0.02, temperature=2.0, reduction="batchmean")
    assert distillation_loss(*tensors(kd)).item() == expected.loss.item()


def test_an_ensemble_is_the_mean_of_raw_logits(kd):
    mean = torch.from_numpy(kd["ens_logits"]).mean(dim=0)
    np.testing.assert_allclose(mean.numpy(), kd["ens_mean"], **TOLERANCE)
    student, _, labels = tensors(kd)
    parts = distillation_loss_parts(student, mean, labels, temperature=2.0)
    target = torch.from_numpy(kd["ens_logsoftmax_T2"])
    divergence = (target.exp() * (target - torch.log_softmax(student / 2, dim=-1))).sum(dim=-1).mean()
    np.testing.assert_allclose(parts.teacher_loss.item(), 4 * divergence.item(), **TOLERANCE)


def test_a_student_that_equals_its_teacher_has_no_teacher_loss(kd):
    _, teacher, labels = tensors(kd)
    assert distillation_loss_parts(teacher, teacher, labels).teacher_loss.item() == pytest.approx(0, abs=1e-6)


def test_no_gradient_flows_into_the_teacher(kd):
    student, teacher, labels = tensors(kd)
    student.requires_grad_(), teacher.requires_grad_()
    distillation_loss(student, teacher, labels).backward()
    assert student.grad is not None and teacher.grad is None


def test_half_precision_logits_give_a_float32_loss(kd):
    student, teacher, labels = tensors(kd)
    loss = distillation_loss(student.bfloat16(), teacher.bfloat16(), labels)
    assert loss.dtype == torch.float32
    assert loss.item() == distillation_loss(student.bfloat16().float(), teacher.bfloat16().float(), labels).item()


def test_the_docstrings_example_holds():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    loss = distillation_loss(logits, teacher=logits, labels=torch.tensor([0, 1]), kd_lambda=0.5)
    assert loss.item() == pytest.approx(0.0635, abs=5e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 3), (4, 2), (4,)), r"teacher.*\(4, 2\).*\(4, 3\)"),
        (((4, 3), (1, 3), (4,)), r"teacher.*\(1, 3\)"),
        (((4, 3), (4, 3), (3,)), r"labels.*\(3,\)"),
        (((4, 3), (4, 3), (4, 1)), r"labels.*\(4, 1\)"),
        (((3,), (3,), (1,)), r"student.*\(3,\)"),
        (((0, 3), (0, 3), (0,)), r"student.*\(0, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_raise(shapes, message):
    student, teacher, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        distillation_loss(student, teacher, labels.long())


def test_labels_that_are_no_class_ids_raise():
    with pytest.raises(ValueError, match="labels are torch.float32"):
        distillation_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4))


@pytest.mark.parametrize(
    "setting",
    [
        {"kd_lambda": -0.1},
        {"kd_lambda": 1.1},
        {"kd_lambda": float("nan")},
        {"temperature": 0.0},
        {"temperature": -2.0},
        {"temperature": float("nan")},
        {"reduction": "sum"},
    ],
)
def test_a_setting_out_of_range_raises(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        distillation_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4).long(), **setting)
