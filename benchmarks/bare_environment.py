"""Do published repositories work where torch, transformers and soundfile are all that is installed?

python benchmarks/bare_environment.py [--models models/cpm-student ...] [--python other-venv/bin/python]

Stages the named models, or one of each architecture in the paper's size with random weights, as publishing does; makes
a virtual environment, installs the three packages in the versions of constraints.txt (pip has to be set up to find the
wanted build of torch), and compares what AutoModel, AutoModelForAudioClassification, pipeline and handler give there
for eight clips with the original model here. Exits with 1 where a logit is more than 1e-6 away. Takes some minutes.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("transformers", "soundfile")
ABSENT = ("hf_ascdistill", "torchaudio", "datasets", "evaluate", "accelerate", "soxr", "scipy")
TOLERANCE = 1e-6
CLIPS, SECONDS = 8, 1.0


def all_ways(name: str, clips: np.ndarray, *, rate: int = 32_000) -> dict[str, np.ndarray]:
    """Returns what a repository's own code gives for clips `(N, T)`, by each way of using it.

    Args:
        name (`str`): folder or Hub name.
        clips (`np.ndarray`): float32 samples of full scale 1.
        rate (`int`, *optional*, defaults to 32000): of the clips, Hz.

    Returns:
        `dict[str, np.ndarray]`: logits `(N, C)` by way, and `AutoModel`'s features `(N, D)`.
    """
    import torch
    import transformers
    from huggingface_hub import hf_hub_download

    trust = {"trust_remote_code": True}
    extractor = transformers.AutoFeatureExtractor.from_pretrained(name, **trust)
    classifier = transformers.AutoModelForAudioClassification.from_pretrained(name, **trust).eval()
    model = transformers.AutoModel.from_pretrained(name, **trust).eval()
    parts = {type(part).__module__.split(".")[0] for part in (extractor, classifier, model)}
    assert parts == {"transformers_modules"}, parts
    with torch.no_grad():
        inputs = extractor(clips, sampling_rate=rate, return_tensors="pt")
        logits, features = classifier(**inputs).logits.numpy(), model(**inputs).last_hidden_state
    labels = [classifier.config.id2label[index] for index in range(logits.shape[1])]
    is_folder = Path(name).is_dir()
    path = Path(name) / "handler.py" if is_folder else hf_hub_download(name, "handler.py")
    handler = import_file(path).EndpointHandler(str(name))
    pipe = transformers.pipeline("audio-classification", model=str(name), **trust)
    items = [{"raw": clip, "sampling_rate": rate} for clip in clips]
    asked = {"inputs": items, "parameters": {"function_to_apply": "none"}}
    answers = {"pipeline": [pipe(dict(item), top_k=None, function_to_apply="none") for item in items]}
    answers["handler"] = handler(asked)
    ways = {"AutoModelForAudioClassification": logits, "AutoModel": features.flatten(1).numpy()}
    return ways | {way: np.array([scores_of(answer, labels) for answer in found]) for way, found in answers.items()}


def import_file(path: str | Path):
    """Imports a file by its path."""
    spec = importlib.util.spec_from_file_location("handler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scores_of(answer: list[dict], labels: list[str]) -> list[float]:
    """Returns the scores of an answer in the order of the labels."""
    scores = {entry["label"]: entry["score"] for entry in answer}
    return [scores[label] for label in labels]


def make_clips() -> np.ndarray:
    """Returns noises of different colour and level, `(N, T)`."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((CLIPS, round(SECONDS * 32_000)))
    noise[::2] = np.cumsum(noise[::2], axis=1) * 0.02
    return np.clip(noise * np.geomspace(0.005, 0.2, CLIPS)[:, None], -1, 1).astype(np.float32)


def random_models(folder: Path) -> Iterator[Path]:
    """Saves one model of each architecture, with random weights that make logits differ."""
    import torch

    import hf_ascdistill as package

    torch.manual_seed(0)
    for preset, size, kind in (
        ("cp-mobile", "128k", "CpMobile"),
        ("cp-resnet", "128k", "CpResNet"),
        ("passt", "s", "Passt"),
    ):
        config = getattr(package, f"{kind}Config").from_preset(size)
        model = getattr(package, f"{kind}ForAudioClassification")(config)
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():  # a new classifier's, and the last of a block's
                torch.nn.init.normal_(weight, std=0.02)
        last_norm = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1:]
        for norm in last_norm if preset == "cp-mobile" else ():
            torch.nn.init.constant_(norm.weight, 300.0)
        model.save_pretrained(folder / preset)
        package.AscFeatureExtractor.from_preset(preset).save_pretrained(folder / preset)
        yield folder / preset


