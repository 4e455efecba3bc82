"""A training that the two-process tests launch: one or two ranks, the same global batch; writes what it saw as JSON.

accelerate launch ... tests/two_process_job.py OUTPUT_DIR CLIPS_PER_RANK ACCUMULATION
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))
from test_trainer import LinearProbe, augmenting_frontend, clips, plain_frontend, weights

from hf_ascdistill import DistillationTrainer, DistillationTrainingArguments, check_world_size, leave_process_group

EVALUATION_CLIPS = 13  # odd, so that the last batch of two ranks must be filled up


class AugmentedView(TrainerCallback):
    """Keeps what this rank's augmentation makes of one and the same batch."""

    view = None

    def on_step_begin(self, args, state, control, **kwargs):
        if self.view is None:
            batch = {"waveform": torch.ones(4, 8_000).cumsum(1).sin(), "device_ids": torch.zeros(4, dtype=torch.long)}
            self.view = sum(
                augmenting_frontend()(dict(batch))["input_values"].double().mean().item() for _ in range(5)
            )


def main(output_dir: str, clips_per_rank: int, accumulation: int) -> None:
    view = AugmentedView()
    arguments = DistillationTrainingArguments(
        output_dir=output_dir,
        use_cpu=True,
        disable_tqdm=True,
        num_train_epochs=2,
        per_device_train_batch_size=clips_per_rank,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=accumulation,
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        seed=5,
    )
    check_world_size(arguments.world_size)
    trainer = DistillationTrainer(
        LinearProbe(),
        arguments,
        frontend=plain_frontend(),
        train_dataset=clips(),
        eval_dataset=clips(teacher=False).select(range(EVALUATION_CLIPS)),
        compute_metrics=lambda prediction: {
            "clips": len(prediction.predictions),
            "labels": sorted(prediction.label_ids[0].tolist()),
        },
        callbacks=[],
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    metrics = trainer.evaluate()
    trainer.callback_handler.callbacks.append(view)
    view.on_step_begin(arguments, trainer.state, trainer.control)
    views = trainer.accelerator.gather(torch.tensor([view.view], dtype=torch.float64)).tolist()
    result = {
        "world_size": arguments.world_size,
        "losses": losses,
        "weights": weights(trainer.accelerator.unwrap_model(trainer.model)).tolist(),
        "clips": metrics["eval_clips"],
        "labels": metrics["eval_labels"],
        "views": views,
    }
    if arguments.should_save:
        Path(output_dir, "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    leave_process_group()  # after the trainer is gone
