"""The loss's benchmark: its baseline is the published loss, and it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import loss as benchmark
from benchmarks.published import published_loss
from solo_bam.losses import bam_loss
from tests.losses.test_bam import CASES, golden


@pytest.mark.parametrize("name", CASES)
def test_the_baseline_is_the_published_loss(name: str) -> None:
    data, cfg = golden(name)
    if cfg["world_size"] > 1:
        pytest.skip("the baseline is of one process")
    z = torch.from_numpy(data["z"][0]).requires_grad_()
    loss = published_loss(
        z,
        torch.from_numpy(data["z_teacher"][0]) if cfg["teacher"] else None,
        num_crops=cfg["n_crops"],
        num_large_crops=cfg["n_large"],
        target_crops_number=cfg["n_target"],
        top_k_sink=cfg["top_k"],
        **{name: cfg[name] for name in ("reg", "temperature", "num_sink_iter", "positive_masking")},
    )
    loss.backward()
    assert z.grad is not None
    tolerance = 1e-9 if cfg["dtype"] == "float64" else 2e-5
    grad = data["grad"][0]
    np.testing.assert_allclose(loss.item(), data["loss"][0], rtol=tolerance)
    np.testing.assert_allclose(z.grad.numpy(), grad, rtol=tolerance, atol=tolerance * np.abs(grad).max())


@pytest.mark.parametrize("case", benchmark.TINY, ids=str)
def test_both_compute_the_same(case: benchmark.Case) -> None:
    settings: dict[str, Any] = {"num_crops": case.V, "num_large_crops": 2, "top_k_sink": case.top_k}
    z, teacher = torch.randn(2, case.V * case.B, case.D, dtype=torch.float64)
    used = teacher if case.teacher else None
    torch.testing.assert_close(bam_loss(z, used, **settings)[0], published_loss(z, used, **settings))


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "TINY", benchmark.TINY[:1])
    monkeypatch.setattr(sys, "argv", ["loss", "--tiny", "--repeats", "1", "--out", str(tmp_path / "out.json")])
    benchmark.main()
    assert "| case | baseline / solo-bam |" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert set(result["seconds"]) == set(benchmark.IMPLEMENTATIONS)
    assert all(len(times) == 1 and times[0] > 0 for times in result["seconds"].values())
