"""Small callbacks that keep a run reproducible and stop it when it is lost."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from solo_bam.core import collectives, hardware
from solo_bam.core.errors import UserError


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
        seed_device(int(words[2]), trainer.strategy.root_device)


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the CPU's generator and the device's own, as :func:`torch.manual_seed` does.

    Where there is no GPU, that one keeps the stack of each call for when one is started: 1 ms, and memory that grows.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


class _Step(NamedTuple):
    """What is told of a step if its loss was not finite."""

    loss: Tensor
    number: int
    epoch: int
    rate: float
    reg: float | None


class NonFiniteLoss(pl.Callback):
    """Stop at a loss that is not finite, so that the last checkpoint stays good.

    On the CPU before its backward. On an accelerator, where looking at each loss would make the host wait for it, they
    are read every :data:`.hardware.READ_EVERY` steps, and before anything that validates, saves or ends.

    With a gradient scaler (16-mixed) the loss itself counts, not the scaled one, which may be too large for a number;
    gradients that are not finite are none of it, either: the scaler leaves out their step and lowers its scale.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []  # since the last reading

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            self._note(trainer, pl_module, loss, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None and outputs:
            self._note(trainer, pl_module, outputs["loss"], trainer.global_step - 1)

    def _note(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor, number: int) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        reg = getattr(getattr(pl_module, "loss_fn", None), "reg", None)
        self._steps.append(_Step(loss.detach(), number, trainer.current_epoch, rate, reg))
        if not hardware.reading_waits(loss.device) or len(self._steps) >= hardware.READ_EVERY:
            self._read(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read(trainer)

    def _read(self, trainer: pl.Trainer) -> None:
        """Raise where a loss was lost; all processes do: the others would wait for that one in their backward."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        lost = ~torch.stack([step.loss for step in steps]).isfinite()
        of_steps = zip(*collectives.gather(lost.float()).tolist())  # whether it is, for each process
        for step, processes in zip(steps, of_steps):
            if any(processes):
                raise _error(trainer, step, [rank for rank, is_lost in enumerate(processes) if is_lost])


def _error(trainer: pl.Trainer, step: _Step, lost: list[int]) -> UserError:
    value = step.loss.item() if trainer.global_rank in lost else "nan or infinite"
    where = "" if trainer.world_size == 1 else f" on process {', '.join(map(str, lost))}"
    kept = getattr(trainer.checkpoint_callback, "last_model_path", "") or "none yet"
    error = UserError(
        "optimizer.lr",
        f"the loss became {value}{where} at step {step.number} (epoch {step.epoch}) "
        f"with lr {step.rate:g}" + ("" if step.reg is None else f" and reg {step.reg:g}"),
        f"lower optimizer.lr{'' if step.reg is None else ' or raise method_kwargs.reg'}; last good checkpoint: {kept}",
    )
    error.on_all_processes = True
    return error
