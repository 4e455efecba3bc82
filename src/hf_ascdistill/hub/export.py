"""Exports a classifier for other runtimes; each file is checked against the model before it is there."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..complexity import DCASE_2023_BUDGET, count_parameters, evaluating, int8_bytes
from ..data.columns import SAMPLING_RATE, WAVEFORM
from ..export.checks import ExportedFile, check_float, check_int8, compare
from ..export.graphs import FourierLogMel, LogMel, MelToLogits, WaveformToProbabilities
from ..export.metadata import export_metadata
from ..export.onnx_graphs import (
    DEFAULT_OPSET,
    check_opset,
    front_end_graph,
    mel_graph,
    require,
    run_onnx,
    waveform_graph,
    with_metadata,
)
from ..export.onnx_int8 import CALIBRATION_METHODS, quantize_onnx, stored_integers
from ..export.programs import executorch_program, run_executorch, run_torch_program, torch_program
from ..files import written_whole
from ..models.feature_extraction_asc import AscFeatureExtractor
from ..quantization import QUANTIZED_INPUTS

ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
# Modules that a format needs, and the extra that brings them.
FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "onnx": (ONNX_MODULES, "export"),
    "onnx-int8": (ONNX_MODULES, "export"),
    "torch-export": ((), ""),
    "executorch": (("executorch.exir", "executorch.runtime"), "executorch"),
}
FLOAT_BYTES = 4


@dataclass
class ExportSettings:
    """Parameters that control which files are written, and what is asked of them."""

    formats: list[str] = field(default_factory=lambda: ["onnx"], metadata={"help": f"of {', '.join(FORMATS)}"})
    opset: int = field(default=DEFAULT_OPSET, metadata={"help": "version of ONNX's operators, 18 to 23"})
    calibration_method: str = field(
        default="minmax",
        metadata={"help": f"of {', '.join(CALIBRATION_METHODS)}; the latter two hold all feature maps in memory"},
    )
    calibration_clips: int = field(default=512, metadata={"help": "training clips that give the ranges of int8"})
    check_clips: int = field(default=128, metadata={"help": "clips that each file is compared with the model on"})
    min_agreement: float = field(default=0.9, metadata={"help": "share of them that int8 must decide as the model"})
    max_bytes: int = field(default=DCASE_2023_BUDGET.max_bytes, metadata={"help": "budget of an int8 network, bytes"})
    allow_over_budget: bool = field(default=False, metadata={"help": "write an int8 network beyond that budget too"})


class _Draft(NamedTuple):
    """A file to be: its name, the bytes of its weights and biases, its content, and how to run it."""

    name: str
    parameter_bytes: int
    content: bytes
    run: Callable[[bytes, np.ndarray], np.ndarray]

    @property
    def reads_waveform(self) -> bool:
        return self.name.startswith("waveform")

    @property
    def is_int8(self) -> bool:
        return "int8" in self.name


def export_model(
    model: PreTrainedModel,
    extractor: AscFeatureExtractor,
    output_dir: str | Path,
    *,
    clips: Dataset,
    calibration_clips: Dataset | None = None,
    settings: ExportSettings | None = None,
) -> list[ExportedFile]:
    """Writes a classifier in other formats, two files each: from waveform to probabilities, from log-mel to logits.

    Batch normalisations are folded, channels that died in training dropped; files compute in float32, whatever the
    model's type, and are compared with it in float32 on the CPU. A file carries the names of the classes,
    the settings of the front-end, the version of the package and the source of the model. The files appear when all of
    them have been compared with the model on the clips; a file of the same name is replaced.

    | format | files | takes |
    |---|---|---|
    | `onnx` | `waveform.onnx`, `mel.onnx` | any batch and length |
    | `onnx-int8` | `waveform-int8.onnx`, `mel-int8.onnx`: static, a scale per channel, front-end in float | the same |
    | `torch-export` | `waveform.pt2`, `mel.pt2` | any batch, 1 s or more; of a PaSST up to its last position |
    | `executorch` | `waveform.pte`, `mel.pte` | one clip as long as those of `clips` |

    Args:
        model (`PreTrainedModel`): an audio classifier; it stays as it is.
        extractor ([`AscFeatureExtractor`]): its front-end.
        output_dir (`str | Path`): folder of the files; it is made where it is not there.
        clips (`datasets.Dataset`): clips of one length with `waveform`, at 32 kHz, to compare on.
        calibration_clips (`datasets.Dataset`, *optional*): training clips, of which int8 takes its ranges.
        settings ([`ExportSettings`], *optional*): which formats, and what is asked of them.

    Returns:
        `list[ExportedFile]`: sizes and differences, file by file.

    Raises:
        ImportError: the extra of a format is not installed; it is named.
        NotADirectoryError: `output_dir` is a file.
        ValueError: a format, opset or calibration method is unknown; there are no clips, they differ in length, or
            the front-end takes another rate; int8 is asked of a PaSST; the int8 network is over the budget; or a file
            is too far from the model. Nothing is written then.
    """
    settings = ExportSettings() if settings is None else settings
    _check_settings(settings, model)
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise NotADirectoryError(f"{output_dir} is a file; expected a folder, or a name that is not taken.")
    model = copy.deepcopy(model).float().cpu()
    rate = extractor.sampling_rate
    waveforms = _waveforms(clips, settings.check_clips, rate=rate, purpose="check the files on")
    log_mels = extractor.log_mel(torch.from_numpy(waveforms)).numpy()
    calibration = None
    if "onnx-int8" in settings.formats:
        drawn = _waveforms(calibration_clips, settings.calibration_clips, rate=rate, purpose="calibrate int8 on")
        calibration = extractor.log_mel(torch.from_numpy(drawn)).numpy()
    metadata = export_metadata(model, extractor, source=model.config._name_or_path or "a model in memory")
    drafts = []
    if any(name.startswith("onnx") for name in settings.formats):
        drafts += _onnx_drafts(model, extractor, settings, calibration=calibration, metadata=metadata)
    drafts += _program_drafts(model, extractor, settings, waveforms=waveforms, metadata=metadata)
    logits = _model_logits(model, log_mels)
    inputs = {True: waveforms, False: log_mels}
    files = [_checked(draft, inputs[draft.reads_waveform], logits, settings=settings) for draft in drafts]
    for draft in drafts:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with written_whole(Path(output_dir, draft.name)) as staged:
            staged.write_bytes(draft.content)
    return files


def _check_settings(settings: ExportSettings, model: PreTrainedModel) -> None:
    """Raises where the settings ask for what there is not, before any work."""
    unknown = [name for name in settings.formats if name not in FORMATS]
    if unknown or not settings.formats:
        raise ValueError(f"the formats are {settings.formats}; expected one or more of {', '.join(FORMATS)}.")
    for name in settings.formats:
        modules, extra = FORMATS[name]
        for module in modules:
            require(module, extra=extra)
    check_opset(settings.opset)
    if settings.calibration_method not in CALIBRATION_METHODS:
        raise ValueError(
            f"calibration_method is {settings.calibration_method!r}; expected one of {', '.join(CALIBRATION_METHODS)}."
        )
    if "onnx-int8" in settings.formats and model.config.model_type not in QUANTIZED_INPUTS:
        raise ValueError(
            f"the model is of the type {model.config.model_type}, whose matrix products int8 would leave in float; "
            f"expected one of {', '.join(QUANTIZED_INPUTS)} for onnx-int8."
        )
    size = int8_bytes(model)
    if "onnx-int8" in settings.formats and size > settings.max_bytes and not settings.allow_over_budget:
        raise ValueError(
            f"the int8 network has {size:,} bytes of parameters, over the budget of {settings.max_bytes:,}; take a "
            "smaller model, raise max_bytes or pass allow_over_budget."
        )


def _waveforms(clips: Dataset | None, count: int, *, rate: int, purpose: str) -> np.ndarray:
    """Reads up to `count` clips, evenly spread over a dataset: float32 (N, T)."""
    if clips is None or min(len(clips), count) < 1:
        raise ValueError(f"there are no clips to {purpose}; pass a dataset with some, and ask for 1 or more of it.")
    if rate != SAMPLING_RATE:
        raise ValueError(
            f"the clips to {purpose} have {SAMPLING_RATE} Hz, the model's front-end {rate} Hz; expected the same rate."
        )
    rows = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), count)).round().astype(int))
    waveforms = [np.asarray(clips[int(row)][WAVEFORM], np.float32) for row in rows]
    lengths = sorted({len(waveform) for waveform in waveforms})
    if len(lengths) > 1:
        raise ValueError(
            f"the clips to {purpose} have {lengths[0]} to {lengths[-1]} samples; expected one length: cut them with "
            "shifted_crops (--crop_hop of the recipe)."
        )
    return np.stack(waveforms)


def _model_logits(model: PreTrainedModel, log_mels: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    with torch.inference_mode(), evaluating(model):
        batches = torch.from_numpy(log_mels).split(batch_size)
        return torch.cat([model(batch).logits for batch in batches]).numpy()


def _onnx_drafts(
    model: PreTrainedModel,
    extractor: AscFeatureExtractor,
    settings: ExportSettings,
    *,
    calibration: np.ndarray | None,
    metadata: dict[str, str],
) -> Iterator[_Draft]:
    """Yields the ONNX files that are asked for."""
    front_end = front_end_graph(extractor, opset=settings.opset)
    networks = {"onnx": mel_graph(model, extractor, opset=settings.opset)}
    count = count_parameters(MelToLogits(model))
    sizes = {"onnx": FLOAT_BYTES * count}
    if "onnx-int8" in settings.formats:
        networks["onnx-int8"] = quantize_onnx(networks["onnx"], calibration, method=settings.calibration_method)
        integers, size = stored_integers(networks["onnx-int8"])
        sizes["onnx-int8"] = size + FLOAT_BYTES * (count - integers)
    for name in settings.formats:
        if name in networks:
            suffix = "-int8.onnx" if name == "onnx-int8" else ".onnx"
            joined = waveform_graph(front_end, networks[name])
            yield _Draft(f"waveform{suffix}", sizes[name], with_metadata(joined, metadata), run_onnx)
            yield _Draft(f"mel{suffix}", sizes[name], with_metadata(networks[name], metadata), run_onnx)


def _program_drafts(
    model: PreTrainedModel,
    extractor: AscFeatureExtractor,
    settings: ExportSettings,
    *,
    waveforms: np.ndarray,
    metadata: dict[str, str],
) -> Iterator[_Draft]:
    """Yields the programs of torch that are asked for."""
    traced = torch.from_numpy(waveforms[[0, -1]])  # two clips: a batch of one would stay one
    writers = {
        "torch-export": (".pt2", FourierLogMel, torch_program, run_torch_program),
        "executorch": (".pte", LogMel, executorch_program, run_executorch),
    }
    for name in settings.formats:
        if name in writers:
            suffix, log_mel, write, run = writers[name]
            joined = WaveformToProbabilities(model, extractor, log_mel)
            if name == "executorch":  # a device plans its memory for clips of one length
                metadata = {**metadata, "samples": str(traced.shape[1])}
            size = FLOAT_BYTES * count_parameters(joined)
            yield _Draft(f"waveform{suffix}", size, write(joined, traced, metadata=metadata), run)
            log_mels = extractor.log_mel(traced)
            yield _Draft(f"mel{suffix}", size, write(joined.mel_to_logits, log_mels, metadata=metadata), run)


def _checked(draft: _Draft, inputs: np.ndarray, logits: np.ndarray, *, settings: ExportSettings) -> ExportedFile:
    """Runs a file and compares it with the model; raises where it is too far away."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    expected = exponentials / exponentials.sum(1, keepdims=True) if draft.reads_waveform else logits
    outputs = draft.run(draft.content, inputs)
    if draft.is_int8:
        check_int8(draft.name, outputs, expected=expected, min_agreement=settings.min_agreement)
    else:
        check_float(draft.name, outputs, expected=expected)
    difference, agreement = compare(outputs, expected)
    return ExportedFile(draft.name, len(draft.content), draft.parameter_bytes, len(outputs), difference, agreement)


__all__ = ["FORMATS", "ExportSettings", "export_model"]
