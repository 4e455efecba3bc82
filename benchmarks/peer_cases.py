"""Cases against packages from PyPI on the same clips: impulse responses, front-ends, PaSST-S.

`python benchmarks/peers.py FOLDER` makes the environment that has them; what is not there is left out.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from hear21passt_network import CLASSES, FRAMES, MELS, quiet
from passt_step import LOGITS_TOLERANCE, PlainLogits, equal_networks, training_step
from timing import Case
from workload import SAMPLING_RATE, Workload, check_close

from hf_ascdistill import AscFeatureExtractor, DeviceImpulseResponse, inference_copy, use_native_kernels
from hf_ascdistill.transforms.waveform import convolve

SECTION = "Other packages"
PACKAGES = ("torch_audiomentations", "audiomentations", "torchlibrosa", "torchaudio")
DIR_GOAL, FRONTEND_GOAL, PASST_GOAL = 5.0, 1.0, 1.2
PASST_BATCH_SIZE = 8
CONVOLUTION_TOLERANCE = 1e-4  # of the loudest sample
COMPARABLE = 0.6  # correlation of log-mels: scales, edges and floors under the logarithm are each package's own
N_FFT, WIN_LENGTH, HOP_LENGTH = 1024, 800, 320  # PaSST's front-end: 25 ms every 10 ms, which the peers take as well
MILLISECONDS = {"frame_length": 25.0, "frame_shift": 10.0}


def missing_peers() -> list[str]:
    """Returns the packages that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def peer_cases(work: Workload) -> Iterator[Case]:
    """Yields the cases of every package that is there; they run on a CPU."""
    missing = missing_peers()
    if work.clips is not None:
        responses = _write_responses(work)
        if "torch_audiomentations" not in missing:
            yield from _torch_audiomentations_cases(work, responses)
        if "audiomentations" not in missing:
            yield _audiomentations_case(work, responses)
    yield from _frontend_cases(work, missing)
    if work.hear21passt is not None and (work.hear21passt / "hear21passt").is_dir():
        yield from _passt_cases(work.hear21passt)


def _write_responses(work: Workload) -> dict[Path, torch.Tensor]:
    """Writes the bank as float wav files, without the zeros that pad it; returns each file's response."""
    import soundfile

    folder = work.folder / "responses"
    folder.mkdir()
    files = {folder / f"{number:03}.wav": response for number, response in enumerate(work.plain_responses)}
    for path, response in files.items():
        soundfile.write(path, response.numpy(), SAMPLING_RATE, subtype="FLOAT")
    return files


def _torch_audiomentations_cases(work: Workload, responses: dict[Path, torch.Tensor]) -> Iterator[Case]:
    """Its reader asks torchaudio for functions that 2.11 has no more, so soundfile reads in its place, or nothing."""
    import soundfile
    from torch_audiomentations import ApplyImpulseResponse

    def open_transform(paths: list[Path], read: Callable[[Path], torch.Tensor]) -> Callable[[], torch.Tensor]:
        transform = ApplyImpulseResponse(paths, p=1.0, sample_rate=SAMPLING_RATE, output_type="dict")
        transform.audio = lambda path: read(Path(path))[None]
        return lambda: transform(work.waveform[:, None]).samples[:, 0]

    def read_file(path: Path) -> torch.Tensor:
        return torch.from_numpy(soundfile.read(path, dtype="float32")[0])

    paths, name = list(responses), "torch-audiomentations ApplyImpulseResponse"
    _check_convolution(name, convolve(work.waveform, work.responses[:1]), open_transform(paths[:1], read_file)())
    yield _dir_case(work, name, open_transform(paths, read_file), goal=DIR_GOAL)
    from_memory = open_transform(paths, responses.__getitem__)
    yield _dir_case(work, f"{name}, its files in memory", from_memory, goal=None)


def _audiomentations_case(work: Workload, responses: dict[Path, torch.Tensor]) -> Case:
    from audiomentations import ApplyImpulseResponse

    clips = list(work.waveform.numpy())

    def open_transform(*paths: Path) -> Callable[[], np.ndarray]:
        transform = ApplyImpulseResponse(list(paths), p=1.0)
        return lambda: np.stack([transform(clip, SAMPLING_RATE) for clip in clips])

    theirs = torch.from_numpy(open_transform(next(iter(responses)))())
    ours = convolve(work.waveform, work.responses[:1])
    level = (ours * theirs).sum(dim=1, keepdim=True) / theirs.square().sum(dim=1, keepdim=True)
    _check_convolution("audiomentations", ours, theirs * level)  # it brings each clip to half of full scale
    return _dir_case(work, "audiomentations ApplyImpulseResponse", open_transform(*responses), goal=None)


