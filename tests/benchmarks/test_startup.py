"""The start-up's benchmark runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import startup


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["startup", "--tiny", "--repeats", "1", "--out", str(tmp_path / "o")])
    startup.main()
    assert "| solo-bam --help |" in capsys.readouterr().out
    (times,) = json.loads((tmp_path / "o").read_text())["seconds"].values()
    assert len(times) == 1
