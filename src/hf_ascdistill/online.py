"""Online distillation: frozen teachers in the student's training loop, which look at the student's augmented clips."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .data.columns import INPUT_VALUES, SAMPLING_RATE, TEACHER_LOGITS, WAVEFORM
from .evaluation import front_end_settings
from .memory_format import fastest_memory_format
from .models.feature_extraction_asc import AscFeatureExtractor
from .teachers import model_identity
from .transforms.frontend import AcousticFrontend

ONLINE = "online"


class Views(NamedTuple):
    """One augmented batch as the student and as each teacher sees it.

    Args:
        batch (`dict`): the student's batch, what its front-end alone would have made.
        teachers (`tuple[torch.Tensor, ...]`): log-mels of each teacher, `(B, M, F)`; the same tensor where front-ends
            are the same.
    """

    batch: dict[str, Any]
    teachers: tuple[torch.Tensor, ...]


class OnlineTeachers:
    """Frozen teachers that run in the student's training loop, on the same augmented input.

    For clips whose logits cannot be cached, since they are cut or augmented anew in every epoch. The models become
    frozen and stay in evaluation mode; the student's optimizer, checkpoints and processes know nothing of them.

    Args:
        teachers (`Mapping[str, tuple[nn.Module, AcousticFrontend]]`): trained classifiers by name, each with its
            front-end, of which the extractor alone counts: the augmentation is the student's.

    Raises:
        ValueError: there are no teachers, or a front-end takes another sampling rate.

    Source: Beyer et al., *Knowledge distillation: A good teacher is patient and consistent*, 2022: consistent
    teaching. The paper caches logits of clean clips instead ([`predict_logits`]).
    """

    def __init__(self, teachers: Mapping[str, tuple[nn.Module, AcousticFrontend]]) -> None:
        if not teachers:
            raise ValueError("online distillation needs at least one teacher; none was given.")
        extractors = {name: frontend.extractor for name, (_, frontend) in teachers.items()}
        for name, extractor in extractors.items():
            if extractor.sampling_rate != SAMPLING_RATE:
                raise ValueError(
                    f"the front-end of {name} takes {extractor.sampling_rate} Hz, but clips have {SAMPLING_RATE} Hz."
                )
        self.models = tuple(model.eval().requires_grad_(False) for model, _ in teachers.values())
        self.extractors = tuple(extractors.values())
        self.identities = [
            {"name": name, "mode": ONLINE, "model": model_identity(model), "front_end": front_end_settings(extractor)}
            for model, (name, extractor) in zip(self.models, extractors.items(), strict=True)
        ]

    def to(self, device: str | torch.device, *, channels_last: bool = False) -> "OnlineTeachers":
        """Moves the teachers to a device.

        Args:
            device (`str` or `torch.device`): where they will work.
            channels_last (`bool`, *optional*, defaults to `False`): each in its [`fastest_memory_format`].
        """
        for model in self.models:
            model.to(device)
            if channels_last:
                model.to(memory_format=fastest_memory_format(model, device))
        return self

    def views(self, batch: dict[str, Any], frontend: AcousticFrontend) -> Views:
        """Augments a batch once and shows it to the student and to each teacher.

        The waveforms are augmented once. Then each front-end makes its own log-mels from the same random numbers: the
        same upper edge of the mel bank, masks of the same share of mels and seconds, the same coin, lambda and
        partners of Freq-MixStyle. The random stream goes on as if there were no teachers.

        Args:
            batch (`dict`): `waveform` `(B, T)` and the other columns.
            frontend ([`AcousticFrontend`]): the student's, augmenting.

        Raises:
            ValueError: the batch has no waveforms, or has teacher logits already.
        """
        _check_columns(batch)
        batch = frontend.augment_waveforms(batch)
        start = torch.get_rng_state()  # all transforms draw on the CPU
        student = frontend.to_spectrograms(batch)
        seen = {_key(frontend.extractor): student[INPUT_VALUES]}
        for extractor in self.extractors:
            if _key(extractor) not in seen:
                with torch.random.fork_rng(devices=()):
                    torch.set_rng_state(start)
                    view = frontend.with_extractor(extractor).to_spectrograms(batch)
                seen[_key(extractor)] = view[INPUT_VALUES]
        return Views(student, tuple(seen[_key(extractor)] for extractor in self.extractors))

    @torch.no_grad()
    def logits(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the mean of the teachers' raw logits, float32 `(B, C)`.

        Args:
            views (`Sequence[torch.Tensor]`): log-mels of each teacher, `(B, M, F)`.
        """
        members = [model(input_values=view).logits.float() for model, view in zip(self.models, views, strict=True)]
        return torch.stack(members).mean(dim=0)


def _key(extractor: AscFeatureExtractor) -> tuple:
    return tuple(sorted(front_end_settings(extractor).items()))


def _check_columns(batch: dict[str, Any]) -> None:
    if WAVEFORM not in batch:
        raise ValueError(
            f"the batch has no {WAVEFORM}, of which each online teacher makes its own log-mels; its columns are "
            f"{', '.join(batch)}. Make the student's log-mels in the trainer too: --frontend_seat accelerator."
        )
    if TEACHER_LOGITS in batch:
        raise ValueError(f"the batch has {TEACHER_LOGITS} and there are online teachers; take one or the other.")


__all__ = ["ONLINE", "OnlineTeachers", "Views"]
