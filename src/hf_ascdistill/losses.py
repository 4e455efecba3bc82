"""The distillation loss of the paper, as a pure function of logits and labels."""

from typing import NamedTuple

import torch
from torch.nn import functional

REDUCTIONS = ("batchmean", "mean")


class DistillationLoss(NamedTuple):
    """The weighted loss and its two parts before they are weighted.

    Args:
        loss (`torch.Tensor`): `kd_lambda * label_loss + (1 - kd_lambda) * teacher_loss`, scalar.
        label_loss (`torch.Tensor`): cross-entropy with the labels, scalar.
        teacher_loss (`torch.Tensor`): `temperature ** 2` times the KL divergence from the teacher, scalar.
    """

    loss: torch.Tensor
    label_loss: torch.Tensor
    teacher_loss: torch.Tensor


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    *,
    kd_lambda: float = 0.02,
    temperature: float = 2.0,
    reduction: str = "batchmean",
) -> torch.Tensor:
    r"""Weighs the label loss against the teacher loss (Eq. 1).

    $$L = \lambda \, \mathrm{CE}(z_s, y) + (1 - \lambda) \, \tau^2 \,
    \mathrm{KL}(\mathrm{softmax}(z_t / \tau) \,\|\, \mathrm{softmax}(z_s / \tau))$$

    The factor tau^2 keeps the teacher's gradients at the labels' scale. The ensemble of several teachers enters as the
    mean of their raw logits. Small `kd_lambda` means a student that mostly follows its teacher.

    Args:
        student (`torch.Tensor`): student logits z_s, `(B, C)`.
        teacher (`torch.Tensor`): raw teacher logits z_t of the clean clips, `(B, C)`; no temperature applied yet. No
            gradient flows into them.
        labels (`torch.Tensor`): class ids y, int64 `(B,)`.
        kd_lambda (`float`, *optional*, defaults to 0.02): weight lambda of the LABEL loss, in [0, 1].
        temperature (`float`, *optional*, defaults to 2.0): temperature tau of both distributions, > 0.
        reduction (`str`, *optional*, defaults to `"batchmean"`): `"batchmean"` averages the KL divergence over the
            clips, which is Eq. 1; `"mean"` averages over clips and classes, as the authors' runs did, and makes the
            teacher loss C times smaller.

    Returns:
        `torch.Tensor`: the loss, float32 scalar.

    Raises:
        ValueError: shapes that do not fit, labels that are no class ids, or a setting out of range.

    Source: Morocutti, Schmid, Koutini, Widmer, *Creating a Good Teacher for Knowledge Distillation in Acoustic Scene
    Classification*, DCASE 2023, Eq. 1; Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import distillation_loss
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> distillation_loss(logits, teacher=logits, labels=torch.tensor([0, 1]), kd_lambda=0.5)
    tensor(0.0635)
    ```
    """
    return distillation_loss_parts(
        student, teacher, labels, kd_lambda=kd_lambda, temperature=temperature, reduction=reduction
    ).loss


def distillation_loss_parts(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    *,
    kd_lambda: float = 0.02,
    temperature: float = 2.0,
    reduction: str = "batchmean",
) -> DistillationLoss:
    """Computes [`distillation_loss`] and its two parts, for logs.

    Args:
        student (`torch.Tensor`): student logits, `(B, C)`.
        teacher (`torch.Tensor`): raw teacher logits, `(B, C)`.
        labels (`torch.Tensor`): class ids, int64 `(B,)`.
        kd_lambda (`float`, *optional*, defaults to 0.02): weight of the label loss.
        temperature (`float`, *optional*, defaults to 2.0): temperature of both distributions.
        reduction (`str`, *optional*, defaults to `"batchmean"`): `"batchmean"` or `"mean"`.

    Returns:
        [`DistillationLoss`]: `loss`, and the unweighted `label_loss` and `teacher_loss`.

    Raises:
        ValueError: as [`distillation_loss`].
    """
    _check_shapes(student, teacher, labels)
    _check_settings(kd_lambda, temperature, reduction)
    label_loss = functional.cross_entropy(student.float(), labels)
    divergence = functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=-1),
        functional.log_softmax(teacher.detach().float() / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    teacher_loss = temperature**2 * divergence / (len(student) if reduction == "batchmean" else student.numel())
    return DistillationLoss(kd_lambda * label_loss + (1 - kd_lambda) * teacher_loss, label_loss, teacher_loss)


def _check_shapes(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> None:
    if student.ndim != 2 or not student.numel():
        raise ValueError(f"student logits have shape {tuple(student.shape)}; expected (B, C), not empty.")
    if teacher.shape != student.shape:
        raise ValueError(
            f"teacher logits have shape {tuple(teacher.shape)}, student logits {tuple(student.shape)}; expected one "
            "row per clip and one column per class in both: attach the logits of a teacher of the same classes."
        )
    if labels.shape != student.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected int64 class ids of shape "
            f"{tuple(student.shape[:1])}."
        )


def _check_settings(kd_lambda: float, temperature: float, reduction: str) -> None:
    if not 0 <= kd_lambda <= 1:
        raise ValueError(f"kd_lambda is {kd_lambda}; expected the label loss's weight, from 0 to 1.")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0.")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}.")


__all__ = ["REDUCTIONS", "DistillationLoss", "distillation_loss", "distillation_loss_parts"]