def _check_convolution(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    check_close(f"DIR, {name}", ours, theirs, tolerance=CONVOLUTION_TOLERANCE * float(ours.abs().max()))


def _dir_case(work: Workload, name: str, theirs: Callable[[], object], *, goal: float | None) -> Case:
    transform, count = DeviceImpulseResponse(work.responses, p=1.0), len(work.waveform)
    title = f"DIR of every clip, batch {count}, against {name}"
    return Case(SECTION, title, count, lambda: transform({"waveform": work.waveform}), theirs, goal=goal)


def _frontend_cases(work: Workload, missing: list[str]) -> Iterator[Case]:
    """Yields log-mels of a batch, 128 mels every 10 ms of 32 kHz on every side."""
    extractor = AscFeatureExtractor.from_preset("passt")
    ways = {"transformers ASTFeatureExtractor": (_ast(work), FRONTEND_GOAL)}
    if "torchaudio" not in missing:
        ways["torchaudio compliance.kaldi.fbank"] = _kaldi(work), FRONTEND_GOAL
        ways["torchaudio MelSpectrogram"] = _mel_spectrogram(work), None
    if "torchlibrosa" not in missing:
        ways["torchlibrosa"] = _torchlibrosa(work), None

    def ours() -> torch.Tensor:
        return extractor(work.waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_values"]

    for name, (theirs, goal) in ways.items():
        _check_comparable(name, ours(), theirs())
        title = f"log-mel, 128 mels, batch {len(work.waveform)}, against {name}"
        yield Case(SECTION, title, len(work.waveform), ours, theirs, goal=goal)


def _ast(work: Workload) -> Callable[[], torch.Tensor]:
    from transformers import ASTFeatureExtractor

    frames = _kaldi(work)().shape[2]  # so that it pads nothing
    extractor = ASTFeatureExtractor(sampling_rate=SAMPLING_RATE, num_mel_bins=MELS, max_length=frames)
    clips = list(work.waveform.numpy())

    def log_mels() -> torch.Tensor:
        inputs = extractor(clips, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        return inputs["input_values"].transpose(1, 2)

    return log_mels


def _kaldi(work: Workload) -> Callable[[], torch.Tensor]:
    from torchaudio.compliance import kaldi

    settings = {"sample_frequency": SAMPLING_RATE, "num_mel_bins": MELS, "window_type": "hanning", **MILLISECONDS}
    return lambda: torch.stack([kaldi.fbank(clip[None], **settings).T for clip in work.waveform])


def _mel_spectrogram(work: Workload) -> Callable[[], torch.Tensor]:
    from torchaudio.transforms import MelSpectrogram

    sizes = {"n_fft": N_FFT, "win_length": WIN_LENGTH, "hop_length": HOP_LENGTH, "n_mels": MELS}
    transform = MelSpectrogram(SAMPLING_RATE, **sizes)
    return lambda: torch.log(transform(work.waveform) + 1e-5)


def _torchlibrosa(work: Workload) -> Callable[[], torch.Tensor]:
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    spectrogram = Spectrogram(n_fft=N_FFT, win_length=WIN_LENGTH, hop_length=HOP_LENGTH)
    bank = LogmelFilterBank(sr=SAMPLING_RATE, n_fft=N_FFT, n_mels=MELS)

    @torch.inference_mode()
    def log_mels() -> torch.Tensor:
        return bank(spectrogram(work.waveform))[:, 0].transpose(1, 2)

    return log_mels


def _check_comparable(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Makes sure that two log-mels `(B, M, F)` show the same clips, though each in its own scale.

    Raises:
        RuntimeError: they do not.
    """
    frames = min(ours.shape[2], theirs.shape[2])
    cut = (log_mels[..., :frames] for log_mels in (ours, theirs))
    changes = [log_mels - log_mels.mean(dim=(0, 2), keepdim=True) for log_mels in cut]  # some lack the pre-emphasis
    correlation = float(torch.corrcoef(torch.stack([change.flatten() for change in changes]))[0, 1])
    if ours.shape[1] != theirs.shape[1] or not correlation >= COMPARABLE:
        raise RuntimeError(f"{name}: its log-mels and ours correlate by {correlation:.2f}; expected {COMPARABLE}.")


def _passt_cases(folder: Path) -> Iterator[Case]:
    """Yields evaluation and a training step of PaSST-S in float32, each side with its own usual Adam."""
    networks = ours, theirs = equal_networks(folder)
    torch.manual_seed(0)
    inputs = torch.randn(PASST_BATCH_SIZE, MELS, FRAMES["1 s"])

    def evaluate(network: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode(), quiet():
            return network(inputs)

    for network in networks:
        network.eval()
    ready = PlainLogits(inference_copy(ours.network), takes_channel=False)
    check_close("logits of inference_copy", evaluate(ours), evaluate(ready), tolerance=LOGITS_TOLERANCE)
    check_close("logits of hear21passt", evaluate(ours), evaluate(theirs), tolerance=LOGITS_TOLERANCE)
    title = f"PaSST-S, batch {PASST_BATCH_SIZE}, 1 s, against hear21passt"
    yield Case(
        SECTION,
        f"evaluation, {title}",
        PASST_BATCH_SIZE,
        lambda: evaluate(ready),
        lambda: evaluate(theirs),
        goal=PASST_GOAL,
    )
    labels = torch.arange(PASST_BATCH_SIZE) % CLASSES
    own = training_step(use_native_kernels(ours).train(), inputs, labels, is_autocast=False)
    other = training_step(theirs.train(), inputs, labels, is_autocast=False, is_fused=False)

    def their_step() -> None:
        with quiet():
            other()

    yield Case(SECTION, f"training step, {title}", PASST_BATCH_SIZE, own, their_step, goal=PASST_GOAL)


__all__ = ["missing_peers", "peer_cases"]
