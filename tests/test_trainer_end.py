"""A run that was killed behind its last checkpoint ends as one that was not."""

import pytest
import torch
from test_trainer import clips, small_student, trainer_of, weights


@pytest.mark.parametrize("length", [{"num_train_epochs": 1.5}, {"max_steps": 3}])
def test_run_that_ended_within_an_epoch_is_not_trained_on(tmp_path, length):
    settings = {"save_strategy": "steps", "save_steps": 1, **length}
    first = small_student()
    trainer_of(tmp_path, first, **settings).train()
    again = trainer_of(tmp_path, small_student(), **settings)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(first)) and again.state.global_step == 3


def test_run_that_was_killed_before_its_last_evaluation_makes_it(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "epoch", "num_train_epochs": 1}
    trainers = [trainer_of(tmp_path, small_student(), evaluation=clips(), **settings) for _ in range(2)]
    trainers[0].train()
    [expected] = [row for row in trainers[0].state.log_history if "eval_loss" in row]
    path = tmp_path / "checkpoint-2" / "trainer_state.json"
    assert "eval_loss" not in path.read_text()  # it was written before
    trainers[1].train(resume_from_checkpoint=True)
    [row] = [row for row in trainers[1].state.log_history if "eval_loss" in row]
    assert (row["eval_loss"], row["step"]) == (expected["eval_loss"], expected["step"])


def test_run_that_was_killed_at_its_end_chooses_its_best_model(tmp_path):
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 3, "learning_rate": 0.05}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_total_limit": 5}
    trainers = [trainer_of(tmp_path, small_student(), evaluation=clips(), **settings) for _ in range(2)]
    trainers[0].train()
    assert not trainers[0].state.best_model_checkpoint.endswith("checkpoint-6"), "the last one is the best"
    trainers[1].train(resume_from_checkpoint=True)
    assert torch.equal(weights(trainers[1].model), weights(trainers[0].model))
