"""What a plan will cost: GPU hours from a model of the work, bytes from what the jobs write."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import pyarrow.compute as pc
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..arguments import DistillationTrainingArguments
from ..complexity import count_parameters
from ..data.columns import EXAMPLE_ID, LABELS, LENGTH, SAMPLING_RATE
from ..data.corpus import load_corpus
from ..data.crops import shifted_crops
from ..data.index import rows_of
from ..data.synthetic import SyntheticSettings
from ..data.synthetic_scenes import SCENES as SYNTHETIC_SCENES
from ..models import (
    AscFeatureExtractor,
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
)
from .grid import TeacherKind
from .jobs import CORPUS, ENSEMBLE, LOGITS, PREPARE, STUDENT, TEACHER, TRAIN, Job, PlanSettings

NETWORKS = {
    "cpm": ("cp-mobile", CpMobileConfig, CpMobileForAudioClassification),
    "cpr": ("cp-resnet", CpResNetConfig, CpResNetForAudioClassification),
    "passt": ("passt", PasstConfig, PasstForAudioClassification),
}
STUDENT_ARCHITECTURES = {names[0]: architecture for architecture, names in NETWORKS.items()}
FLOAT_BYTES = 4
INT16_BYTES = 2
# what our files hold beside numbers; measured on real folders
LOGITS_TEXT_BYTES = 40  # of a row: a hash of 32 characters, two offsets of 4
STORE_TEXT_BYTES = 250  # of a clip: names, hashes and places, in the shards and in the index
NAME_BYTES = 33  # of a clip's name, where the corpus is not there yet
RUN_BYTES = 300_000  # of a run: results of 150 epochs, configuration, model code, pictures, log
ADAM_COPIES = 2  # the two moments beside each parameter
CLIP_SECONDS_TO_DECODE = 1.3e-3  # of one core
BACKWARD = 2  # a backward pass costs two forward passes
OPERATIONS = 2  # a product and a sum


@dataclass(frozen=True)
class SpeedModel:
    """Assumptions behind the hours; an estimate, not measured.

    A step takes the longest of: its arithmetic, the launches of its kernels, and reading its clips in the loader's
    workers; without workers, reading adds to the longer of the other two.

    Args:
        teraflops (`float`, *optional*, defaults to 20.0): arithmetic that the accelerator sustains, 10^12 operations
            per second.
        launch_seconds (`float`, *optional*, defaults to 1e-5): between two kernels that PyTorch launches.
        kernels_per_layer (`float`, *optional*, defaults to 11.0): of a training step, forward, backward and
            optimiser; about 600 for CP-Mobile's 54 layers.
        read_seconds (`float`, *optional*, defaults to 1.3e-4): of one loader process for one clip.
        start_seconds (`float`, *optional*, defaults to 10.0): of a job, before its first step.
    """

    teraflops: float = field(default=20.0, metadata={"help": "10^12 operations per second that a GPU sustains"})
    launch_seconds: float = field(default=1e-5, metadata={"help": "seconds between two kernels"})
    kernels_per_layer: float = field(default=11.0, metadata={"help": "kernels of a layer in a training step"})
    read_seconds: float = field(default=1.3e-4, metadata={"help": "seconds of a loader process for one clip"})
    start_seconds: float = field(default=10.0, metadata={"help": "seconds of a job before its first step"})

    def __post_init__(self) -> None:
        wrong = [item.name for item in fields(self) if getattr(self, item.name) <= 0]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be above 0.")

    @property
    def text(self) -> str:
        """`str`: the assumptions in a sentence."""
        return (
            f"estimate, not measured: {self.teraflops:g} TFLOP/s sustained, {self.launch_seconds * 1e6:g} us a kernel "
            f"launch, {self.kernels_per_layer:g} kernels a layer and step, {self.read_seconds * 1e3:g} ms to read a "
            f"clip, {self.start_seconds:g} s to start a job"
        )

    def batch_seconds(self, network: "NetworkCost", batch: int, *, workers: int, training: bool) -> float:
        """Returns the seconds of one step.

        Args:
            network ([`NetworkCost`]): what is computed.
            batch (`int`): clips.
            workers (`int`): of the data loader.
            training (`bool`): forward, backward and update; otherwise forward alone.
        """
        passes, macs = (1 + BACKWARD, network.training_macs) if training else (1, network.macs)
        compute = OPERATIONS * passes * macs * batch / (self.teraflops * 1e12)
        launch = network.layers * self.kernels_per_layer * self.launch_seconds * passes / (1 + BACKWARD)
        read = batch * self.read_seconds / max(workers, 1)
        return max(compute, launch, read) if workers else max(compute, launch) + read


@dataclass(frozen=True)
class NetworkCost:
    """Size of a network: parameters, MACs of one clip in evaluation and of a training forward pass, layers."""

    parameters: int
    macs: int
    training_macs: int
    layers: int


@dataclass(frozen=True)
class CorpusSize:
    """Size of the data: clips of both splits, crops of the training split, bytes of the crops' names, classes."""

    train: int
    evaluate: int
    crops: int
    samples: int
    crop_name_bytes: int
    evaluate_name_bytes: int
    scenes: int


