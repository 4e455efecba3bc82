"""Float and quantised networks side by side: their ONNX files, and what onnxruntime makes of the evaluate list."""

import copy
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from .complexity import evaluating
from .data.collator import collate_clips
from .data.columns import INPUT_VALUES, WAVEFORM
from .evaluation import SceneEvaluation, evaluate_logits
from .export.metadata import export_metadata
from .export.onnx_graphs import mel_graph, require, run_onnx, with_metadata
from .files import write_json, written_whole
from .int8 import int8_twin, parameter_bytes
from .quantization import activation_ranges
from .transforms.frontend import AcousticFrontend

COMPARISON_NAME = "quantization.json"
FLOAT_TOLERANCE = 1e-4
INT8_TOLERANCE = 0.05  # of the spread of the logits: sums in another order move some activations by a level
CHECKED_CLIPS = 8
LATENCY_RUNS = 100


def require_onnx() -> None:
    """Checks that what writes and runs ONNX files is installed.

    Raises:
        ImportError: it is not; the extra that brings it is named.
    """
    for module in ("onnx", "onnxruntime", "onnxscript"):
        require(module, extra="export")


def write_network(
    model: PreTrainedModel, path: str | Path, *, frontend: AcousticFrontend, log_mels: torch.Tensor
) -> bytes:
    """Writes a network as ONNX, log-mels to logits, once onnxruntime has computed with it what the network does.

    Args:
        model (`PreTrainedModel`): a classifier; one of [`prepare_qat`] is written as int8.
        path (`str | Path`): the file; what stood there before stays until the new one is checked.
        frontend ([`AcousticFrontend`]): the model's front-end.
        log_mels (`torch.Tensor`): real clips to check with, `(B, M, F)`.

    Returns:
        `bytes`: the content of the file.

    Raises:
        ValueError: a quantised model is not calibrated, or the file computes something else: logits that differ by
            more than 1e-4 in float, or by more than a twentieth of their spread as int8.
        ImportError: the extra `export` is not installed.
    """
    path, model = Path(path), copy.deepcopy(model).float().cpu()  # as the file computes
    is_int8 = any(True for _ in activation_ranges(model))
    graph = mel_graph(int8_twin(model) if is_int8 else model, frontend.extractor)
    content = with_metadata(graph, export_metadata(model, frontend.extractor, source=path.parent.name))
    with torch.inference_mode(), evaluating(model):
        expected = model(log_mels).logits.numpy()
    difference = np.abs(run_onnx(content, log_mels.numpy()) - expected).max()
    allowed = INT8_TOLERANCE * np.ptp(expected) if is_int8 else FLOAT_TOLERANCE
    if not difference <= allowed:
        raise ValueError(f"{path} gives logits that differ by {difference:.2g}; expected {allowed:.2g} at most.")
    with written_whole(path) as staged:
        staged.write_bytes(content)
    return content


def compare_networks(
    networks: Mapping[str, PreTrainedModel],
    folder: str | Path,
    *,
    data: Mapping[str, Dataset],
    frontend: AcousticFrontend,
    batch_size: int = 64,
) -> dict[str, dict[str, Any]]:
    """Writes networks as ONNX, and `quantization.json`: what onnxruntime makes of them on the evaluate list.

    Args:
        networks (`Mapping[str, PreTrainedModel]`): float or quantised, by name; `NAME.onnx` is written.
        folder (`str | Path`): where to; it is made where it is not there.
        data (`Mapping[str, datasets.Dataset]`): `train`, with clips to check with, and `evaluate`.
        frontend ([`AcousticFrontend`]): its evaluation twin makes the log-mels.
        batch_size (`int`, *optional*, defaults to 64): clips at a time.

    Returns:
        `dict`: for each name the metrics of [`evaluate_logits`], and `file_bytes`, `parameter_bytes` and
        `latency_ms`, the median for the log-mel of one clip on one thread.

    Raises:
        ValueError: what [`write_network`] raises.
        ImportError: the extra is not installed.
    """
    clips = collate_clips([data["train"][index] for index in range(min(CHECKED_CLIPS, len(data["train"])))])
    log_mels = frontend.evaluation()({WAVEFORM: clips[WAVEFORM]})[INPUT_VALUES]
    groups, rows = SceneEvaluation.of(data).groups, {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, model in networks.items():
        path = Path(folder) / f"{name}.onnx"
        content = write_network(model, path, frontend=frontend, log_mels=log_mels)
        session = _session(content)
        logits = _logits(session, data["evaluate"], frontend=frontend, batch_size=batch_size)
        rows[name] = {
            **evaluate_logits(logits, data["evaluate"], groups=groups),
            "file_bytes": len(content),
            "parameter_bytes": parameter_bytes(model),
            "latency_ms": _latency_ms(session, log_mels[:1].numpy()),
        }
    write_json(Path(folder) / COMPARISON_NAME, rows)
    return rows


def _session(content: bytes) -> Any:
    """Opens a file's content in onnxruntime, on one thread."""
    runtime = require("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _logits(session: Any, clips: Dataset, *, frontend: AcousticFrontend, batch_size: int) -> np.ndarray:
    """Returns the logits of a dataset in onnxruntime, `(N, C)`."""
    logits, evaluation = [], frontend.evaluation()
    for batch in DataLoader(clips, batch_size, collate_fn=collate_clips):
        log_mels = evaluation({WAVEFORM: batch[WAVEFORM]})[INPUT_VALUES]
        logits += session.run(None, {INPUT_VALUES: log_mels.numpy()})
    return np.concatenate(logits)


def _latency_ms(session: Any, log_mel: np.ndarray) -> float:
    """Returns the median time of one clip, in milliseconds."""
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = perf_counter()
        session.run(None, {INPUT_VALUES: log_mel})
        seconds.append(perf_counter() - start)
    return 1e3 * median(seconds)


def networks_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a Markdown table of what [`compare_networks`] measured: accuracy in percent, bytes and milliseconds.

    Args:
        rows (`Mapping[str, Mapping]`): the measurements by name.
    """
    lines = ["| | all | unseen | file, bytes | parameters, bytes | one clip, ms |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = [f"{100 * row[key]:.2f}" if key in row else "-" for key in ("accuracy", "accuracy_unseen")]
        cells += [f"{row['file_bytes']:,}", f"{row['parameter_bytes']:,}", f"{row['latency_ms']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


__all__ = ["compare_networks", "networks_table", "require_onnx", "write_network"]
