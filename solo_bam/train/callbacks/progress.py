"""The progress bar."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from solo_bam.core import hardware
from solo_bam.train.callbacks.means import EpochMeans


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

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        if _is_due(trainer):
            read = super().get_metrics(trainer, pl_module)
            headline = getattr(pl_module, "headline", ())
            loss = {name: float(value) for name in headline if (value := self.means.latest(name)) is not None}
            self._shown = {key: value for key, value in (read | loss).items() if key != "v_num"}
        return self._shown


def _is_due(trainer: pl.Trainer) -> bool:
    """Every so many batches, at an epoch's end and outside of the training."""
    if not hardware.reading_waits(trainer.strategy.root_device) or not trainer.training or trainer.is_last_batch:
        return True
    return trainer.fit_loop.batch_idx % hardware.READ_EVERY == 0