@dataclass(frozen=True)
class Cost:
    """Seconds of an accelerator, seconds of one CPU core, and bytes that stay."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    model_bytes: int = 0
    checkpoint_bytes: int = 0
    other_bytes: int = 0

    @property
    def bytes(self) -> int:
        """`int`: all of them."""
        return self.model_bytes + self.checkpoint_bytes + self.other_bytes


@cache
def network_cost(architecture: str, size: str, overrides: str | None = None) -> NetworkCost:
    """Measures a network without making its weights.

    Args:
        architecture (`str`): `cpr`, `cpm` or `passt`.
        size (`str`): its size.
        overrides (`str`, *optional*): `name=value,...` in its configuration.

    Raises:
        ValueError: the configuration cannot have these.
    """
    name, config_class, model_class = NETWORKS[architecture]
    pairs = (pair.partition("=") for pair in (overrides or "").split(",") if pair)
    changes = {key.strip(): yaml.safe_load(value) for key, _, value in pairs}
    try:
        unknown = sorted(changes.keys() - {item.name for item in fields(config_class)})
        if unknown:
            raise ValueError(f"{config_class.__name__} has no {', '.join(unknown)}.")
        config = config_class.from_preset(size, **changes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{architecture}-{size} with config_overrides {overrides!r}: {error}") from error
    with torch.device("meta"):
        model = model_class(config)
    shape = AscFeatureExtractor.from_preset(name).log_mel(torch.zeros(1, SAMPLING_RATE)).shape
    macs = {}
    for training in (False, True):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            # Hidden states make PaSST compute its last block in full, as published figures count it.
            model.train(training)(torch.zeros(shape, device="meta"), output_hidden_states=True)
        macs[training] = counter.get_total_flops() // OPERATIONS
    layers = sum(1 for module in model.modules() if not any(module.children()))
    return NetworkCost(count_parameters(model), macs[False], macs[True], layers)


def corpus_size(settings: PlanSettings) -> CorpusSize:
    """Counts clips and crops; tables of names are enough, audio is not read.

    Args:
        settings ([`PlanSettings`]): names the corpus, or the synthetic one that will be written.
    """
    if settings.data is None:
        return _synthetic_size(settings)
    data = load_corpus(settings.data)
    hop = settings.preset.crop_hop
    crops = data["train"] if hop is None else shifted_crops(data["train"], hop_seconds=hop)
    samples = sum(pc.sum(rows_of(split)[LENGTH]).as_py() for split in data.values())
    names = {split: pc.sum(pc.binary_length(rows_of(clips)[EXAMPLE_ID])).as_py() for split, clips in data.items()}
    crop_names = pc.sum(pc.binary_length(rows_of(crops)[EXAMPLE_ID])).as_py()
    scenes = len(data["train"].features[LABELS].names)
    return CorpusSize(
        len(data["train"]), len(data["evaluate"]), len(crops), samples, crop_names, names["evaluate"], scenes
    )


def _synthetic_size(settings: PlanSettings) -> CorpusSize:
    known = {item.name for item in fields(SyntheticSettings)}
    corpus = SyntheticSettings(**{name: value for name, value in settings.preset.corpus.items() if name in known})
    scenes, other_devices, evaluate_devices = len(SYNTHETIC_SCENES), 5, 3
    segments = corpus.train_segments_per_scene * scenes
    recordings = segments + other_devices * round(corpus.other_device_share * segments)
    train = recordings * corpus.train_slices
    evaluate = corpus.evaluate_segments_per_scene * scenes * evaluate_devices * corpus.evaluate_slices
    hop = settings.preset.crop_hop
    crops = train if hop is None else recordings * (math.floor((corpus.train_slices - 1) / hop) + 1)
    samples = (train + evaluate) * SAMPLING_RATE
    return CorpusSize(train, evaluate, crops, samples, crops * NAME_BYTES, evaluate * NAME_BYTES, scenes)


def estimate_costs(
    jobs: Sequence[Job], settings: PlanSettings, size: CorpusSize, speed: SpeedModel
) -> dict[str, Cost]:
    """Estimates each job of a plan.

    Args:
        jobs (`Sequence[Job]`): from [`build_plan`].
        settings ([`PlanSettings`]): data and scale.
        size ([`CorpusSize`]): from [`corpus_size`].
        speed ([`SpeedModel`]): assumptions.

    Returns:
        `dict[str, Cost]`: by the jobs' names.
    """
    student = settings.preset.training_values()
    values = {job.kind: settings.preset.training_values(job.kind) for job in jobs if job.kind}
    estimates = {
        CORPUS: lambda job: Cost(cpu_seconds=_prepare_seconds(size), other_bytes=_wav_bytes(size)),
        PREPARE: lambda job: Cost(cpu_seconds=_prepare_seconds(size), other_bytes=store_bytes(size)),
        TEACHER: lambda job: _training_cost(_network(values[job.kind], job.kind), values[job.kind], size, speed),
        LOGITS: lambda job: _logits_cost(job, _network(values[job.kind], job.kind), size, speed),
        ENSEMBLE: lambda job: Cost(cpu_seconds=speed.start_seconds, other_bytes=RUN_BYTES),
        STUDENT: lambda job: _training_cost(_network(student), student, size, speed),
    }
    return {job.name: estimates[job.stage](job) for job in jobs}


def _network(values: Mapping[str, Any], kind: TeacherKind | None = None) -> NetworkCost:
    if kind is not None:
        return network_cost(kind.architecture, kind.size, values.get("config_overrides"))
    architecture = STUDENT_ARCHITECTURES[values.get("architecture", "cp-mobile")]
    return network_cost(architecture, values.get("size", "128k"), values.get("config_overrides"))


def training_setting(values: Mapping[str, Any], name: str) -> float:
    """Returns a number that a training uses: of its YAML files and arguments, else the default."""
    return float(values.get(name, getattr(DistillationTrainingArguments, name, None) or 0))


def _training_cost(network: NetworkCost, values: Mapping[str, Any], size: CorpusSize, speed: SpeedModel) -> Cost:
    """Epochs of training and evaluation; the model, and the checkpoints that stay, with Adam's state."""
    epochs, workers = training_setting(values, "num_train_epochs"), int(values.get("dataloader_num_workers", 0))
    seconds = speed.start_seconds
    for clips, name, training in (
        (size.crops, "per_device_train_batch_size", True),
        (size.evaluate, "per_device_eval_batch_size", False),
    ):
        batch = int(training_setting(values, name))
        step = speed.batch_seconds(network, batch, workers=workers, training=training)
        seconds += epochs * math.ceil(clips / batch) * step
    model = network.parameters * FLOAT_BYTES
    checkpoints = min(training_setting(values, "save_total_limit") or epochs, epochs)
    checkpoint_bytes = math.ceil(checkpoints) * (1 + ADAM_COPIES) * model
    return Cost(seconds, model_bytes=model, checkpoint_bytes=checkpoint_bytes, other_bytes=RUN_BYTES)


