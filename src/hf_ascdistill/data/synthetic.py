"""Writes a small corpus of made-up scenes in the layout and with the file names of TAU22."""

import csv
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from transformers.utils import logging

from .synthetic_devices import DEVICES, record
from .synthetic_scenes import BLEED_DB, RATE, SCENES, SEGMENT_SHARE, render, vary

logger = logging.get_logger(__name__)

MARKER = "synthetic.json"  # written last: says that the corpus is complete, and what it was made from
FORMAT = 1  # raised whenever the same settings give other sounds
LOCATION_STREAM, SEGMENT_STREAM, DEVICE_STREAM, PLAN_STREAM = 2, 3, 4, 5  # of the seed; 1 is the impulse responses'
CITIES = ("amberton", "brackwater", "corvale", "dunmere", "eastholm", "fernwick")
MAIN_DEVICE = "a"
OTHER_TRAIN_DEVICES = ("b", "c", "s1", "s2", "s3")
EVALUATE_DEVICES = (("a", "b", "c"), ("s1", "s2", "s3"), ("s4", "s5", "s6"))  # one of each records a segment
NOT_NEGATIVE = ("location_spread", "device_strength", "level_spread_db")
META_HEAD, LIST_HEAD, TEST_HEAD = (
    ("filename", "scene_label", "identifier", "source_label"),
    ("filename", "scene_label"),
    ("filename",),
)


