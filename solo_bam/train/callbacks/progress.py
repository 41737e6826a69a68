"""The progress bar."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from solo_bam.core import hardware
from solo_bam.train.callbacks.means import EpochMeans

_SECONDS = 0.1  # between two drawings of the bar, at least


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the method's headline metrics, without the loggers' version, which says nothing here.

    On an accelerator the numbers behind it are those of the last reading, since each reading makes the host wait. For
    the same reason the loss is not logged with ``prog_bar=True``: Lightning reads such a metric after every step.

    Args:
        means: tells the loss.
    """

    def __init__(self, means: EpochMeans):
        super().__init__()
        self.means = means
        self._shown: dict[str, Any] = {}
        self._drawn_at = 0.0
        self._batches = 0  # since the last reading

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Draw the bar as often as one can see, which takes the host 0.3 ms each time."""
        self._batches += 1
        now = time.monotonic()
        if now - self._drawn_at >= _SECONDS or trainer.is_last_batch:
            self._drawn_at = now
            super().on_train_batch_end(trainer, *args)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        if self._is_due(trainer):
            self._batches = 0
            read = super().get_metrics(trainer, pl_module)
            headline = getattr(pl_module, "headline", ())
            loss = {name: float(value) for name in headline if (value := self.means.latest(name)) is not None}
            self._shown = {key: value for key, value in (read | loss).items() if key != "v_num"}
        return self._shown

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Every so many batches, at an epoch's end and outside of the training."""
        if not hardware.reading_waits(trainer.strategy.root_device) or not trainer.training or trainer.is_last_batch:
            return True
        return self._batches >= hardware.READ_EVERY
