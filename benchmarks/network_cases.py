"""Cases with a network: training steps, evaluation and latency, with fresh weights and with those of a checkpoint."""

import copy
from collections.abc import Callable, Iterator

import torch
from frontend_cases import ARCHITECTURES, our_frontend, plain_frontend, plain_mel
from plain import Trainer, normalise
from timing import Case
from torch import nn
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
from workload import CLASSES, SAMPLING_RATE, Workload, check_close, exact_convolutions

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    DistillationTrainer,
    DistillationTrainingArguments,
)

NETWORKS = {
    "cp-mobile": (CpMobileConfig, CpMobileForAudioClassification),
    "cp-resnet": (CpResNetConfig, CpResNetForAudioClassification),
}
TRAINING, EVALUATION = "Training", "Evaluation"
SPREAD = 0.02  # added to fresh weights, for CP-ResNet starts with zeros that would hide a difference
LOSS_TOLERANCE, LOGIT_TOLERANCE = 1e-3, 1e-3  # loss: relative
GRADIENT_TOLERANCE = 0.1  # relative L2; batch normalisation in channels_last is some 50 times less accurate on a CPU
# The peer's ms per clip.
PEER_ITEM_CACHED = 2.3
PEER_STEP = {"cp-mobile": 9.0, "cp-resnet": 3.4}
PEER_MEL_FMS_STEP = {"cp-mobile": 13.9, "cp-resnet": 6.3}
PEER_EVALUATION = {"cp-mobile": 12.4, "cp-resnet": 3.1}
PEER_LATENCY = {"cp-mobile": 20.6, "cp-resnet": 11.4}
PEER_STEP_TRAINED = 29.1  # CP-Mobile's published weights, denormals and all


class OurLoop:
    """The package's own training step, outside of its epochs."""

    def __init__(self, model: nn.Module, frontend: AcousticFrontend, work: Workload):
        arguments = DistillationTrainingArguments(
            str(work.folder / "trainer"), use_cpu=work.device.type == "cpu", disable_tqdm=True, eval_strategy="no"
        )
        self.trainer = DistillationTrainer(model, arguments, frontend=frontend)
        self.trainer.current_gradient_accumulation_steps = 1  # Trainer.train sets it
        self.optimizer = self.trainer.create_optimizer()

    def backward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Fills the gradients of a batch and returns its loss."""
        self.optimizer.zero_grad()
        return self.trainer.training_step(self.trainer.model, batch)

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Trains on a batch and returns its loss."""
        loss = self.backward(batch)
        self.optimizer.step()
        return loss


def training_cases(work: Workload) -> Iterator[Case]:
    """Yields training steps on mels and from the waveform."""
    for architecture, name in ARCHITECTURES.items():
        extractor = AscFeatureExtractor.from_preset(architecture)
        model, title = fresh_model(architecture), f"{name}-128K"
        yield _mel_step_case(work, model, extractor, title=title, peer=(PEER_STEP[architecture],))
    for architecture, name in ARCHITECTURES.items():
        peer = PEER_MEL_FMS_STEP[architecture], PEER_ITEM_CACHED
        yield _whole_step_case(work, architecture, name=f"{name}-128K", peer=peer)
    if work.checkpoint is not None:
        model, extractor = load_checkpoint(work)
        yield _mel_step_case(work, model, extractor, title=_title(model), peer=_peer_trained(model))


def evaluation_cases(work: Workload) -> Iterator[Case]:
    """Yields mel and network in batches and clip by clip, the model as it is loaded or as the trainer holds it."""
    candidates = [
        (fresh_model(architecture), AscFeatureExtractor.from_preset(architecture), f"{name}-128K")
        for architecture, name in ARCHITECTURES.items()
    ]
    if work.checkpoint is not None:
        model, extractor = load_checkpoint(work)
        candidates.append((model, extractor, _title(model)))
    for model, extractor, title in candidates:
        peer = (PEER_EVALUATION[_architecture(model)],)
        yield _batch_case(work, model, extractor, title=title, peer=peer)
        in_trainer = copy.deepcopy(model).to(memory_format=torch.channels_last)
        yield _batch_case(work, in_trainer, extractor, title=f"{title}, channels_last", peer=peer)
    for model, extractor, title in candidates:
        yield _latency_case(work, model, extractor, title=title, peer=(PEER_LATENCY[_architecture(model)],))


