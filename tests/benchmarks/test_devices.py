"""What the benchmarks measure, they measure on the device that is asked for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import knn, loaders, loss, step


class Asked(Exception):
    """With what a measurement was asked for."""


def asked(*arguments: Any, **more: Any) -> None:
    raise Asked(*arguments, *more.values())


@pytest.mark.parametrize("benchmark", [loss, knn, loaders, step])
def test_a_measurement_is_told_the_device(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "measure", asked)
    monkeypatch.setattr(sys, "argv", ["it", "--tiny", "--device", "cuda"])
    with pytest.raises(Asked) as found:
        benchmark.main()
    assert "cuda" in [getattr(each, "device", each) for each in found.value.args]


def test_the_large_loss_is_measured_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(loss, "TINY", loss.TINY[:1])
    monkeypatch.setattr(loss, "machine", lambda device: {})
    monkeypatch.setattr(loss, "peak_memory", lambda *args: told.append(args) or 1)
    monkeypatch.setattr(loss, "side_by_side", lambda functions, _, device, *clock: {name: [1.0] for name in functions})
    monkeypatch.setattr(loss, "make", lambda *args: told.append(args))
    monkeypatch.setattr(sys, "argv", ["loss", "--tiny", "--large", "--device", "cuda"])
    loss.main()
    assert ("solo-bam", loss.LARGE, "cuda") in told
    assert {device for _, _, device in told} == {"cuda"}


@pytest.mark.parametrize("benchmark", [loss, knn])
def test_memory_of_a_gpu_is_counted_in_this_process(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of CUDA for each implementation takes minutes."""
    monkeypatch.setattr(benchmark, "_peak", lambda *_: 7)  # no other process could be given it
    assert benchmark.peak_memory("solo-bam", benchmark.TINY[0], "cuda") == 7


def test_images_in_memory_are_held_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one that has shapes and no data."""
    given: list[str] = []

    def load(name: str, overrides: list[str]) -> Any:
        given.extend(overrides)
        return ordinary(name, [each for each in overrides if each != "accelerator=meta"])

    ordinary = loaders.load_recipe
    monkeypatch.setattr(loaders, "load_recipe", load)
    case = replace(loaders.CASES["CIFAR, 2 x 32"], images=16, batch_size=8)
    data = loaders.data_of(case, "tensor", loaders.pictures(tmp_path, 16, (8, 8)), "meta")
    assert data.train_set.pixels.device.type == "meta"  # type: ignore[union-attr]
    assert "accelerator=meta" in given


def test_some_methods_are_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "measure", asked)
    monkeypatch.setattr(sys, "argv", ["step", "--tiny", "--methods", "byol"])
    with pytest.raises(Asked) as found:
        step.main()
    assert found.value.args[-1] == ["byol"]
