"""A misspelt name is answered with the nearest one, in one line, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from solo_bam.cli import main

RECIPE = ["pretrain", "--config-name", "digits/bam"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pretrian"], "pretrain"),
        ([*RECIPE, "--resumme"], "--resume"),
        (["pretrain", "--config-nam", "digits/bam", "--dryrun"], "--dry-run"),
        (["pretrain", "digits/bam"], "--config-name digits/bam"),
        (["pretrain", "--config-name", "digits/bma"], "digits/bam"),
        ([*RECIPE, "optimzer.lr=1"], "optimizer"),
        ([*RECIPE, "optimizer.lrr=1"], "lr"),
        ([*RECIPE, "max_epoch=1"], "max_epochs"),
        ([*RECIPE, "data.dataset=cifer10"], "cifar10"),
        ([*RECIPE, "optimizer.name=adammw"], "adamw"),
        ([*RECIPE, "method=bamm"], "bam"),
        ([*RECIPE, "backbone.name=resnet81"], "resnet18"),
        ([*RECIPE, "method_kwargs.rge=1"], "reg"),
        (["compare", "qick"], "quick"),
        (["linear", "--config-name", "digits/liner"], "digits/linear"),
        (["plot", "curvs", "RUN"], "curves"),
        (["zoo", "lsit"], "list"),
        (["knn", "trained_models/bam/bam-digits-1243"], "trained_models/bam/bam-digits-1234"),
        (["health", "bam-digits-1234"], "trained_models/bam/bam-digits-1234"),
        (["export", "trained_models/bam/bam-digits-1234/checkpoints/epoch=19.ckp"], "epoch=19.ckpt"),
        (["knn", "trained_models/bam/bam-digits-1234", "distanc=cosine"], "distance"),
        (["doctor", "digits/bam", "device=h10"], "h100"),
    ],
)  # fmt: skip
def test_the_nearest_is_told(words: list[str], meant: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "trained_models" / "bam" / "bam-digits-1234"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for name in ("epoch=19.ckpt", "last.ckpt"):
        (run / "checkpoints" / name).write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    told = capsys.readouterr()
    assert f"{meant}?)" in told.err
    assert "(did you mean " in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
