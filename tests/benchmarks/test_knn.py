"""The k-NN's benchmark: both sides answer alike, and it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import knn as benchmark


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("features", ["classes", "positive"])
@pytest.mark.parametrize("k", [20, 60])
def test_both_answer_alike(distance: str, features: str, k: int) -> None:
    """So many neighbours vote for five classes and more: theirs ranks those without a vote as it comes."""
    case = benchmark.Case(distance, k, bank=3000, queries=500, D=64, features=features)
    mine, other = (benchmark.make(name, case)() for name in ("solo-bam", "solo-learn"))
    assert mine == pytest.approx(other, abs=0.2 + 1e-9)  # one image: their exp is of float32
    assert mine[0] < mine[1]


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "TINY", benchmark.TINY[1:2])
    monkeypatch.setattr(benchmark, "peak_memory", benchmark._peak)  # a fresh process takes seconds to import torch
    monkeypatch.setattr(
        sys, "argv", ["knn", "--tiny", "--threads", "1", "--repeats", "1", "--out", str(tmp_path / "o")]
    )
    benchmark.main()
    assert "| case | solo-learn / solo-bam |" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "o").read_text())["results"]
    assert set(result["seconds"]) == set(benchmark.IMPLEMENTATIONS)
    assert all(bytes_ >= 0 for bytes_ in result["peak_bytes"].values())
