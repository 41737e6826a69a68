"""Checkpoints: whole or not at all, between two batches, at each epoch's end and when the run is told to stop.

A checkpoint is saved when the next batch is about to start, so everything that the batches before have
logged and changed (the teacher's update comes last) is done. Lightning's counters are put down as they are
between two batches. In mid-epoch it also holds the online k-NN's bank so far, for each process; the sums behind
the epoch's means are :class:`solo_bam.train.callbacks.means.EpochMeans`'s.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from solo_bam.core import collectives, hardware
from solo_bam.core.errors import Stopped, UserError
from solo_bam.core.files import PART
from solo_bam.runs.folder import RunFolder
from solo_bam.train.lightning_state import put_between_batches

_KNN = ("train_features", "train_targets")
_SECONDS_TO_STOP = 2.0  # in which several processes on accelerators hear of a signal


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it: it is there whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            UserError: it cannot be written, for instance because the disk is full; ``path`` is as it was.
        """
        path = Path(path)
        part = path.with_name(path.name + PART)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as out:
                torch.save(checkpoint, out)
                out.flush()
                os.fsync(out.fileno())
            part.replace(path)
            _flush_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch's writer turns some of the first into the second
            part.unlink(missing_ok=True)
            reason = _os_reason(error)
            if reason is None:
                raise
            raise UserError(
                "checkpoint.dir", f"{path} cannot be written ({reason})", "make room, then continue with --resume"
            ) from None


