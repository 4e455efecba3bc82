"""One clip at a time on a CPU: a native kernel, or convolutions as matrix products and sums, compiled as a whole."""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch.nn import functional

from ..fusing import drop_dead_channels, fuse
from ..models.feature_extraction_asc import AscFeatureExtractor
from ..native.classifier import NativeClassifier, can_classify
from ..native.kernels import can_use_kernels
from ..native.log_mel import can_transform, log_mel
from .graphs import FourierLogMel, MelToLogits, WaveformToProbabilities
from .onnx_graphs import quiet_exporter

COMPILERS = ("g++", "clang++")
MAX_TAPS = 25  # places of the largest kernel that is taken apart, 5x5; a PaSST keeps its patches of 16x16


class TakenApart(nn.Module):
    """A 2-D convolution of few channels and small maps, as operations that a compiler joins with their neighbours.

    A kernel is a list of taps, shifted views of the map. A depthwise convolution is their weighted sum; any other one
    lays them side by side and multiplies by a matrix. Between, maps are `(B, M, F, C)`.

    Args:
        conv (`nn.Conv2d`): the convolution.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.groups = conv.groups
        self.is_depthwise = is_depthwise(conv)
        weight = conv.weight.detach()
        if self.is_depthwise:
            weight = weight.flatten(1).t()  # (C, 1, kh, kw) -> (taps, C)
        else:
            weight = weight.unflatten(0, (self.groups, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)  # (groups, in, out)
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        maps = hidden_states.permute(0, 2, 3, 1)  # (B, C, M, F) -> (B, M, F, C)
        if self.is_depthwise:
            outputs = sum(tap * weight for tap, weight in zip(self._taps(maps), self.weight, strict=True))
        else:
            parts = zip(maps.chunk(self.groups, dim=3), self.weight, strict=True)
            outputs = torch.cat([torch.cat(self._taps(part), dim=3) @ weight for part, weight in parts], dim=3)
        return (outputs + self.bias).permute(0, 3, 1, 2)

    def _taps(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """Returns what each place of the kernel meets, `(B, M', F', C)` each."""
        (height, width), (down, right), (rows, columns) = self.kernel_size, self.stride, self.padding
        padded = functional.pad(maps, (0, 0, columns, columns, rows, rows))
        last_row, last_column = padded.shape[1] - height, padded.shape[2] - width
        return [
            padded[:, row : row + last_row + 1 : down, column : column + last_column + 1 : right]
            for row in range(height)
            for column in range(width)
        ]


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Returns whether each channel has a filter of its own."""
    return conv.groups == conv.in_channels == conv.out_channels


def take_apart(network: nn.Module) -> None:
    """Replaces the convolutions of small kernels by [`TakenApart`], in place."""
    for name, conv in list(network.named_modules()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size[0] * conv.kernel_size[1] <= MAX_TAPS:
            network.set_submodule(name, TakenApart(conv))


class CompiledClassifier:
    """What [`compile_classifier`] returns.

    Args:
        run (`Callable`): waveform `(1, T)` to probabilities `(1, C)`.
        samples (`int`): length T of the clips.
    """

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], *, samples: int):
        self._run, self.shape = run, (1, samples)

    @torch.inference_mode()
    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Classifies a clip.

        Args:
            waveform (`torch.Tensor`): mono, at the front-end's rate, float32 `(1, T)` on the CPU.

        Returns:
            `torch.Tensor`: probabilities, `(1, C)`.

        Raises:
            ValueError: this is no float32 clip of that length on the CPU.
        """
        is_float = waveform.dtype == torch.float32 and waveform.device.type == "cpu"
        if not is_float or waveform.shape != self.shape:
            raise ValueError(
                f"waveform is {waveform.dtype} of shape {tuple(waveform.shape)} on {waveform.device}; expected "
                f"float32 of shape {self.shape} on the CPU; compile_classifier(..., samples=T) takes another length."
            )
        return self._run(waveform)


def compile_classifier(
    model: nn.Module, extractor: AscFeatureExtractor, *, samples: int | None = None, native_kernels: bool = True
) -> CompiledClassifier:
    """Compiles front-end, classifier and softmax for the shortest way from one clip to its probabilities on a CPU.

    In a convolution of one clip most of the time goes into the call, not the work. So batch normalisations are folded,
    dead channels dropped, and a CP-Mobile is one native kernel, the front-end another; of other networks convolutions
    are taken apart into what a compiler (AOTInductor) joins into few kernels. For batches see [`inference_copy`].

    Args:
        model (`nn.Module`): a classifier of this package; it is copied.
        extractor ([`AscFeatureExtractor`]): its front-end.
        samples (`int`, *optional*): length T of the clips; unset: one second.
        native_kernels (`bool`, *optional*, defaults to `True`): take this package's kernels where there is GCC, see
            [`AcousticFrontend`] and [`inference_copy`]; off: AOTInductor compiles all of it.

    Returns:
        [`CompiledClassifier`]: called with a waveform `(1, T)`. AOTInductor takes half a minute each time, GCC as long
            once.

    Raises:
        ValueError: `samples` is less than the front-end's `n_fft`, or the model has batch normalisations that cannot
            be folded.
        ImportError: this machine has no C++ compiler.

    Example:

    ```python
    >>> import torch
    >>> from hf_ascdistill import AscFeatureExtractor, CpMobileConfig, CpMobileForAudioClassification
    >>> from hf_ascdistill import compile_classifier

    >>> model = CpMobileForAudioClassification(CpMobileConfig()).eval()
    >>> classify = compile_classifier(model, AscFeatureExtractor.from_preset("cp-mobile"))
    >>> classify(torch.zeros(1, 32_000)).shape
    torch.Size([1, 10])
    ```"""
    samples = extractor.sampling_rate if samples is None else samples
    if samples < extractor.n_fft:
        raise ValueError(f"samples is {samples}; expected one FFT window or more, {extractor.n_fft} samples.")
    if not any(shutil.which(name) for name in COMPILERS):
        raise ImportError(f"compiling needs a C++ compiler, one of {', '.join(COMPILERS)}; install one, or use fuse.")
    example = torch.zeros(1, samples)
    if not (native_kernels and can_transform(extractor.n_fft) and can_use_kernels()):
        network = WaveformToProbabilities(model, extractor, FourierLogMel)
        take_apart(network.mel_to_logits)
        return CompiledClassifier(_compiled(network, example), samples=samples)
    log_mels = partial(log_mel, extractor)
    folded = drop_dead_channels(fuse(model)).float().cpu()
    if can_classify(folded):
        logits = NativeClassifier(folded).logits
    else:
        network = MelToLogits(model)
        take_apart(network)
        logits = _compiled(network, log_mels(example))
    return CompiledClassifier(lambda waveform: logits(log_mels(waveform)).softmax(1), samples=samples)


def _compiled(network: nn.Module, example: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns a network as a program for inputs like the example."""
    # the exporter tells that Fourier transforms stay as they are
    with quiet_exporter(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(network.eval(), (example,))
        return aoti_load_package(aoti_compile_and_package(program, package_path=str(Path(folder, "classifier.pt2"))))


__all__ = ["CompiledClassifier", "TakenApart", "compile_classifier", "take_apart"]
