"""transformers' Trainer, whose clips may lie in the memory of the host or of an accelerator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer

from .data.collator import collate_clips
from .data.resident import ResidentClips, as_it_is

RESIDENT_STRATEGIES = ("random", "sequential")  # samplers that need no length of each row


class ResidentTrainer(Trainer):
    """[`~transformers.Trainer`] that loads [`ResidentClips`] too; `args` are [`DistillationTrainingArguments`]."""

    def place_data(self) -> None:
        """Brings the data into memory, once, where that is asked for and possible."""
        if isinstance(self.train_dataset, ResidentClips):
            return
        from .data.placement import can_be_resident, place

        placement, strategy, obstacle = self.args.data_placement, self.args.train_sampling_strategy, None
        if self.data_collator is not collate_clips:
            obstacle = "the trainer has a data_collator of its own, which clips in memory do without"
        elif strategy not in RESIDENT_STRATEGIES:
            obstacle = f"train_sampling_strategy is {strategy}; clips in memory are drawn random or sequential"
        if obstacle is None:
            self.train_dataset = place(self.train_dataset, placement, device=self.args.device)
            if isinstance(self.train_dataset, ResidentClips) and can_be_resident(self.eval_dataset):
                self.eval_dataset = place(self.eval_dataset, placement, device=self.args.device)
        elif placement not in ("auto", "disk"):
            raise ValueError(f"data_placement is {placement}, but {obstacle}: pass --data_placement disk.")

    def get_train_dataloader(self) -> DataLoader:
        """Returns the loader of the training data; the sampling is the same wherever they lie."""
        clips = self.train_dataset
        if not isinstance(clips, ResidentClips):
            return super().get_train_dataloader()
        settings = {"sampler": self._get_train_sampler(clips), "drop_last": self.args.dataloader_drop_last}
        return self._resident_loader(clips, self._train_batch_size, **settings)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Returns the loader of the evaluation data, which give the same numbers wherever they lie."""
        clips = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(clips, ResidentClips):
            with self._dropping_nothing():
                return super().get_eval_dataloader(eval_dataset)
        return self._resident_loader(clips, self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Returns the loader of a prediction: all clips."""
        if isinstance(test_dataset, ResidentClips):
            return self._resident_loader(test_dataset, self.args.eval_batch_size)
        with self._dropping_nothing():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _dropping_nothing(self) -> Iterator[None]:
        """Switches `dataloader_drop_last` off, which the base class obeys in evaluation too."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _resident_loader(self, clips: ResidentClips, batch_size: int, **settings: Any) -> DataLoader:
        settings["pin_memory"] = self.args.dataloader_pin_memory and clips.device.type == "cpu"
        # and no workers: a batch is one gather
        return self.accelerator.prepare(DataLoader(clips, batch_size, collate_fn=as_it_is, **settings))


__all__ = ["ResidentTrainer"]
