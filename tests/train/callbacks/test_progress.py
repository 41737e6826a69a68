"""The bar is drawn as often as one can see it, and says the loss of the last step; a log file has lines, a pipe nothing."""

from __future__ import annotations

import os
import re
import sys
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
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    calls: list[int] = []
    ordinary = TQDMProgressBar.on_train_batch_end
    monkeypatch.setattr(
        TQDMProgressBar, "on_train_batch_end", lambda self, *args: (calls.append(args[-1]), ordinary(self, *args))[1]
    )
    own = ["enable_progress_bar=True", "backbone.name=test_resnet", "log_every_n_steps=10"]
    trained = pretrain(tiny(tmp_path, "digits/bam", *own))
    assert len(calls) == drawn
    assert calls[-1] == 3
    shown = capsys.readouterr().out
    assert f"bam_loss={trained.metrics['bam_loss_step']:.3g}"[:13] in shown
    assert "Sanity" not in shown


def test_a_log_file_has_a_line_for_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        pretrain(tiny(tmp_path / "runs", "digits/bam", "max_epochs=2", "enable_progress_bar=True", "pictures=False"))
    first, second = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r"epoch 1 of 2, bam_loss \d\.\d+, \d:\d\d:\d\d left", first)
    assert re.fullmatch(r"epoch 2 of 2, bam_loss \d\.\d+, 0:00:00 left", second)


def test_a_pipe_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        pretrain(tiny(tmp_path, "digits/bam", "enable_progress_bar=True", "pictures=False"))
    with os.fdopen(reading) as other_end:
        assert other_end.read() == ""
