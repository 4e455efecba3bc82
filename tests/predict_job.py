"""Predicts the logits of some crops of a store into five files, and kills itself on the way; for test_prediction.py.

python tests/predict_job.py STORE OUTPUT_DIR FORWARD_PASSES
"""

import os
import signal
import sys
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from tiny_corpus import tiny_model
from torch import nn

from hf_ascdistill import (
    AcousticFrontend,
    AscFeatureExtractor,
    LogitsSet,
    PredictionSettings,
    load_prepared,
    predict_logits,
    shifted_crops,
)

CROPS, BATCH, CLIPS_PER_FILE = 40, 4, 8  # two forward passes a file
# a model that is stopped by a hook has no kernel, and the bits of its logits are compared with another's
SETTINGS = PredictionSettings(BATCH, CLIPS_PER_FILE, native_kernels=False)


def crops_of(store: Path) -> Dataset:
    return shifted_crops(load_prepared(store)["train"], hop_seconds=0.5).select(range(CROPS))


def frontend() -> AcousticFrontend:
    return AcousticFrontend(AscFeatureExtractor.from_preset("cp-mobile"))


def predict(crops: Dataset, output_dir: Path, model: nn.Module) -> LogitsSet:
    PartialState(cpu=True)
    return predict_logits(model, crops, output_dir, frontend=frontend(), settings=SETTINGS)


class Stop:
    """A hook that ends a model after some forward passes."""

    def __init__(self, passes: int, stop):
        self.passes, self.stop = passes, stop

    def __call__(self, module, inputs, output) -> None:
        self.passes -= 1
        if self.passes < 0:
            self.stop()


def main(store: str, output_dir: str, passes: str) -> None:
    crops = crops_of(Path(store))
    model = tiny_model(crops.features["labels"].names)
    model.register_forward_hook(Stop(int(passes), lambda: os.kill(os.getpid(), signal.SIGKILL)))
    predict(crops, Path(output_dir), model)


if __name__ == "__main__":
    main(*sys.argv[1:])
