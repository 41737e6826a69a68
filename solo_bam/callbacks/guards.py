"""Small callbacks that keep a run reproducible and stop it when it is lost."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from solo_bam import distributed
from solo_bam.errors import UserError


class EpochSeed(pl.Callback):
    """Seed the global random streams from seed, epoch, batch and rank at each epoch's and batch's start.

    A resumed run then draws the same numbers (dropout, stochastic depth) as an uninterrupted one, also where
    it goes on in mid-epoch.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seed(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._seed(trainer, batch_idx + 1)

    def _seed(self, trainer: pl.Trainer, *batch: int) -> None:
        key = [self.seed, trainer.current_epoch, trainer.global_rank, *batch]
        words = np.random.SeedSequence(key).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.manual_seed(int(words[2]))


class NonFiniteLoss(pl.Callback):
    """Stop before the backward of a loss that is not finite, so that the last checkpoint stays good."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        # All processes have to know: the others would wait for this one in their backward.
        lost = distributed.on_any(not torch.isfinite(loss), loss.device)
        if not lost:
            return
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        reg = getattr(getattr(pl_module, "loss_fn", None), "reg", None)
        callback = trainer.checkpoint_callback
        where = "" if trainer.world_size == 1 else f" on process {', '.join(map(str, lost))}"
        kept = getattr(callback, "last_model_path", "") or "none yet"
        error = UserError(
            "optimizer.lr",
            f"the loss became {loss.item() if trainer.global_rank in lost else 'nan or infinite'}{where} "
            f"at step {trainer.global_step} (epoch {trainer.current_epoch}) "
            f"with lr {rates[0]:g}" + ("" if reg is None else f" and reg {reg:g}"),
            f"lower optimizer.lr{'' if reg is None else ' or raise method_kwargs.reg'}; last good checkpoint: {kept}",
        )
        error.on_all_processes = True
        raise error
