"""Cases of evaluation: waveforms to logits in batches; of latency: one clip to probabilities, by torch and ONNX."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from frontend_cases import ARCHITECTURES, our_mel, plain_mel
from networks import count_denormals, fresh_model, open_checkpoint, plain_model
from plain import normalise
from timing import Case
from torch import nn
from workload import SAMPLING_RATE, Workload, check_close, exact_convolutions

from hf_ascdistill import AscFeatureExtractor, compile_classifier, inference_copy
from hf_ascdistill.export.compiled import COMPILERS

SECTION = "Evaluation"
COPIED, COMPILED, SINGLE = "inference_copy", "torch.compile", "compile_classifier"  # ways through torch
LOGIT_TOLERANCE, PROBABILITY_TOLERANCE = 1e-3, 1e-3
INT8_TOLERANCE = 0.2  # of a probability: a quantised network is another one, and its accuracy is measured elsewhere
BATCH_GOALS = {"published": 6.0, "zeroed": 3.0}
LATENCY_GOALS = {"published": 5.0, "zeroed": 3.0}
PEER_EVALUATION = {"cp-mobile": 12.4, "cp-resnet": 3.1}  # ms per clip
PEER_LATENCY = {"cp-mobile": 20.6, "cp-resnet": 11.4}
Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """A network of ours with its plain twins.

    Args:
        title (`str`): what it is.
        architecture (`str`): `cp-mobile` or `cp-resnet`.
        model (`nn.Module`): ours, in evaluation mode.
        extractor (`AscFeatureExtractor`): its front-end.
        twins (`dict[str, nn.Module]`): plain networks of the same weights, by what is said of these.
    """

    title: str
    architecture: str
    model: nn.Module
    extractor: AscFeatureExtractor
    twins: dict[str, nn.Module]

    def name(self, what: str, twin: str) -> str:
        """Names a case; `twin` is what is said of the plain network's weights."""
        weights = f" (plain: {twin})" if twin else ""
        return f"{what}, {self.title}{weights}"


def evaluation_cases(work: Workload) -> Iterator[Case]:
    """Yields mel and network in batches, then from one clip to its probabilities."""
    candidates = list(_candidates(work))
    ways = [COPIED, *([COMPILED] if has_compiler() else [])]
    for candidate in candidates:
        for way in ways:
            yield from _batch_cases(work, candidate, through=way)
    for candidate in candidates:
        for way in ways:
            ours = _our_latency(work, candidate, through=way)
            name = SINGLE if way == COMPILED and work.device.type == "cpu" else way
            yield from _latency_cases(work, candidate, ours, through=name, tolerance=PROBABILITY_TOLERANCE)
    is_exported = work.device.type == "cpu" and work.checkpoint is not None and work.clips is not None
    if is_exported and not missing_export_packages():
        for path in _exported(work, candidates[-1]):
            tolerance = INT8_TOLERANCE if "int8" in path.stem else PROBABILITY_TOLERANCE
            ours = _onnx_latency(path, candidates[-1])
            yield from _latency_cases(work, candidates[-1], ours, through=f"ONNX {path.stem}", tolerance=tolerance)


def missing_export_packages() -> list[str]:
    """Returns the packages that the export to ONNX needs and this machine lacks."""
    return [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]


def has_compiler() -> bool:
    """Returns whether torch.compile can build for the CPU here."""
    return any(shutil.which(name) is not None for name in COMPILERS)


def _our_network(work: Workload, candidate: Candidate, through: str) -> nn.Module:
    """Returns the copy for inference, or one in torch's operations, compiled."""
    if through == COMPILED:
        return torch.compile(inference_copy(candidate.model, work.device, native_kernels=False))
    return inference_copy(candidate.model, work.device)


def _candidates(work: Workload) -> Iterator[Candidate]:
    for architecture, name in ARCHITECTURES.items():
        model, extractor = fresh_model(architecture).eval(), AscFeatureExtractor.from_preset(architecture)
        yield Candidate(f"{name}-128K", architecture, model, extractor, {"": plain_model(model)})
    if work.checkpoint is not None:
        model, extractor, published = open_checkpoint(work.checkpoint)
        denormals = f"published, {count_denormals(published):,} denormals"
        twins = {denormals: published, "zeroed denormals": plain_model(model)}
        yield Candidate("CPM, trained", "cp-mobile", model, extractor, twins)


def _goal(goals: dict[str, float], twin: str) -> float | None:
    return next((goal for kind, goal in goals.items() if twin.startswith(kind)), None)


