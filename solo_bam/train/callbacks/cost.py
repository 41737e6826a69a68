"""What a training costs: images per second, processor time, memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from solo_bam.runs.folder import RunFolder


class CostMeter(pl.Callback):
    """Adds a line per epoch to the run's ``logs/cost.jsonl``, see :meth:`solo_bam.runs.folder.RunFolder.costs`.

    Only training counts, loading included: validation, k-NN and checkpoints come after an epoch's last step. Nothing
    is logged, so that the metrics of a repeated run stay the same.

    Args:
        folder: of the run.
        batch_size: images per process and step.
    """

    def __init__(self, folder: RunFolder, batch_size: int):
        self.folder, self.batch_size = folder, batch_size
        self._steps, self._started = 0, 0.0
        self._processor: dict[int | None, float] = {}

    def on_train_start(self, *_: Any) -> None:
        """Begin to count, also where a run is resumed within an epoch, whose start it does not see."""
        self._begin()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._begin()

    def _begin(self) -> None:
        self._steps = 0
        self._started, self._processor = time.perf_counter(), processor_seconds()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._steps += 1
        if trainer.is_last_batch:
            self._close(trainer)

    def _close(self, trainer: pl.Trainer) -> None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started
        processor = sum(now - self._processor.get(pid, 0.0) for pid, now in processor_seconds().items())
        row = {
            "epoch": trainer.current_epoch,
            "images": self._steps * self.batch_size * trainer.world_size,
            "seconds": seconds,
            "processor_seconds": processor,
            "processes": trainer.world_size,
            "device": "GPU" if on_gpu else "CPU",
            "peak_memory": torch.cuda.max_memory_allocated() if on_gpu else resident_peak(),
        }
        if trainer.is_global_zero:
            self.folder.add_cost(row)


def processor_seconds() -> dict[int | None, float]:
    """Of this process with its threads, and of its loader processes."""
    loaders = [child.pid for child in multiprocessing.active_children()]
    return {os.getpid(): time.process_time(), **{pid: _seconds_of(pid) for pid in loaders}}


def _seconds_of(pid: int | None) -> float:
    """Of another process, as Linux tells it; 0 elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_peak() -> int:
    """Bytes that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
