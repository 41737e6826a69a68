"""The script for the first minutes on a GPU, on a CPU: what it writes, and what survives a stop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import Process
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import speedrun
from benchmarks import step as step_benchmark
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import steps
from benchmarks.gpu.steps import STEPS
from solo_bam.config import load_recipe

COMMANDS = ("tests", "fit", "speedrun")  # steps that start some, a minute in all


def test_every_step_of_the_plan_is_there() -> None:
    assert [step.name for step in gpu.PLAN] == list(dict.fromkeys(step.name for step in gpu.PLAN))
    assert {step.name for step in gpu.PLAN} == set(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [COMMANDS, pytest.param((), marks=pytest.mark.nightly)], ids=["steps", "all"])
def test_a_cpu_runs_the_plan(left_out: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # C++ of a minute's work; tests/train/test_performance.py has it compiled.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    names = [step.name for step in gpu.PLAN if step.name not in left_out]
    only = ["--only", *names] if left_out else []
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), *only]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results) == names
    assert all(len(result) > 1 and not {"failed", "skipped"} & result.keys() for result in results.values())
    errors = [error for pair in results["loss"]["relative errors"].values() for error in pair]
    assert 0 < max(errors) < 0.02
    for method in step_benchmark.METHODS:
        assert results["waits"][method] == []
        parts = results["step"][f"{method}, batch 8"]["parts_ms"]
        assert min(parts.values()) > 0
    assert results["knn"]["tiny, k 20"]["median_ms"] > 0
    if not left_out:
        assert min(results["fit"]["bam"]["images_per_s"]) > 0
        assert 10 < results["speedrun"]["means"]["k-NN, k 20"] <= 100
    headings = [line for line in (tmp_path / "gpu.md").read_text().splitlines() if line.startswith("#")]
    assert headings == [f"## {name}" for name in results]
    trace = tmp_path / "trace.json"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::convolution_backward", "aten::addmm"} <= names
    assert trace.stat().st_size < 5e6


@pytest.mark.parametrize("recipe", ["speedrun/simclr", "speedrun/bam"])
def test_a_speedrun_has_a_small_form(recipe: str) -> None:
    whole, small = load_recipe(recipe), load_recipe(recipe, [*speedrun._TINY])
    assert small.method_kwargs == whole.method_kwargs
    assert small.max_epochs * small.data.fraction * 100 <= whole.max_epochs


@pytest.mark.parametrize(("touched", "method"), [(False, "fork"), (True, "spawn")])
def test_a_driver_that_was_asked_something_is_not_forked(
    touched: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: touched)
    assert gpu._start_method("cuda") == method


def test_a_step_that_hangs_or_fails_is_told_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEPS, "loss", lambda _: time.sleep(60))
    monkeypatch.setattr(gpu, "PLAN", [gpu.Step("loss", 1, 0.1), gpu.Step("environment", 1, 60)])
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["loss"]["failed"] == "not done after 0 s"
    assert "torch" in results["environment"]


@pytest.mark.parametrize("way", ["hangs", "ends", "fails"])
def test_a_stop_keeps_each_value_and_ends_all_that_runs(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(_: gpu.Where) -> steps.Rows:
        behind = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Process(target=time.sleep, args=(60,)).start()  # multiprocessing waits for it, and it holds the pipe
        yield "first", behind.pid
        if way == "hangs":
            time.sleep(60)
        if way == "fails":
            raise ValueError("on purpose")

    monkeypatch.setitem(STEPS, "loss", step)
    result: dict[str, Any] = {}
    kept: list[dict[str, Any]] = []
    limit = 2 if way == "hangs" else 30
    gpu._run(
        gpu.Step("loss", 1, 1), gpu.Where("cpu", True, None, tmp_path), limit, result, lambda: kept.append(dict(result))
    )
    assert [list(each) for each in kept] == [["first"]]
    assert result.get("failed") == {"hangs": "not done after 2 s", "fails": 1, "ends": None}[way]
    assert result["seconds"] < limit + 5
    assert ("ValueError: on purpose" in result.get("said", "")) == (way == "fails")
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


@pytest.mark.parametrize(("device", "kept"), [("A", True), ("B", False)])
def test_asking_for_some_steps_keeps_the_others_results_of_the_same_device(
    device: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"environment": {"device": "A", "date": 1}, "step": {"bam": 1}, "knn": {"failed": 1}}
    (tmp_path / "gpu.json").write_text(json.dumps(before))
    now = {"environment": {"device": device, "date": 2}, "knn": {"found": 2}}
    monkeypatch.setattr(gpu, "_run", lambda step, where, limit, result, keep: result.update(now[step.name]))
    assert gpu.main(["--device", "cpu", "--tiny", "--only", "knn", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text()) == now | ({"step": {"bam": 1}} if kept else {})
    assert [json.loads(path.read_text()) for path in tmp_path.glob("gpu-*.json")] == ([] if kept else [before])


def test_the_tests_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = dict(STEPS["tests"](gpu.Where("cpu", True, None, tmp_path)))
    assert "skipped" in found["last"] or "passed" in found["last"]
    assert len(found) > 20


def test_results_of_an_earlier_run_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps({"step": {"bam": 1}}))
    monkeypatch.setattr(gpu, "_run", lambda step, where, limit, result, keep: result.update(found=2))
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    [aside] = tmp_path.glob("gpu-*.json")
    assert json.loads(aside.read_text()) == {"step": {"bam": 1}}
