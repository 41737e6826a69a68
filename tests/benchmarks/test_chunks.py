"""The benchmark of chunked batches runs."""

from __future__ import annotations

import sys

import pytest

from benchmarks import chunks as benchmark


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--recipe digits/bam --chunk 4 --batches 8 --repeats 1 backbone.name=test_resnet backbone.cifar_stem=False"
    monkeypatch.setattr(sys, "argv", ["chunks", *words.split()])
    benchmark.main()
    assert "| batch | chunked step | whole step | chunked / whole |" in capsys.readouterr().out
