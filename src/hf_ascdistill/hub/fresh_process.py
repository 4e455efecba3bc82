"""Run as a script in a process of its own: loads a repository where only torch and transformers are to be had.

python -P fresh_process.py FOLDER
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT = ("hf_ascdistill", "torchaudio", "datasets", "evaluate", "accelerate", "soxr")
MARK = "\nThe repository was refused. "
TOLERANCE = 1e-5  # of scores, between two forward passes over the same samples


def expect(is_met: bool, text: str) -> None:
    """Raises a `ValueError` with a text, unless `is_met`."""
    if not is_met:
        raise ValueError(text)


def load_handler(path: Path) -> ModuleType:
    """Imports a handler by its path, as the inference service does."""
    spec = importlib.util.spec_from_file_location("handler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_all(folder: str) -> tuple[Any, Any]:
    """Loads a repository's parts with its own code.

    Returns:
        `tuple`: the classifier in evaluation mode, and the front-end.

    Raises:
        ValueError: a part is not the repository's own, or weights are missing or left over.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    classifier, report = AutoModelForAudioClassification.from_pretrained(
        folder, dtype="float32", trust_remote_code=True, output_loading_info=True
    )
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    for part in (config, model, classifier, extractor):
        name = f"{type(part).__module__}.{type(part).__name__}"
        expect(name.startswith("transformers_modules."), f"{name} is not loaded from the repository's own code.")
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    expect(not wrong, f"weights and network differ: {wrong}.")
    return classifier.eval(), extractor


def check(folder: str) -> None:
    """Loads a repository and compares its handler with its classifier on one second of noise."""
    import torch

    classifier, extractor = load_all(folder)
    rate, labels = extractor.sampling_rate, classifier.config.id2label
    noise = 0.1 * torch.randn(rate, generator=torch.Generator().manual_seed(0)).numpy()
    with torch.no_grad():
        inputs = extractor(noise, sampling_rate=rate, return_tensors="pt")
        logits = classifier(**inputs).logits[0].double()
    expect(bool(logits.isfinite().all()), f"the logits of a second of noise are {logits.tolist()}.")
    handler = load_handler(Path(folder) / "handler.py").EndpointHandler(folder)
    answer = handler({"inputs": {"raw": noise, "sampling_rate": rate}})
    scores = {entry["label"]: entry["score"] for entry in answer}
    expected = {labels[index]: score for index, score in enumerate(logits.softmax(-1).tolist())}
    expect(scores.keys() == expected.keys(), f"the handler names {sorted(scores)}, the model {sorted(expected)}.")
    apart = max(abs(scores[label] - expected[label]) for label in expected)
    expect(apart <= TOLERANCE, f"the scores of the handler and of the model are {apart:g} apart.")


def main(folder: str) -> None:
    """Checks the repository in a folder; what is wrong stands behind `MARK` in the error stream."""

    def refuse(kind: type[BaseException], error: BaseException, _: Any) -> None:
        sys.stderr.write(f"{MARK}{kind.__name__}: {error}\n")

    sys.excepthook = refuse
    sys.modules.update(dict.fromkeys(ABSENT))  # Python takes None for a package that is not there
    check(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["ABSENT", "MARK", "check", "expect", "load_all", "load_handler", "main"]
