"""The script for the first minutes on a GPU, on a CPU: what it writes, and what survives a stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import steps
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


def test_a_stop_keeps_each_value_and_ends_all_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks" / "gpu").mkdir(parents=True)
    for package in ("benchmarks", "benchmarks/gpu"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "benchmarks" / "gpu" / "__main__.py").write_text(
        "import subprocess, sys, time\n"
        "behind = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('RESULT {\"first\": %d}' % behind.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path)
    where = gpu.Where("cpu", True, None, tmp_path)
    result: dict[str, Any] = {}
    kept: list[dict[str, Any]] = []
    gpu._run(gpu.Step("loss", 1, 1), where, 6, result, lambda: kept.append(dict(result)))
    assert [list(each) for each in kept] == [["first"]]
    assert result["failed"] == "not done after 6 s"
    deadline = time.monotonic() + 30
    while _runs(result["first"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_each_search_of_neighbors_sees_the_whole_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def twice(search: Any, *_: Any) -> dict[str, float]:
        found.append((search().positions, search().positions))
        return {}

    monkeypatch.setattr(steps, "clocked", twice)
    assert len(list(steps.knn(gpu.Where("cpu", True, None, tmp_path)))) == 2
    assert all(torch.equal(first, second) for first, second in found)


def test_asking_for_some_steps_keeps_the_others_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps({"step": {"bam": 1}, "knn": {"failed": 1}}))
    monkeypatch.setattr(gpu, "_run", lambda step, where, limit, result, keep: result.update(found=2))
    assert gpu.main(["--device", "cpu", "--tiny", "--only", "knn", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text()) == {"step": {"bam": 1}, "knn": {"found": 2}}
