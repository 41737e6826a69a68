"""A loss that is not finite, beside a gradient scaler, whose own overflows are no failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from solo_bam.core.errors import UserError
from solo_bam.train.callbacks import NonFiniteLoss


class Half(pl.LightningModule):
    """A loss in float16, times what a batch says, with a gradient that overflows where it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.skipped: list[bool] = []

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        loss = (3 * self.weight.half().sum()) * batch[0].half()
        if batch[1]:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        before = self.weight.detach().clone()
        super().optimizer_step(*args, **kwargs)
        self.skipped.append(torch.equal(self.weight, before))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def fit(tmp_path: Path, *batches: tuple[float, float], scale: float = 2.0**12) -> Half:
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=scale)
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "default_root_dir": tmp_path, "accelerator": "cpu", "devices": 1}
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = pl.Trainer(max_epochs=1, callbacks=[NonFiniteLoss()], plugins=[precision], **quiet)
    model = Half()
    trainer.fit(model, DataLoader(torch.tensor(batches), batch_size=None))  # type: ignore[arg-type]
    return model


def test_a_scaled_loss_that_no_number_holds_is_no_failure(tmp_path: Path) -> None:
    """The scaler, which doubles its scale as long as all goes well, lowers it again."""
    assert fit(tmp_path, *[(1.0, 0.0)] * 4, scale=2.0**127).skipped == [True] * 4
    assert fit(tmp_path, *[(1.0, 0.0)] * 4, scale=2.0**15).skipped == [True, False, False, False]


def test_a_gradient_that_overflows_is_the_scalers_to_skip(tmp_path: Path) -> None:
    assert fit(tmp_path, (0.1, 0.0), (0.1, 1.0), (0.1, 0.0)).skipped == [False, True, False]


def test_a_loss_that_is_not_finite_is_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss became nan at step 1 \(epoch 0\)"):
        fit(tmp_path, (0.1, 0.0), (float("nan"), 0.0))
