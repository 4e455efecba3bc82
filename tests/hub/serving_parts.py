"""Parts that the tests of serving are made of: small saved models, sound, malformed requests, a running server."""

import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import uvicorn
from torch import nn

from hf_ascdistill import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
)
from hf_ascdistill.hub.serve import ServeArguments, create_app

CHECKOUT = Path(__file__).resolve().parents[2]
RATE = 32_000
SMALL_PASST = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def load_script(path: Path) -> ModuleType:
    """A file that is in no package, as a module; files beside it find it by its name then."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


malformed = load_script(
    CHECKOUT / "benchmarks" / "malformed.py"
)  # makes malformed requests up, and writes audio files


def small_model(family: str) -> nn.Module:
    """A small classifier whose scores differ between clips, in evaluation mode."""
    torch.manual_seed(0)
    if family == "passt":
        model = PasstForAudioClassification(PasstConfig(**SMALL_PASST))
        nn.init.normal_(model.classifier.linear.weight)
        return model.eval()
    if family == "cp-resnet":
        model = CpResNetForAudioClassification(CpResNetConfig(base_channels=16))
        nn.init.normal_(model.classifier.conv.weight)
    else:
        model = CpMobileForAudioClassification(CpMobileConfig(base_channels=8))
    last_norm = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    nn.init.constant_(last_norm.weight, 300.0)
    return model.eval()


def save_model(family: str, folder: Path) -> Path:
    """Saves a small model and its front-end, as training does."""
    small_model(family).save_pretrained(folder)
    AscFeatureExtractor.from_preset(family).save_pretrained(folder)
    return folder


def noise(seconds: float, *, seed: int = 0, rate: int = RATE, channels: int | None = None) -> np.ndarray:
    """Noise whose colour changes every half second, so that windows differ: float32 (T,) or (T, channels)."""
    generator = np.random.default_rng(seed)
    shape = (round(seconds * rate),) if channels is None else (round(seconds * rate), channels)
    samples = 0.1 * generator.standard_normal(shape)
    for index, first in enumerate(range(0, len(samples), rate // 2)):
        piece = samples[first : first + rate // 2]
        piece[:] = np.cumsum(piece, axis=0) * 0.05 if (index + seed) % 2 else piece * 0.2
    return np.clip(samples, -0.99, 0.99).astype(np.float32)


@contextlib.contextmanager
def running(handler: Callable, **arguments) -> Iterator[str]:
    """Runs a server in a thread of this process, and yields its address."""
    app = create_app(handler, ServeArguments(**arguments))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
