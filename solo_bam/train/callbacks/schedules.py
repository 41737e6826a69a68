"""Schedules beside the learning rate's; each is a function of the step alone, so it resumes exactly."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl


class CosineWeightDecay(pl.Callback):
    """Weight decay from ``start`` to ``end`` on a cosine over all steps of the training.

    Groups without weight decay (biases and norms where they are excluded, the online classifier) keep none.

    Args:
        start: weight decay of the first step, above 0.
        end: weight decay after the last.
    """

    def __init__(self, start: float, end: float):
        self.start, self.end = start, end

    def at(self, progress: float) -> float:
        """Weight decay at a share of the training, 0 to 1."""
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * progress))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note which groups are decayed, while their weight decay still says so."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("decayed", group["weight_decay"] > 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        decay = self.at(trainer.global_step / trainer.estimated_stepping_batches)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if group["decayed"]:
                    group["weight_decay"] = decay
        pl_module.log("weight_decay", decay)