def stage(path: Path, folder: Path, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Stages a model as a repository, and returns what the original gives."""
    import torch

    from hf_ascdistill import CardContext, load_classifier, stage_repository

    model, extractor = load_classifier(path)
    with torch.no_grad():
        inputs = extractor(clips, sampling_rate=32_000, return_tensors="pt")["input_values"]
        logits, features = model.eval()(inputs).logits, model.base_model(inputs).last_hidden_state
        # pipeline and handler take recordings one by one, and a batch changes the order of sums
        singly = torch.cat([model(row[None]).logits for row in inputs]).numpy()
    scenes = [model.config.id2label[index] for index in range(model.config.num_labels)]
    complexity = {"parameters": 1, "fused_parameters": 1, "macs": 1, "int8_bytes": 1, "verdict": "not measured"}
    metrics = {"accuracy": 0.1, "macro_accuracy": 0.1, "log_loss": 2.3, "clips": CLIPS}
    results = {"run": path.name, "complexity": complexity, "scenes": scenes, "devices": [], "groups": {}}
    context = CardContext("none", dataset_id="none", dataset_note="None.", data_license="None.")
    settings = {"results": {**results, "last_epochs": metrics}, "card": {"context": context}}
    stage_repository(path, folder, repo_id=f"user/{path.name}", **settings)
    batched = {"AutoModel": features.flatten(1).numpy(), "AutoModelForAudioClassification": logits.numpy()}
    return {**batched, "pipeline": singly, "handler": singly}


def make_environment(folder: Path, torch: str | None) -> Path:
    """Makes a virtual environment with the three packages, and returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", CHECKOUT / "constraints.txt", torch or "torch", *PACKAGES]
    subprocess.run([str(part) for part in install], check=True)
    return python


def run_inside(folders: list[Path], clips: Path) -> None:
    """Runs in the environment: writes what each repository gives beside it, and prints the versions."""
    for name in ABSENT:
        assert importlib.util.find_spec(name) is None, f"{name} is installed"
    import soundfile
    import torch
    import transformers

    for folder in folders:
        np.savez(folder.with_suffix(".npz"), **all_ways(str(folder), np.load(clips)))
    print(json.dumps({module.__name__: module.__version__ for module in (torch, transformers, soundfile)}))


def compare(folder: Path, models: list[Path], *, python: Path | None, torch: str | None) -> float:
    """Prints a row per model with the largest difference of each way, and returns the largest of all."""
    clips = make_clips()
    np.save(folder / "clips.npy", clips)
    models = models or list(random_models(folder / "models"))
    staged = {folder / f"repository-{path.name}": path for path in models}
    originals = {target: stage(path, target, clips) for target, path in staged.items()}
    python = python or make_environment(folder / "venv", torch)
    command = [str(python), "-I", __file__, "--clips", str(folder / "clips.npy"), "--inside", *map(str, staged)]
    # sums depend on the number of threads in their last bits
    threads = str(importlib.import_module("torch").get_num_threads())
    environment = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
    print(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip())
    worst = 0.0
    for target, path in staged.items():
        found = np.load(target.with_suffix(".npz"))
        apart = {way: float(np.abs(found[way] - original).max()) for way, original in originals[target].items()}
        spread = float(np.ptp(originals[target]["handler"]))
        print(f"{path.name}, logits over a range of {spread:.3g}: {apart}")
        worst = max(worst, *apart.values())
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", type=Path, default=[], help="folders of trained or converted models")
    parser.add_argument("--torch", help="requirement of torch in place of the one of constraints.txt")
    parser.add_argument("--python", type=Path, help="Python of such an environment, in place of a new one")
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays")
    parser.add_argument("--inside", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--clips", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return run_inside(arguments.inside, arguments.clips)
    with tempfile.TemporaryDirectory() as temporary:
        folder, settings = arguments.keep or Path(temporary), {"python": arguments.python, "torch": arguments.torch}
        worst = compare(folder, arguments.models, **settings)
    print(f"largest difference: {worst:g}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
