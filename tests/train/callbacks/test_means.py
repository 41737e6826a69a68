"""Lightning's ``log`` is called where something is read; what the loggers get is what Lightning would give them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from solo_bam.runs import log
from solo_bam.train import run
from solo_bam.train.callbacks import EpochMeans
from solo_bam.train.logger import LineLogger
from solo_bam.train.pretrain import without_known_warnings
from tests.recipes import tiny

STEPS = 5
SMALL = {"proj_hidden_dim": 8, "proj_output_dim": 4, "pred_hidden_dim": 8, "num_prototypes": 8}


class Everything(pl.LightningModule):
    """Logs in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.metric = MeanMetric()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log_dict({"loss": loss, "half": loss.bfloat16()}, on_epoch=True, sync_dist=True)
        self.log("mean", 2 * loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("rate", 0.1 * batch_idx)
        self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        self.metric(loss.detach())
        self.log("metric", self.metric, on_step=False, on_epoch=True)
        if batch_idx % 2:
            self.log("odd", float(batch_idx), on_epoch=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("tau", 0.5)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val", self.layer(batch).mean())

    def on_train_epoch_end(self) -> None:
        self.log("at the end", 7.0)


def fit(folder: Path, callbacks: list[pl.Callback], every: int, **arguments: Any) -> tuple[Any, dict[str, float]]:
    """The rows that the loggers got in two epochs, and ``callback_metrics``."""
    torch.manual_seed(0)
    model, batches = Everything(), DataLoader(torch.randn(4 * STEPS, 2), 4)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=LineLogger(folder), callbacks=callbacks, log_every_n_steps=every,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **arguments,
    )  # fmt: skip
    with without_known_warnings():
        trainer.fit(model, batches, batches)
    assert "log" not in vars(model)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return list(log.metrics(log.starts(folder)[0])), metrics


@pytest.mark.parametrize("every", [1, 2, 3, 50])
@pytest.mark.parametrize("arguments", [{}, {"accumulate_grad_batches": 2}, {"val_check_interval": 2}, {"max_steps": 7}])
def test_the_loggers_get_what_lightning_would_give_them(every: int, arguments: dict[str, Any], tmp_path: Path) -> None:
    rows, metrics = fit(tmp_path / "ours", [EpochMeans()], every, **arguments)
    expected, expected_metrics = fit(tmp_path / "lightning", [], every, **arguments)
    assert len(rows) == len(expected) > 2
    for row, other in zip([*rows, metrics], [*expected, expected_metrics]):
        for one in (row, other):  # which not every step logs: Lightning gives its last value to later rows, too
            one.pop("odd_step", None)
        assert row == pytest.approx(other, rel=1e-6)


class Counted(pl.Callback):
    """How often Lightning's own ``log`` ran in each training step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.in_steps: list[int] = []
        self.names: Counter[str] = Counter()
        ordinary = pl.LightningModule.log

        def counted(module: Any, name: str, *args: Any, **kwargs: Any) -> None:
            if self.in_steps and module.trainer.training:
                self.in_steps[-1] += 1
            self.names[name] += 1
            ordinary(module, name, *args, **kwargs)

        monkeypatch.setattr(pl.LightningModule, "log", counted)

    def on_train_batch_start(self, *_: Any) -> None:
        self.in_steps.append(0)

    def on_train_epoch_end(self, *_: Any) -> None:
        self.in_steps.append(0)


@pytest.mark.parametrize("method", ["bam", "bam_momentum", "simclr", "byol", "dino"])
def test_lightnings_log_runs_where_the_loggers_read_alone(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counted, ordinary = Counted(monkeypatch), run._callbacks
    monkeypatch.setattr(run, "_callbacks", lambda *args: [counted, *ordinary(*args)])
    decay = ["optimizer.weight_decay=0.1", "optimizer.weight_decay_end=0.2", "backbone.name=test_resnet"]
    recipe = tiny(tmp_path, f"digits/{method}", "log_every_n_steps=3", "limit_val_batches=0", *decay)
    recipe.method_kwargs |= {key: width for key, width in SMALL.items() if key in recipe.method_kwargs}
    trained = run.pretrain(recipe)
    first, second, third, fourth, _ = counted.in_steps
    assert (first, second, fourth) == (0, 0, 0)
    assert third >= 5
    (row,) = [row for row in trained.folder.metrics() if "train_acc1_step" in row]
    assert row["step"] == 2
    assert {name for name in counted.names if name.endswith("_step")} <= set(row)


def test_a_checkpoint_in_mid_epoch_holds_the_sums() -> None:
    from types import SimpleNamespace

    means, module, trainer = EpochMeans(), Everything(), SimpleNamespace(global_rank=0)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    means.on_fit_start(trainer, module)  # type: ignore[arg-type]
    means._in_step = True
    for value in (1 / 3, 0.1, 7.0):
        module.log("loss", torch.tensor(value), on_epoch=True)
        means.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
    checkpoint: dict[str, Any] = {}
    means.on_save_checkpoint(trainer, module, checkpoint)  # type: ignore[arg-type]
    other = EpochMeans()
    other.on_load_checkpoint(trainer, module, checkpoint)  # type: ignore[arg-type]
    assert other._means().keys() == {"loss"}
    assert torch.equal(other._means()["loss"], means._means()["loss"])
    assert other._asked == means._asked
