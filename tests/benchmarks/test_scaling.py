"""The scaling's benchmark: its model counts what is sent, and it runs."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmarks import scaling
from benchmarks.scaling import Size, model
from solo_bam.losses import BAMLoss
from tests import processes


def _sent(size: Size, teacher: bool) -> float:
    """Bytes that a ring would send of what this process's loss asks the others for."""
    total, others = 0.0, (size.W - 1) / size.W

    def counted(name: str, factor: float) -> None:
        ordinary = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal total
            tensor = arguments[0] if name == "all_reduce" else arguments[1]
            if tensor.is_floating_point():
                total += factor * tensor.numel() * tensor.element_size()
            return ordinary(*arguments, **options)

        setattr(dist, name, call)

    counted("all_gather_into_tensor", size.W * others)
    counted("all_reduce", 2 * others)
    counted("reduce_scatter_tensor", others)
    z = torch.randn(2 * size.B // size.W, size.D).requires_grad_()
    BAMLoss(2, 2)(z, z.detach() if teacher else None).backward()
    return total


@pytest.mark.parametrize("teacher", [False, True])
def test_the_model_counts_what_is_sent(teacher: bool) -> None:
    size = Size(B=64, W=2, D=32)
    for sent in processes.run(2, _sent, size, teacher):
        assert sent == pytest.approx(model(size, teacher)["gather, bytes"], rel=0.1)


def test_nothing_is_sent_by_one_process() -> None:
    found = model(Size(B=64, W=1))
    assert all(value == 0 for name, value in found.items() if name.endswith("bytes") and "columns" not in name)


@pytest.mark.nightly
def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", "--tiny", "--repeats", "1"])
    scaling.main()
    out = capsys.readouterr().out
    assert "| 16, 2, 8 |" in out
    assert "/ ViT-S/16" in out
