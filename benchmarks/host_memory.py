"""Measures the host memory of prepare and of training from disk with three sizes of corpus, and extrapolates to TAU22.

python benchmarks/host_memory.py [--sizes 2000 6000 18000] [--steps 20] [--batch_size 64] [--output host_memory.md]

Each size is a made-up corpus in TAU22's layout: noise at 44.1 kHz, a few files under many names; its store takes 64 kB
a clip. `anonymous` is the memory that a process and its children cannot give back, each page counted once, at its
highest; `RSS` is what the system counts for the largest of them: it holds pages of mapped files too, which are cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TRAIN_CLIPS, EVALUATE_CLIPS = 139_620, 29_680  # of TAU22
TAU22_CLIPS = TRAIN_CLIPS + EVALUATE_CLIPS
RATE, SLICES, DISTINCT_FILES = 44_100, 10, 50
LIMIT = 4e9  # bytes
SECONDS_BETWEEN_SAMPLES = 0.05
PHASES = ("prepare", "train")
FIELDS = ("Pss_Anon", "Pss_Shmem")  # of smaps_rollup: shared pages are divided among those who share them


def build_parser() -> argparse.ArgumentParser:
    """Describes the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 6_000, 18_000], help="clips of the corpora")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--batch_size", type=int, default=64, help="clips of a step")
    parser.add_argument("--crop_hop", type=float, default=0.5, help="seconds between the crops that are trained on")
    parser.add_argument("--num_proc", type=int, default=2, help="processes of prepare")
    parser.add_argument("--output", type=Path, help="Markdown file to write; unset: the screen only")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)  # of a process of this program's own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def write_corpus(folder: Path, clips: int) -> None:
    """Writes a corpus of noise: recordings of ten slices, whose files are links to a few."""
    import soundfile

    from hf_ascdistill import SCENES

    (folder / "audio").mkdir(parents=True)
    (folder / "evaluation_setup").mkdir()
    noise = np.random.default_rng(0).integers(-8_000, 8_000, (DISTINCT_FILES, RATE), dtype=np.int16)
    for number, samples in enumerate(noise):
        soundfile.write(folder / f"{number}.wav", samples, RATE, subtype="PCM_16")
    rows, lists = ["filename\tscene_label\tidentifier\tsource_label"], {"train": [], "evaluate": []}
    for clip in range(clips):
        segment, scene = clip // SLICES, SCENES[clip // SLICES % len(SCENES)]
        is_train = segment * SLICES < clips * TRAIN_CLIPS / TAU22_CLIPS
        name = f"audio/{scene}-lyon-{segment}-{segment}-{clip % SLICES}-a.wav"
        os.link(folder / f"{clip % DISTINCT_FILES}.wav", folder / name)
        rows.append(f"{name}\t{scene}\tlyon-{segment}\ta")
        lists["train" if is_train else "evaluate"].append(f"{name}\t{scene}")
    (folder / "meta.csv").write_text("\n".join([*rows, ""]))
    for split, names in lists.items():
        text = "\n".join(["filename\tscene_label", *names, ""])
        (folder / f"evaluation_setup/fold1_{split}.csv").write_text(text)


def prepare_corpus(arguments: argparse.Namespace) -> None:
    """Does the work of prepare_data.py."""
    from hf_ascdistill import load_tau22, prepare

    prepare(load_tau22(arguments.folder / "corpus"), arguments.folder / "store", num_proc=arguments.num_proc)


