"""The loaders' benchmark runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import loaders as benchmark


@pytest.mark.nightly
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = "CIFAR, 2 x 32"
    monkeypatch.setattr(benchmark, "CASES", {case: benchmark.CASES[case]})
    arguments = ["--tiny", "--threads", "1", "--repeats", "1", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["loaders", *arguments])
    benchmark.main()
    output = capsys.readouterr().out
    assert "| case | loader | images per second | torchvision, 2 workers = 1 |" in output
    assert f"| {case} | tensor |" in output
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["images"] == 32
    assert set(result["seconds"]) >= {"torchvision, 0 workers", "torchvision, 2 workers", "tensor"}
    assert all(len(times) == 1 and times[0] > 0 for times in result["seconds"].values())
    assert set(result["microseconds"]["tensor"]) == {"decode once", "decide", "augment"}


@pytest.mark.parametrize("name", benchmark.CASES)
def test_every_case_is_a_recipe(name: str, tmp_path: Path) -> None:
    case = replace(benchmark.CASES[name], images=16, batch_size=8)
    folder = benchmark.pictures(tmp_path, 20, case.size or (8, 8))
    data = benchmark.data_of(case, "tensor" if "tensor" in case.loaders else "torchvision, 0 workers", folder)
    assert len(data.train_set) == 16
    assert benchmark.epoch_of(data)() == 16
