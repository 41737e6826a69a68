"""The training step's benchmark runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import beside
from benchmarks import step as benchmark
from solo_bam.methods import views


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tiny", "--threads", "1", "--repeats", "1", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["step", *arguments])
    benchmark.main()
    output = capsys.readouterr().out
    assert "| case | method | images per second | bam faster by | bam_momentum faster by |" in output
    assert (
        "| method | step alone | Lightning alone | beside it, Lightning's log | beside it | beside it, median |"
        in output
    )
    result, empty = json.loads((tmp_path / "out.json").read_text())["results"]
    assert set(result["seconds"]) == {*benchmark.METHODS, "loss"}
    assert len(result["multi-crop seconds"]) == 4
    times = [*result["seconds"].values(), *result["multi-crop seconds"].values()]
    assert all(len(each) == 1 and each[0] > 0 for each in times)
    for found in empty["milliseconds"].values():
        assert list(map(len, found.values())) == [1] * 5
    assert list(empty["milliseconds"]) == list(benchmark.METHODS)


@pytest.mark.parametrize("method", benchmark.METHODS)
def test_a_step_trains(method: str) -> None:
    setting = benchmark.Setting(8, "cpu", "bf16-mixed", compiled=False, heads=(32, 16))
    recipe = benchmark.recipe_of(benchmark.TINY["tiny"], method, 0, setting)
    model = benchmark.model_of(recipe, setting)
    assert any(32 in value.shape for name, value in model.named_parameters() if "backbone" not in name)
    before = {name: value.clone() for name, value in model.named_parameters()}
    step = benchmark.step_of(model, benchmark.batch_of(recipe, setting), setting)
    step()
    step()  # a teacher follows once the student has moved
    networks = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert networks >= {name.split(".")[0] for name in before} - {"classifier"}


def test_crop_by_crop_forwards_each_crop() -> None:
    setting = benchmark.Setting(8, "cpu", "32", compiled=False)
    recipe = benchmark.recipe_of(benchmark.TINY["tiny"], "bam", 6, setting)
    model = benchmark.model_of(recipe, setting)
    step = benchmark.step_of(model, benchmark.batch_of(recipe, setting), setting)
    seen: list[int] = []
    model.backbone.register_forward_hook(lambda _, images, __: seen.append(len(images[0])))  # type: ignore[union-attr]
    step()
    assert seen == [16, 48]
    benchmark.crop_by_crop(step)()
    assert seen[2:] == [8] * 8
    assert views.by_size.__name__ == "by_size"


def test_a_slow_step_among_many_counts_beside_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Means over steps: logging comes every 50th, which a median does not see."""
    monkeypatch.setattr(beside, "alone", lambda *_: [1.0, 1.0, 1.0])
    monkeypatch.setattr(beside, "trained", lambda *_: [2.0, 2.0, 8.0])
    found = beside.beside("bam", "cpu", lambda *_: lambda: None, rounds=1)
    assert found[beside.AS_IT_IS] == [3.0]
    assert found["beside it, median"] == [1.0]
