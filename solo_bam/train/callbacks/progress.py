"""The progress bar: on a terminal and in a notebook; a line for each epoch in a log file; nothing in a pipe."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from solo_bam.core import hardware
from solo_bam.core.progress import in_notebook, is_file
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
        self._started_at, self._first = 0.0, 0

    def setup(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Draw no bar where nobody would see it move."""
        super().setup(trainer, *args, **kwargs)
        if not (sys.stdout.isatty() or in_notebook()):
            self.disable()

    def init_sanity_tqdm(self) -> Any:
        """Show nothing of Lightning's rehearsal of the validation."""
        drawn = not self.is_disabled
        self.disable()
        bar = super().init_sanity_tqdm()
        if drawn:
            self.enable()
        return bar

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_start(trainer, *args)
        self._started_at, self._first = time.monotonic(), trainer.current_epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Draw the bar as often as one can see, which takes the host 0.3 ms each time."""
        if self.is_disabled:
            return
        self._batches += 1
        now = time.monotonic()
        if now - self._drawn_at >= _SECONDS or trainer.is_last_batch:
            self._drawn_at = now
            super().on_train_batch_end(trainer, *args)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a line to a log file."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self.is_disabled or not trainer.is_global_zero or not is_file(sys.stdout):
            return
        done, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        seconds = (time.monotonic() - self._started_at) / (done - self._first) * (epochs - done)
        ended = trainer.callback_metrics  # with the epoch's means, which stand behind no bar
        means = {name: ended[name] for name in getattr(pl_module, "headline", ()) if name in ended}
        shown = "".join(f", {key} {value:.4g}" for key, value in (self.get_metrics(trainer, pl_module) | means).items())
        print(f"epoch {done} of {epochs}{shown}, {timedelta(seconds=round(seconds))} left", flush=True)

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
