"""What is read of Lightning's private state means what it is read for.

Where Lightning breaks one, what to mend is in ``solo_bam/train/lightning_state.py`` alone. ``make test-oldest`` runs them on
the oldest Lightning, ``make check`` on the newest; each passed on 2.1.0, 2.2.5, 2.3.3, 2.4.0, 2.5.6 and 2.6.6.

| read | tested by |
|---|---|
| ``trainer._logger_connector.should_update_logs`` | ``test_logs_this_step`` |
| ``trainer.strategy.launcher.procs`` | ``test_started_processes`` |
| ``trainer.strategy._timeout`` | ``test_set_timeout`` |
| ``checkpoint["loops"]["fit_loop"]["epoch_progress"]`` | ``test_trained_epochs``, ``test_put_between_batches`` |
| ``checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]`` | ``test_put_between_batches`` |
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

import solo_bam
from solo_bam.runs import log
from solo_bam.train.lightning_state import (
    logs_this_step,
    put_between_batches,
    set_timeout,
    started_processes,
    trained_epochs,
)
from solo_bam.train.logger import LineLogger

# Of a trainer, loop, module or checkpoint of Lightning: names that it does not document, as attributes or as text.
_PRIVATE = {
    "_results", "_logger_connector", "_checkpoint_connector", "_data_connector", "_callback_connector", "epoch_loop",
    "batch_progress", "epoch_progress", "fit_loop", "procs", "_current_fx_name", "_active_loop", "_accelerator_connector", "_fabric", "_batches_that_stepped", "_timeout",
}  # fmt: skip


class Logging(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = super().training_step(batch, batch_idx)
        self.log("loss", out["loss"])
        return out


class Asked(pl.Callback):
    """At which steps :func:`logs_this_step` said so; what a checkpoint in mid-epoch holds."""

    def __init__(self) -> None:
        self.due: list[int] = []
        self.loops: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if logs_this_step(trainer):
            self.due.append(trainer.global_step)
        if trainer.global_step == 5:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "mid.ckpt", weights_only=False)


def fit(folder: Path, every: int, **arguments: Any) -> Asked:
    asked = Asked()
    trainer = pl.Trainer(
        max_epochs=2, limit_train_batches=4, limit_val_batches=1, accelerator="cpu", logger=LineLogger(folder),
        callbacks=[asked], log_every_n_steps=every, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **arguments,
    )  # fmt: skip
    trainer.fit(Logging())
    trainer.save_checkpoint(folder / "end.ckpt", weights_only=False)
    return asked


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_logs_this_step(every: int, accumulated: int, tmp_path: Path) -> None:
    """``trainer._logger_connector.should_update_logs``."""
    asked = fit(tmp_path, every, accumulate_grad_batches=accumulated)
    rows = [int(row["step"]) for path in log.starts(tmp_path) for row in log.metrics(path) if "loss" in row]
    assert list(dict.fromkeys(asked.due)) == rows
    assert rows


def test_started_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``trainer.strategy.launcher.procs``: the very list that Lightning's watch over the processes reads."""
    common: dict[str, Any] = {"accelerator": "cpu", "logger": False, "default_root_dir": tmp_path}
    assert started_processes(pl.Trainer(devices=1, **common)) == []
    trainer = pl.Trainer(devices=3, strategy="ddp", **common)
    popen, started = subprocess.Popen, []

    def start(*_: Any, **__: Any) -> subprocess.Popen[bytes]:
        started.append(popen([sys.executable, "-c", ""]))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    assert trainer.strategy.launcher is not None
    trainer.strategy.launcher.launch(lambda: None, trainer=trainer)
    assert started_processes(trainer) == started
    assert len(started) == 2
    assert [process.wait() for process in started] == [0, 0]


def test_trained_epochs(tmp_path: Path) -> None:
    """``checkpoint["loops"]["fit_loop"]["epoch_progress"]``: whole epochs, in mid-epoch and at the end of one."""
    fit(tmp_path, 1)
    assert trained_epochs(torch.load(tmp_path / "mid.ckpt", weights_only=False)) == 1
    assert trained_epochs(torch.load(tmp_path / "end.ckpt", weights_only=False)) == 2


def test_put_between_batches(tmp_path: Path) -> None:
    """``checkpoint["loops"]["fit_loop"]``: a run that goes on from there trains on with the next batch."""
    fit(tmp_path, 1)
    path = tmp_path / "mid.ckpt"
    content = torch.load(path, weights_only=False)
    counts = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert (counts["ready"], counts["completed"]) == (2, 1)
    put_between_batches(content, 1)
    assert set(counts.values()) == {1}
    torch.save(content, path)
    seen: list[tuple[int, int]] = []

    class Seen(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append((trainer.current_epoch, batch_idx))

    trainer = pl.Trainer(
        max_epochs=3, limit_train_batches=4, limit_val_batches=1, accelerator="cpu", logger=False, callbacks=[Seen()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Logging(), ckpt_path=str(path))
    assert seen == [(1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_nothing_else_looks_behind_lightnings_interface() -> None:
    root = Path(solo_bam.__file__).parent
    assert {
        f"{path.relative_to(root)}: {name}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (name := getattr(node, "attr", getattr(node, "value", None))) in _PRIVATE
    } == {
        f"train/lightning_state.py: {name}"
        for name in ("_logger_connector", "procs", "fit_loop", "epoch_progress", "_timeout")
    }


def test_set_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """``trainer.strategy._timeout``: it reaches the process group."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **given: asked.update(given))
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    set_timeout(trainer, 7)
    trainer.strategy.setup_environment()
    assert asked["timeout"].total_seconds() == 7
    set_timeout(
        pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), 7
    )  # one process waits for nobody
