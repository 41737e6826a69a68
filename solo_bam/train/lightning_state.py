"""What is read of Lightning that it does not promise to keep; nothing else in the project looks behind its interface.

Each has a test in ``tests/train/test_lightning_state.py``, which holds for the Lightning versions named there.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


def logs_this_step(trainer: pl.Trainer) -> bool:
    """Whether the loggers get what this training step logs, asked from its start on."""
    return trainer._logger_connector.should_update_logs


def put_between_batches(loops: dict[str, Any], batch: int) -> None:
    """Put the counters in a checkpoint, taken when a batch is about to start, back to between the two batches.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``, changed in place.
        batch: of the epoch, that is about to start; 0: the epoch has not begun either.
    """
    progress = loops["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for counts in (progress["total"], progress["current"]):
        counts["ready"] = counts["started"] = counts["processed"] = counts["completed"]
    if batch == 0:
        for counts in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
            counts["ready"] = counts["started"] = counts["processed"]