def train(arguments: argparse.Namespace) -> None:
    """Does the work of distill.py: some steps of the student on crops with teacher logits, read from disk."""
    from hf_ascdistill import (
        AugmentationArguments,
        DataArguments,
        DistillationTrainer,
        DistillationTrainingArguments,
        LogitsSet,
        ModelArguments,
        attach_logits,
        build_model,
        build_training_frontend,
        load_training_data,
    )
    from hf_ascdistill.data.logits import ClipNames

    data_arguments = DataArguments(str(arguments.folder / "store"), crop_hop=arguments.crop_hop)
    data = load_training_data(data_arguments)
    names = ClipNames(data["train"])
    logits = np.random.default_rng(0).normal(0, 3, (len(data["train"]), len(names.scenes))).astype(np.float32)
    clips = attach_logits(data["train"], LogitsSet(names.example_ids, logits, names.content, tuple(names.scenes)))
    training = DistillationTrainingArguments(
        output_dir=str(arguments.folder / "run"),
        use_cpu=True,
        disable_tqdm=True,
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch_size,
        data_placement="disk",
        eval_strategy="no",
        save_strategy="no",
    )
    model, extractor = build_model(ModelArguments(), names.scenes)
    devices = data["train"].features["device_ids"].names
    frontend = build_training_frontend(extractor, AugmentationArguments(), data_arguments, devices=devices)
    DistillationTrainer(model, training, frontend=frontend, train_dataset=clips).train()


def family(pid: int) -> list[int]:
    """Returns a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        children = []
    return [pid, *(member for child in children for member in family(int(child)))]


def anonymous_bytes(pid: int) -> int:
    """Returns the memory of a process that is no file's."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:  # it has just ended
        return 0
    values = dict(line.split(":") for line in lines)
    return sum(int(values[name].split()[0]) * 1024 for name in FIELDS)


def measure(phase: str, folder: Path, arguments: argparse.Namespace) -> tuple[int, int]:
    """Runs a phase in a process of its own; returns the peaks of anonymous memory and of RSS, bytes.

    Raises:
        RuntimeError: it failed.
    """
    settings = {"phase": phase, "folder": folder, "steps": arguments.steps, "batch_size": arguments.batch_size}
    settings |= {"crop_hop": arguments.crop_hop, "num_proc": arguments.num_proc}
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    with open(folder / f"{phase}.log", "w") as log:
        child = subprocess.Popen([sys.executable, __file__, *words], stdout=log, stderr=log)
    peak, ended = 0, 0
    while not ended:
        peak = max(peak, sum(map(anonymous_bytes, family(child.pid))))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
    if status:
        raise RuntimeError(f"{phase} failed:\n{(folder / f'{phase}.log').read_text()[-2000:]}")
    return peak, usage.ru_maxrss * 1024


def extrapolate(sizes: list[int], peaks: list[int]) -> float:
    """Returns the peak of TAU22's number of clips on the straight line through the measured ones, least squares."""
    slope, constant = np.polyfit(sizes, peaks, 1)
    return slope * TAU22_CLIPS + constant


def table(sizes: list[int], rows: list[list[int]]) -> list[str]:
    """Returns the lines of the table, the extrapolation last; the columns of `rows` are those of the table."""
    titles = [f"{phase}, {what}, MB" for phase in PHASES for what in ("anonymous", "RSS")]
    lines = [f"| clips | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for size, row in zip(sizes, rows, strict=True):
        lines.append(f"| {size:,} | {' | '.join(f'{value / 1e6:,.0f}' for value in row)} |")
    columns = [extrapolate(sizes, [row[place] for row in rows]) for place in range(len(titles))]
    lines.append(f"| {TAU22_CLIPS:,} (extrapolated) | {' | '.join(f'{value / 1e6:,.0f}' for value in columns)} |")
    highest = max(columns[0], columns[2])
    verdict = "under" if highest < LIMIT else "above"
    return [*lines, "", f"TAU22: at most {highest / 1e9:.2f} GB of anonymous memory, {verdict} {LIMIT / 1e9:g} GB."]


def main() -> None:
    """Measures each size, and prints and writes the table."""
    arguments = build_parser().parse_args()
    if arguments.phase is not None:
        return {"prepare": prepare_corpus, "train": train}[arguments.phase](arguments)
    if len(set(arguments.sizes)) < 3:
        raise ValueError(f"--sizes {arguments.sizes}: a line to extrapolate along takes three sizes.")
    rows = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus", size)
            rows.append([peak for phase in PHASES for peak in measure(phase, Path(folder), arguments)])
        print(f"{size:,} clips: {', '.join(f'{peak / 1e6:,.0f} MB' for peak in rows[-1])}", flush=True)
    lines = table(arguments.sizes, rows)
    print("\n".join(lines))
    if arguments.output is not None:
        arguments.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