def _batch_cases(work: Workload, candidate: Candidate, *, through: str) -> Iterator[Case]:
    """Yields the cases of a whole batch, waveforms to logits."""
    fused = _our_network(work, candidate, through)
    batch_size, extractor = len(work.waveform), candidate.extractor
    log_mel = our_mel(extractor)

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        return fused(log_mel(work.waveform)).logits

    for twin, network in candidate.twins.items():
        plain = _plain_forward(work, network, extractor)
        name = candidate.name(f"mel and network, batch {batch_size}, {through}", twin)
        with exact_convolutions():
            check_close(name, ours(), plain(work.waveform), tolerance=LOGIT_TOLERANCE)
        goal = _goal(BATCH_GOALS, twin) if through == COPIED else None
        peer = (PEER_EVALUATION[candidate.architecture],)
        yield Case(SECTION, name, batch_size, ours, lambda plain=plain: plain(work.waveform), peer, goal)


def _latency_cases(
    work: Workload, candidate: Candidate, ours: Forward, *, through: str, tolerance: float
) -> Iterator[Case]:
    """Yields the cases of one clip, waveform to probabilities."""
    clip = work.waveform[:1]
    for twin, network in candidate.twins.items():
        forward = _plain_forward(work, network, candidate.extractor)

        def plain(forward: Forward = forward) -> torch.Tensor:
            return forward(clip).softmax(dim=1).cpu()  # the clip is done when its probabilities can be read

        name = candidate.name(f"latency of one clip, {through}", twin)
        with exact_convolutions():
            check_close(name, ours(clip).cpu(), plain(), tolerance=tolerance)
        # one clip at a time is what compile_classifier is for: of torch's ways, the goal is that one's
        goal = None if through == COPIED and has_compiler() else _goal(LATENCY_GOALS, twin)
        peer = (PEER_LATENCY[candidate.architecture],)
        yield Case(SECTION, name, 1, lambda: ours(clip).cpu(), plain, peer, goal)


def _our_latency(work: Workload, candidate: Candidate, *, through: str) -> Forward:
    """Returns waveform to probabilities through the fused model, or compiled as a whole."""
    if through == COMPILED and work.device.type == "cpu":
        return compile_classifier(candidate.model, candidate.extractor, samples=work.waveform.shape[1])
    fused, extractor = _our_network(work, candidate, through), candidate.extractor

    @torch.inference_mode()
    def classify(clip: torch.Tensor) -> torch.Tensor:
        inputs = extractor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt", device=work.device)
        return fused(**inputs).logits.softmax(dim=1)

    return classify


def _exported(work: Workload, candidate: Candidate) -> list[Path]:
    """Exports a network in float32 and in int8, from waveforms and from log-mels; returns the files."""
    from hf_ascdistill import ExportSettings, export_model

    folder, settings = work.folder / "exported", ExportSettings(formats=["onnx", "onnx-int8"])
    clips = {"clips": work.clips, "calibration_clips": work.clips}
    export_model(candidate.model, candidate.extractor, folder, settings=settings, **clips)
    return sorted(folder.glob("*.onnx"))


def _onnx_latency(path: Path, candidate: Candidate) -> Forward:
    """Returns waveform to probabilities through an exported file, which takes waveforms or our log-mels."""
    import onnxruntime

    takes_waveform = path.stem.startswith("waveform")  # (B, T) to probabilities; else (B, M, F) to logits
    options = onnxruntime.SessionOptions()
    threads = options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # leaves the cores to the other side
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    log_mel = our_mel(candidate.extractor)
    (entry,), (result,) = session.get_inputs(), session.get_outputs()

    @torch.inference_mode()
    def classify(clip: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(1)  # a second one would spin on where onnxruntime's has to work
        inputs = clip if takes_waveform else log_mel(clip)
        torch.set_num_threads(threads)
        scores = torch.from_numpy(session.run([result.name], {entry.name: inputs.numpy()})[0])
        return scores if takes_waveform else scores.softmax(dim=1)

    return classify


def _plain_forward(work: Workload, network: nn.Module, extractor: AscFeatureExtractor) -> Forward:
    """Returns waveform to logits the plain way; its mel bank, which never changes here, is built once."""
    mel, network = plain_mel(extractor), network.to(work.device).eval()
    bank = mel.bank(extractor.fmax, work.device)

    @torch.no_grad()
    def evaluate(waveform: torch.Tensor) -> torch.Tensor:
        return network(normalise(mel(waveform, bank)))

    return evaluate


__all__ = ["evaluation_cases", "missing_export_packages"]