def _logits_cost(job: Job, network: NetworkCost, size: CorpusSize, speed: SpeedModel) -> Cost:
    rows, names = (
        (size.crops, size.crop_name_bytes) if job.split == TRAIN else (size.evaluate, size.evaluate_name_bytes)
    )
    batch = training_setting({}, "per_device_eval_batch_size")
    all_runs = replace(network, macs=job.runs * network.macs, layers=job.runs * network.layers)
    step = speed.batch_seconds(all_runs, int(batch), workers=0, training=False)  # the clips are read once
    seconds = speed.start_seconds + math.ceil(rows / batch) * step
    row_bytes = rows * (size.scenes * FLOAT_BYTES + LOGITS_TEXT_BYTES)
    return Cost(seconds, other_bytes=job.runs * (row_bytes + names))


def store_bytes(size: CorpusSize) -> int:
    """Returns the bytes of a prepared store: 16-bit samples, and what tells the clips apart."""
    return size.samples * INT16_BYTES + (size.train + size.evaluate) * STORE_TEXT_BYTES


def _wav_bytes(size: CorpusSize) -> int:
    return (size.train + size.evaluate) * 44_100 * 3  # PCM-24


def _prepare_seconds(size: CorpusSize) -> float:
    return (size.train + size.evaluate) * CLIP_SECONDS_TO_DECODE


def remaining_seconds(jobs: Iterable[Job], expected: Mapping[str, float], measured: Mapping[str, float]) -> float:
    """Adds up the seconds of jobs: what jobs alike took, else what is expected of them.

    Args:
        jobs (`Iterable[Job]`): those that are left.
        expected (`Mapping[str, float]`): estimated seconds by the jobs' names.
        measured (`Mapping[str, float]`): mean seconds by [`Job.like`].
    """
    return sum(measured.get(job.like, expected.get(job.name, 0.0)) for job in jobs)


__all__ = [
    "NETWORKS",
    "CorpusSize",
    "Cost",
    "NetworkCost",
    "SpeedModel",
    "corpus_size",
    "estimate_costs",
    "network_cost",
    "remaining_seconds",
    "store_bytes",
]
