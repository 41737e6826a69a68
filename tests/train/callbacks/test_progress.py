"""The bar is drawn as often as one can see it, and says the loss of the last step."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from solo_bam.train.callbacks import progress
from solo_bam.train.run import pretrain
from tests.recipes import tiny


@pytest.mark.parametrize(("seconds", "drawn"), [(0.0, 4), (1e6, 2)])
def test_how_often_it_is_drawn(
    seconds: float, drawn: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", seconds)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 2e6)
    calls: list[int] = []
    ordinary = TQDMProgressBar.on_train_batch_end
    monkeypatch.setattr(
        TQDMProgressBar, "on_train_batch_end", lambda self, *args: (calls.append(args[-1]), ordinary(self, *args))[1]
    )
    own = ["enable_progress_bar=True", "backbone.name=test_resnet", "log_every_n_steps=10"]
    trained = pretrain(tiny(tmp_path, "digits/bam", *own))
    assert len(calls) == drawn
    assert calls[-1] == 3
    assert f"bam_loss={trained.metrics['bam_loss_step']:.3g}"[:13] in capsys.readouterr().out