@dataclass(frozen=True)
class SyntheticSettings:
    """Size and difficulty of a synthetic corpus; the defaults are those of the demo.

    A segment is one recording of several consecutive 1-s slices. In training all segments are recorded by device a and
    some also by b, c, s1, s2 or s3; each evaluation segment is recorded by three devices at once: a real one, one that
    training has seen and one of s4, s5, s6, which it has not. No location is on both sides.
    """

    train_segments_per_scene: int = field(default=24, metadata={"help": "Segments of each scene in training."})
    evaluate_segments_per_scene: int = field(default=15, metadata={"help": "Segments of each scene in evaluation."})
    train_slices: int = field(default=3, metadata={"help": "Seconds of a training segment: 1-s clips cut from it."})
    evaluate_slices: int = field(default=1, metadata={"help": "Seconds of an evaluation segment."})
    segments_per_location: int = field(default=1, metadata={"help": "Training segments recorded at one place."})
    other_device_share: float = field(
        default=0.0733,
        metadata={"help": "Share of the training segments that b, c, s1, s2, s3 record, each; TAU22: 7490 of 102150."},
    )
    location_spread: float = field(default=0.7, metadata={"help": "How far places differ from their scene's sound."})
    bleed_share: float = field(default=0.3, metadata={"help": "Share of the segments with a second scene audible."})
    device_strength: float = field(default=0.8, metadata={"help": "Scales the devices' frequency responses in dB."})
    level_db: float = field(default=-26.0, metadata={"help": "Mean level of a segment, dB against full scale."})
    level_spread_db: float = field(default=4.0, metadata={"help": "Standard deviation of the segments' level in dB."})

    def __post_init__(self):
        counts = [item.name for item in fields(self) if item.type is int and getattr(self, item.name) < 1]
        if counts:
            raise ValueError(f"{counts} must be at least 1, got {[getattr(self, name) for name in counts]}")
        below_zero = [item.name for item in fields(self) if item.name in NOT_NEGATIVE and getattr(self, item.name) < 0]
        if below_zero:
            raise ValueError(f"{below_zero} must not be negative, got {[getattr(self, name) for name in below_zero]}")
        for name in ("other_device_share", "bleed_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share between 0 and 1")

    @classmethod
    def from_preset(cls, name: str, **changes) -> "SyntheticSettings":
        """Makes the settings of a preset.

        Args:
            name (`str`): `"demo"` (990 training and 450 evaluation clips) or `"tiny"` (60 and 30).
            changes: fields that differ from the preset.

        Returns:
            [`SyntheticSettings`]: the settings.

        Raises:
            ValueError: there is no preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; choose one of {sorted(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


PRESETS = {
    "demo": {},
    "tiny": {
        "train_segments_per_scene": 2,
        "evaluate_segments_per_scene": 1,
        "train_slices": 2,
        "other_device_share": 0.1,
        "segments_per_location": 1,
    },
}


@dataclass(frozen=True)
class _Segment:
    index: int
    split: str
    scene: str
    location: int
    devices: tuple[str, ...]
    slices: int

    @property
    def city(self) -> str:
        return CITIES[self.location % len(CITIES)]

    def file_name(self, number: int, device: str) -> str:
        return f"audio/{self.scene}-{self.city}-{self.location}-{self.index}-{number}-{device}.wav"


def write_synthetic_corpus(
    path: str | Path, *, settings: SyntheticSettings | None = None, seed: int = 0, num_proc: int = 1
) -> None:
    """Writes a corpus of ten made-up scenes, nine made-up devices and six made-up cities, ready for [`load_tau22`].

    The same seed and settings give the same bytes, whatever `num_proc` is. The corpus is written beside `path` and
    moved there when it is complete; where it is complete already, nothing is done.

    Args:
        path (`str` or `Path`): folder to write; new, empty, or this very corpus.
        settings ([`SyntheticSettings`], *optional*): size and difficulty; `None` means the demo's.
        seed (`int`, *optional*, defaults to 0): seed of all randomness.
        num_proc (`int`, *optional*, defaults to 1): number of processes.

    Raises:
        ValueError: `path` holds something else, or a synthetic corpus of another seed or other settings.
    """
    path, settings = Path(path).absolute(), settings or SyntheticSettings()
    recipe = {"format": FORMAT, "seed": seed, "settings": asdict(settings)}
    if _is_written(path, recipe):
        logger.info(f"the synthetic corpus in {path} is complete")
        return
    partial_path = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial_path, ignore_errors=True)
    (partial_path / "audio").mkdir(parents=True)
    segments = _plan(settings, seed)
    _write_audio(partial_path, segments, settings=settings, seed=seed, num_proc=num_proc)
    _write_lists(partial_path, segments)
    (partial_path / MARKER).write_text(json.dumps(recipe, indent=2) + "\n")
    if path.exists():
        path.rmdir()
    partial_path.rename(path)


def _is_written(path: Path, recipe: dict) -> bool:
    """Whether this corpus is in `path`; anything else in it raises."""
    if not path.exists():
        return False
    if not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file, expected a folder to write the synthetic corpus to")
    if not any(path.iterdir()):
        return False
    if not (path / MARKER).is_file():
        raise ValueError(f"{str(path)!r} holds files that are no synthetic corpus; choose a new or empty folder")
    found = json.loads((path / MARKER).read_text())
    if found != recipe:
        raise ValueError(
            f"{str(path)!r} holds a synthetic corpus made from {found}, asked for is {recipe}; "
            "choose a new folder or delete that one"
        )
    return True


def _plan(settings: SyntheticSettings, seed: int) -> list[_Segment]:
    """Lists all segments: their place and the devices that record them."""
    train = settings.train_segments_per_scene * len(SCENES)
    devices = [[MAIN_DEVICE] for _ in range(train)]
    generator = np.random.default_rng([seed, PLAN_STREAM])
    for device in OTHER_TRAIN_DEVICES:
        for index in generator.choice(train, round(settings.other_device_share * train), replace=False):
            devices[index].append(device)
    scenes, segments, location = tuple(SCENES), [], 0
    for index in range(train):
        round_number, scene = divmod(index, len(scenes))
        location = round_number // settings.segments_per_location * len(scenes) + scene
        segments.append(
            _Segment(index, "train", scenes[scene], location, tuple(devices[index]), settings.train_slices)
        )
    first = location + 1
    for number in range(settings.evaluate_segments_per_scene * len(scenes)):
        round_number, scene = divmod(number, len(scenes))
        used = tuple(group[(round_number + scene) % len(group)] for group in EVALUATE_DEVICES)
        segments.append(
            _Segment(train + number, "evaluate", scenes[scene], first + number, used, settings.evaluate_slices)
        )
    return segments


def _write_audio(
    folder: Path, segments: list[_Segment], *, settings: SyntheticSettings, seed: int, num_proc: int
) -> None:
    write = partial(_write_segment, folder, settings=settings, seed=seed)
    bar = partial(logging.tqdm, total=len(segments), desc="Writing the synthetic corpus", unit="segment")
    if num_proc == 1:
        list(bar(map(write, segments)))
        return
    with ProcessPoolExecutor(num_proc) as pool:
        list(bar(pool.map(write, segments, chunksize=8)))


def _write_segment(folder: Path, segment: _Segment, *, settings: SyntheticSettings, seed: int) -> None:
    sound = _sound_of_segment(segment, settings, seed)
    for device in segment.devices:
        generator = np.random.default_rng([seed, DEVICE_STREAM, segment.index, list(DEVICES).index(device)])
        recorded = record(sound, device, generator, strength=settings.device_strength, rate=RATE)
        for number, piece in enumerate(recorded.reshape(segment.slices, RATE)):
            soundfile.write(folder / segment.file_name(number, device), piece, RATE, subtype="PCM_24")


def _sound_of_segment(segment: _Segment, settings: SyntheticSettings, seed: int) -> np.ndarray:
    """The sound in the air, `(slices * 44100,)`: a place and moment of the scene, perhaps another one behind it."""
    place = np.random.default_rng([seed, LOCATION_STREAM, segment.location])
    moment = np.random.default_rng([seed, SEGMENT_STREAM, segment.index])
    sound = vary(SCENES[segment.scene], place, settings.location_spread)
    wave = render(vary(sound, moment, SEGMENT_SHARE * settings.location_spread), moment, segment.slices)
    if moment.random() < settings.bleed_share:
        other = moment.choice([scene for scene in SCENES if scene != segment.scene])
        bleed = render(vary(SCENES[other], moment, settings.location_spread), moment, segment.slices)
        wave += 10 ** (moment.uniform(*BLEED_DB) / 20) * bleed
    level = settings.level_db + settings.level_spread_db * moment.normal()
    return wave * (10 ** (level / 20) / np.sqrt(np.mean(wave**2)))


def _write_lists(folder: Path, segments: list[_Segment]) -> None:
    rows = {"train": [], "evaluate": []}
    for segment in segments:
        for device in segment.devices:
            for number in range(segment.slices):
                identifier = f"{segment.city}-{segment.location}"
                rows[segment.split].append((segment.file_name(number, device), segment.scene, identifier, device))
    _write_table(folder / "meta.csv", META_HEAD, rows["train"] + rows["evaluate"])
    for split in rows:
        _write_table(folder / "evaluation_setup" / f"fold1_{split}.csv", LIST_HEAD, [row[:2] for row in rows[split]])
    _write_table(folder / "evaluation_setup" / "fold1_test.csv", TEST_HEAD, [row[:1] for row in rows["evaluate"]])


def _write_table(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([head, *rows])


__all__ = ["SyntheticSettings", "write_synthetic_corpus"]
