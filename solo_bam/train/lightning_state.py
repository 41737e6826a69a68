"""What is read of Lightning that it does not promise to keep; nothing else in the project looks behind its interface.

Each has a test in ``tests/train/test_lightning_state.py``, which holds for the Lightning versions named there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from subprocess import Popen
from typing import Any

import lightning.pytorch as pl


def logs_this_step(trainer: pl.Trainer) -> bool:
    """Whether the loggers get what this training step logs, asked from its start on."""
    return trainer._logger_connector.should_update_logs


def started_processes(trainer: pl.Trainer) -> list[Popen[bytes]]:
    """The processes that Lightning has started from this one: its own list, which its watch over them reads too."""
    return getattr(trainer.strategy.launcher, "procs", [])  # launchers that start none have no such list


def set_timeout(trainer: pl.Trainer, seconds: float) -> None:
    """How long a process waits for the others, in strategies that have such a limit."""
    if hasattr(trainer.strategy, "_timeout"):
        trainer.strategy._timeout = timedelta(seconds=seconds)


def trained_epochs(checkpoint: Mapping[str, Any]) -> int:
    """How many epochs a checkpoint has behind it as a whole."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]


def put_between_batches(checkpoint: dict[str, Any], batch: int) -> None:
    """Put the counters in a checkpoint, taken when a batch is about to start, back to between the two batches.

    Args:
        checkpoint: changed in place.
        batch: of the epoch, that is about to start; 0: the epoch has not begun either.
    """
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for counts in (progress["total"], progress["current"]):
        counts["ready"] = counts["started"] = counts["processed"] = counts["completed"]
    if batch == 0:
        for counts in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
            counts["ready"] = counts["started"] = counts["processed"]
