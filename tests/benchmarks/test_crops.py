"""The benchmark of crops runs, of this code against the last commit's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import crops as benchmark
from tests.zygote import ROOT


@pytest.mark.nightly
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository's history")
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["crops", "--tiny", "--against", "HEAD", "--out", str(tmp_path / "out.json")])
    benchmark.main()
    assert "| recipe, batch | operations of two images, old | new |" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert 0 < found["operations"]["new"] < 120
    assert [len(times) for times in found["seconds"].values()] == [1, 1]