def fresh_model(architecture: str) -> nn.Module:
    """Returns the 128K network of an architecture, a little away from its initialisation; the same at every call."""
    config_class, model_class = NETWORKS[architecture]
    torch.manual_seed(0)
    model = model_class(config_class.from_preset("128k", num_labels=CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    return model


def load_checkpoint(work: Workload) -> tuple[nn.Module, AscFeatureExtractor]:
    """Returns the network of a converted checkpoint and its front-end."""
    model = AutoModelForAudioClassification.from_pretrained(work.checkpoint)
    return model, AutoFeatureExtractor.from_pretrained(work.checkpoint)


def _architecture(model: nn.Module) -> str:
    return next(name for name, (_, model_class) in NETWORKS.items() if isinstance(model, model_class))


def _title(model: nn.Module) -> str:
    return f"{ARCHITECTURES[_architecture(model)]}, checkpoint's weights"


def _peer_trained(model: nn.Module) -> tuple[float, ...]:
    return (PEER_STEP_TRAINED,) if _architecture(model) == "cp-mobile" else ()


def _mel_step_case(
    work: Workload, model: nn.Module, extractor: AscFeatureExtractor, *, title: str, peer: tuple[float, ...]
) -> Case:
    mels = extractor.log_mel(work.waveform)
    targets = {"labels": work.labels, "teacher_logits": work.teacher}
    ours, plain = _loops(work, model, AcousticFrontend(extractor))
    with exact_convolutions():
        _check_step(ours, plain, {"input_values": mels, **targets})
    return Case(
        TRAINING,
        f"step on mels, {title}, batch {len(mels)}",
        len(mels),
        lambda: ours.step({"input_values": mels, **targets}),
        lambda: plain.step(mels, work.teacher, work.labels),
        peer,
    )


def _whole_step_case(work: Workload, architecture: str, *, name: str, peer: tuple[float, ...]) -> Case:
    extractor = AscFeatureExtractor.from_preset(architecture)
    ours, plain = _loops(work, fresh_model(architecture), our_frontend(work, extractor))
    frontend = plain_frontend(work, extractor)
    batch = {"waveform": work.waveform, "labels": work.labels, "teacher_logits": work.teacher}
    return Case(
        TRAINING,
        f"whole step from the waveform, {name}, batch {len(work.waveform)}",
        len(work.waveform),
        lambda: ours.step(batch),
        lambda: plain.step(frontend(work.waveform), work.teacher, work.labels),
        peer,
        is_whole_step=True,
    )


def _loops(work: Workload, model: nn.Module, frontend: AcousticFrontend) -> tuple[OurLoop, Trainer]:
    """Returns our loop and the plain one over equal networks of their own."""
    plain = Trainer(copy.deepcopy(model).to(work.device))
    return OurLoop(model, frontend, work), plain


def _check_step(ours: OurLoop, plain: Trainer, batch: dict[str, torch.Tensor]) -> None:
    losses = ours.backward(batch), plain.backward(batch["input_values"], batch["teacher_logits"], batch["labels"])
    check_close("loss of a training step", *losses, tolerance=LOSS_TOLERANCE * float(losses[1]))
    own, expected = (_gradient(model) for model in (ours.trainer.model, plain.model))
    error = (own - expected).norm() / expected.norm()
    check_close("gradient, relative error", error, torch.zeros(()), tolerance=GRADIENT_TOLERANCE)


def _gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _batch_case(
    work: Workload, model: nn.Module, extractor: AscFeatureExtractor, *, title: str, peer: tuple[float, ...]
) -> Case:
    model = model.to(work.device).eval()
    frontend, plain = AcousticFrontend(extractor), _plain_evaluation(work, model, extractor)

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        return model(frontend({"waveform": work.waveform})["input_values"]).logits

    with exact_convolutions():
        check_close(f"logits, {title}", ours(), plain(work.waveform), tolerance=LOGIT_TOLERANCE)
    batch_size = len(work.waveform)
    name = f"mel and network, {title}, batch {batch_size}"
    return Case(EVALUATION, name, batch_size, ours, lambda: plain(work.waveform), peer)


def _latency_case(
    work: Workload, model: nn.Module, extractor: AscFeatureExtractor, *, title: str, peer: tuple[float, ...]
) -> Case:
    model, clip = model.to(work.device).eval(), work.waveform[:1]
    plain = _plain_evaluation(work, model, extractor)

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        inputs = extractor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt", device=work.device)
        return model(**inputs).logits

    with exact_convolutions():
        check_close(f"logits of one clip, {title}", ours(), plain(clip), tolerance=LOGIT_TOLERANCE)
    return Case(EVALUATION, f"latency: mel and network, {title}, batch 1", 1, ours, lambda: plain(clip), peer)


def _plain_evaluation(
    work: Workload, model: nn.Module, extractor: AscFeatureExtractor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns waveform to logits the plain way; its mel bank, which never changes here, is built once."""
    mel, model = plain_mel(extractor), copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    bank = mel.bank(extractor.fmax, work.device)

    @torch.no_grad()
    def evaluate(waveform: torch.Tensor) -> torch.Tensor:
        return model(normalise(mel(waveform, bank))).logits

    return evaluate


__all__ = ["evaluation_cases", "fresh_model", "load_checkpoint", "training_cases"]