def _os_reason(error: BaseException | None) -> str | None:
    """What the system said, looked for in an exception and what it was raised from."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return None


def _flush_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where the system offers it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class CheckpointWriter(Checkpoint):
    """Saves a run's checkpoints and lets it go on from one exactly.

    On SIGTERM, on Ctrl-C, and on SIGUSR1 in a SLURM job, the run is saved at the next batch and stopped; several
    processes on accelerators agree on it every two seconds or so.

    Args:
        run: its folder.
        every: epochs between two checkpoints; the last is always saved.
        keep_all: keep all epochs' checkpoints, not the newest two alone.
    """

    def __init__(self, run: RunFolder, every: int = 1, keep_all: bool = False):
        self.run, self.every, self.keep_all = run, every, keep_all
        self.last_model_path = self._newest = ""
        self.metrics: dict[str, float] = {}
        self._told: signal.Signals | None = None
        self._saved_at = -1
        self._position: dict[str, Any] | None = None  # of the checkpoint that is being saved
        self._so_far: dict[str, Any] | None = None  # of the checkpoint that the run goes on from
        self._vote_every, self._steps_to_vote, self._voted_at = 1, 1, 0.0

    # ------------------------------------------------------------------------------------------ when

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals; where the run goes on in mid-epoch, let the loader start there."""
        self._saved_at = trainer.global_step
        if trainer.ckpt_path is not None:
            self.last_model_path = self._newest = str(trainer.ckpt_path)
        if trainer.is_global_zero:
            self.run.remove_parts()
            if trainer.ckpt_path is not None:
                self.run.set_aside_newer(Path(trainer.ckpt_path))
        if threading.current_thread() is threading.main_thread():
            for number in _stop_signals():
                signal.signal(number, self._note)  # Lightning puts the former handlers back
        if self._so_far is not None:
            trainer.datamodule.start_at(self._so_far["batch"])  # type: ignore[attr-defined]

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self._told is not None:
                raise KeyboardInterrupt
            rank_zero_info("\nSaving at the next batch; Ctrl-C again ends it without.")
        self._told = signal.Signals(number)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save the epoch before this batch, or this very place where the run has to stop."""
        self._go_on(trainer, pl_module)
        epochs = trainer.current_epoch
        if batch_idx == 0 and epochs % self.every == 0 and self._saved_at < trainer.global_step:
            self._save(trainer, f"epoch={epochs - 1}", batch=0)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_told(trainer, batch_idx)

    def _stop_if_told(self, trainer: pl.Trainer, batch_idx: int) -> None:
        if not self._somebody_is_told(trainer.strategy.root_device):
            return
        if self._saved_at < trainer.global_step:
            place = f"epoch={trainer.current_epoch}-step={trainer.global_step}" if batch_idx else None
            self._save(trainer, place or f"epoch={trainer.current_epoch - 1}", batch_idx)
        name = "a signal" if self._told is None else self._told.name
        kept = f"saved in {self._newest}" if self._newest else "before its first step"
        raise Stopped(f"stopped by {name} at step {trainer.global_step}, {kept}", self._told or signal.SIGTERM)

    def _somebody_is_told(self, device: torch.device) -> bool:
        """Ask all processes; on accelerators, where to ask is to wait for the device, every two seconds or so."""
        if not collectives.is_distributed():
            return self._told is not None
        self._steps_to_vote -= 1
        if self._steps_to_vote > 0:
            return False
        now = time.monotonic()
        own = torch.tensor([float(self._told is not None), now - self._voted_at], device=device)
        told, seconds = collectives.gather(own).cpu().unbind(1)
        if hardware.reading_waits(device):
            # All take the same next step from the same numbers: the seconds of the slowest since the last vote.
            self._vote_every = steps_between_votes(self._vote_every, float(seconds.max()))
        self._steps_to_vote, self._voted_at = self._vote_every, now
        return bool(told.any())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end."""
        if self._saved_at < trainer.global_step:
            whole = trainer.is_last_batch
            self._save(
                trainer, f"epoch={trainer.current_epoch - 1}" + ("" if whole else f"-step={trainer.global_step}")
            )

    def _save(self, trainer: pl.Trainer, name: str, batch: int | None = None) -> None:
        """Save as ``name``; ``batch``: of the epoch, that is about to start."""
        path = self.run.checkpoints / f"{name}.ckpt"
        self._position = {"batch": batch, "processes": trainer.world_size}
        try:
            trainer.save_checkpoint(path, weights_only=False)
        finally:
            self._position = None
        if trainer.is_global_zero:
            self.run.link_last(path)
            self.run.remove_older(2, self.keep_all)
        self._newest, self._saved_at = str(path), trainer.global_step
        self.last_model_path = str(self.run.last_checkpoint)

    # ------------------------------------------------------------------------------------------ what

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the place; all processes take part."""
        self.metrics |= {key: float(value) for key, value in trainer.callback_metrics.items()}
        if self._position is None:
            return
        batch = self._position["batch"]
        checkpoint["epoch"] = trainer.current_epoch - 1  # the last one that is whole
        if batch is not None:
            put_between_batches(checkpoint, batch)
        here = {"knn": _bank(pl_module)} if batch else {}
        checkpoint["place"] = {
            **self._position,
            "metrics": dict(self.metrics),
            "so_far": collectives.gather_objects(here) if batch else None,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up the place."""
        place = checkpoint.get("place")
        if place is None:
            return
        self.metrics = dict(place["metrics"])
        if place["so_far"] is not None:
            self._so_far = {"batch": place["batch"], **place["so_far"][trainer.global_rank]}

    def _go_on(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the first batch after a stop in mid-epoch: what the epoch's start and the batches before had set."""
        if self._so_far is None:
            return
        pl_module.on_train_epoch_start()  # Lightning calls it at an epoch's very start alone
        for name, tensor in self._so_far["knn"].items():
            setattr(pl_module.knn, name, [tensor.to(pl_module.device)])
        self._so_far = None


def steps_between_votes(steps: int, seconds: float) -> int:
    """How many take about :data:`_SECONDS_TO_STOP`, at most twice as many as the last time, which took ``seconds``."""
    return max(1, min(2 * steps, int(steps * _SECONDS_TO_STOP / max(seconds, 1e-3)), hardware.READ_EVERY))


def _stop_signals() -> list[signal.Signals]:
    """SIGTERM, Ctrl-C, and in a SLURM job the signal that Lightning's users let SLURM send before the time is up."""
    return [signal.SIGTERM, signal.SIGINT] + ([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])


def _bank(pl_module: pl.LightningModule) -> dict[str, Tensor]:
    """The online k-NN's bank of this epoch so far, where there is one."""
    knn = getattr(pl_module, "knn", None)
    banks = {name: getattr(knn, name, None) for name in _KNN}
    return {name: torch.cat(parts).cpu() for name, parts in banks.items() if parts}
