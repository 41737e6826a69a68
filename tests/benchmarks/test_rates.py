"""The map of rates: one run per cell, none twice, collapsed ones marked."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks import rates
from solo_bam.methods.bam import BAM
from tests.recipes import tiny_overrides


def test_cells_are_trained_once_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BAM, "alike_below", 1.1)  # every training counts as collapsed
    small = [word for word in tiny_overrides(tmp_path, "max_epochs=2") if not word.startswith("checkpoint.dir")]
    results, figure = tmp_path / "rates.jsonl", tmp_path / "rates.png"
    words = [
        "digits/bam",
        "digits/simclr",
        "--times",
        "1",
        "1000",
        "--regs",
        "0.2:0.1",
        "--results",
        str(results),
        "--figure",
        str(figure),
    ]
    rates.main([*words, "--set", *small])
    rows = rates.read(results)
    assert [(row["recipe"], row["times"], row["reg"]) for row in rows] == [
        ("digits/bam", 1, "0.2:0.1"), ("digits/bam", 1000, "0.2:0.1"), ("digits/simclr", 1, None), ("digits/simclr", 1000, None)
    ]  # fmt: skip
    assert rows[1]["lr"] == 1000 * rows[0]["lr"]
    assert rows[0]["collapsed_in"] == 1
    assert figure.stat().st_size > 5000
    monkeypatch.setattr(rates, "_train", None)  # nothing is left to train
    rates.main(words)
