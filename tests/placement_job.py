"""A training that the test of two processes launches: once from disk, once from memory; writes what it saw as JSON.

accelerate launch ... tests/placement_job.py STORE OUTPUT_DIR CLIPS_PER_RANK
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from test_trainer import LinearProbe, plain_frontend, weights

from hf_ascdistill import (
    DistillationTrainer,
    DistillationTrainingArguments,
    leave_process_group,
    load_prepared,
    random_crops,
)

CLIPS = 30  # leaves a rest beside batches of 8


def train(store: str, output_dir: str, *, clips_per_rank: int, placement: str) -> dict:
    """Trains and returns the losses and weights, and which clips this rank saw."""
    arguments = DistillationTrainingArguments(
        output_dir=output_dir,
        use_cpu=True,
        disable_tqdm=True,
        num_train_epochs=2,
        per_device_train_batch_size=clips_per_rank,
        dataloader_drop_last=True,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        seed=5,
        data_placement=placement,
    )
    clips = random_crops(load_prepared(store)["train"].select(range(CLIPS)))
    trainer = DistillationTrainer(LinearProbe(), arguments, frontend=plain_frontend(), train_dataset=clips)
    seen, prepare = [], trainer._prepare_inputs
    trainer._prepare_inputs = lambda batch: (seen.append(batch["waveform"].double().sum().item()), prepare(batch))[1]
    trainer.train()
    return {
        "world_size": arguments.world_size,
        "rank": arguments.process_index,
        "dataset": type(trainer.train_dataset).__name__,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "weights": weights(trainer.accelerator.unwrap_model(trainer.model)).tolist(),
        "seen": seen,
    }


def threads() -> int:
    """Counts the threads of this process, torch's and the group's among them."""
    return len(os.listdir("/proc/self/task"))


def main(store: str, output_dir: str, clips_per_rank: int) -> None:
    for placement in ("disk", "ram"):
        result = train(store, output_dir, clips_per_rank=clips_per_rank, placement=placement)
        Path(output_dir, f"{placement}-{result['rank']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    before = threads()
    leave_process_group()
    Path(sys.argv[2], f"threads-{os.environ['RANK']}.json").write_text(json.dumps([before, threads()]))
