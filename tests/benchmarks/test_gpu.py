"""The script for the first minutes on a GPU, on a CPU: what it writes, and what survives a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.steps import STEPS


def test_every_step_of_the_plan_is_there() -> None:
    assert [step.name for step in gpu.PLAN] == list(dict.fromkeys(step.name for step in gpu.PLAN))
    assert {step.name for step in gpu.PLAN} == set(STEPS)


def test_results_are_written_after_every_step(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--only", "environment", "loss", "knn", "--out", str(tmp_path)]
    assert gpu.main(words) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results) == ["environment", "loss", "knn"]
    errors = [error for pair in results["loss"]["relative errors"].values() for error in pair]
    assert 0 < max(errors) < 0.02
    assert results["knn"]["tiny, k 20"]["median_ms"] > 0
    assert "## loss" in (tmp_path / "gpu.md").read_text()


def test_a_step_that_hangs_or_fails_is_told_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [gpu.Step("loss", 1, 0.1), gpu.Step("environment", 1, 60)]
    monkeypatch.setattr(gpu, "PLAN", steps)
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["loss"]["failed"] == "not done after 0 s"
    assert "torch" in results["environment"]
