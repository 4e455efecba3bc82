"""Measures how loader and front-end scale from one process to two (gloo, a thread each), and that the numbers stay.

python benchmarks/two_ranks.py [--clips 2000] [--epochs 6] [--output two_ranks.md]

Each step has 64 clips of a made-up store, with DIR, roll, mel, mask and Freq-MixStyle: all in one process, or 32
in each of two. Both must see the same clips in each step, and a second start must make the same log-mels.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch

PLACEMENTS = ("disk", "ram")
STEP_CLIPS = 64
LAUNCHER = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0"
)


def build_parser() -> argparse.ArgumentParser:
    """Describes the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_000, help="of the made-up corpus, evaluation included")
    parser.add_argument("--epochs", type=int, default=6, help="passes that are timed")
    parser.add_argument("--output", type=Path, help="Markdown file to write; unset: the screen only")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a process of this program's own
    parser.add_argument("--placement", choices=PLACEMENTS, help=argparse.SUPPRESS)
    return parser


def open_trainer(folder: Path, placement: str):
    """Returns a trainer over the store; its network is never called."""
    from hf_ascdistill import (
        AugmentationArguments,
        DataArguments,
        DistillationTrainer,
        DistillationTrainingArguments,
        ModelArguments,
        build_model,
        build_training_frontend,
        check_world_size,
        load_training_data,
    )

    ranks = int(os.environ.get("WORLD_SIZE", 1))
    data_arguments = DataArguments(str(folder / "store"))
    data = load_training_data(data_arguments)
    training = DistillationTrainingArguments(
        output_dir=str(folder / "run"),
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=STEP_CLIPS // ranks,
        dataloader_drop_last=True,
        data_placement=placement,
        eval_strategy="no",
        save_strategy="no",
    )
    check_world_size(training.world_size)
    model, extractor = build_model(ModelArguments(), data["train"].features["labels"].names)
    devices = data["train"].features["device_ids"].names
    frontend = build_training_frontend(extractor, AugmentationArguments(), data_arguments, devices=devices)
    trainer = DistillationTrainer(model, training, frontend=frontend, train_dataset=data["train"])
    trainer._place_training_data()  # as Trainer.train does, whose loop is not measured here
    return trainer


def checksum(rows: torch.Tensor) -> int:
    """Returns a number of a batch that does not depend on the order of its rows."""
    return sum(zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in rows.numpy())


def run_rank(arguments: argparse.Namespace) -> None:
    """Passes over the data as one rank of a training, and writes what was seen and how long it took."""
    from accelerate.utils import set_seed

    from hf_ascdistill import keep_freed_memory, leave_process_group

    keep_freed_memory()
    torch.set_num_threads(1)
    trainer = open_trainer(arguments.folder, arguments.placement)
    loader, accelerator = trainer.get_train_dataloader(), trainer.accelerator
    set_seed(trainer.args.seed, device_specific=True)  # in this order, as Trainer.train and its callback do
    trainer.model.train()
    # the first pass, not timed, is the one whose numbers are kept
    seen = [
        [checksum(batch["waveform"]), checksum(trainer._prepare_inputs(batch)["input_values"])] for batch in loader
    ]
    seen = accelerator.gather(torch.tensor(seen)[None]).tolist()  # (ranks, steps, 2)
    accelerator.wait_for_everyone()
    start = time.perf_counter()
    clips = sum(len(trainer._prepare_inputs(batch)["labels"]) for _ in range(arguments.epochs) for batch in loader)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - start
    if accelerator.is_main_process:
        result = {"clips_per_second": clips * accelerator.num_processes / seconds, "seen": seen}
        (arguments.folder / "result.json").write_text(json.dumps(result))
    leave_process_group()


def launch(folder: Path, placement: str, *, ranks: int, epochs: int) -> dict:
    """Runs one process or two, and returns what they wrote.

    Raises:
        RuntimeError: they failed.
    """
    words = [__file__, "--folder", str(folder), "--placement", placement, "--epochs", str(epochs)]
    command = [sys.executable, *(LAUNCHER.split() if ranks == 2 else ()), *words]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{ranks} rank(s) failed:\n{done.stderr[-2000:]}")
    return json.loads((folder / "result.json").read_text())


def compare(folder: Path, placement: str, *, epochs: int) -> str:
    """Measures one placement, checks the numbers, and returns a row of the table.

    Raises:
        RuntimeError: two ranks see other clips than one process, or a second start makes other log-mels.
    """
    one, two = (launch(folder, placement, ranks=ranks, epochs=epochs) for ranks in (1, 2))
    again = launch(folder, placement, ranks=2, epochs=1)
    of_one, of_two = (np.array(result["seen"]).sum(axis=0) for result in (one, two))
    if not np.array_equal(of_one[:, 0], of_two[:, 0]):
        raise RuntimeError(f"{placement}: two ranks see other clips in a step than one process.")
    if two["seen"] != again["seen"]:
        raise RuntimeError(f"{placement}: the same command made other log-mels when it was started again.")
    rates = one["clips_per_second"], two["clips_per_second"]
    return f"| {placement} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} |"


def main() -> None:
    """Measures each placement, and prints and writes the table."""
    arguments = build_parser().parse_args()
    if arguments.placement is not None:
        return run_rank(arguments)
    from host_memory import write_corpus

    from hf_ascdistill import load_tau22, prepare

    lines = ["| clips lie in | one process, clips/s | two, clips/s | times |", "|---" * 4 + "|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "corpus", arguments.clips)
        prepare(load_tau22(folder / "corpus"), folder / "store", num_proc=2)
        lines += [compare(folder, placement, epochs=arguments.epochs) for placement in PLACEMENTS]
    print("\n".join(lines))
    if arguments.output is not None:
        arguments.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
