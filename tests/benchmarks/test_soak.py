"""The soak: it runs, tells bits that differ, and its report holds what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import soak
from benchmarks.soak_report import report, slope
from tests.zygote import Zygote


@pytest.mark.nightly
def test_it_runs_and_reports(zygote: Zygote, tmp_path: Path) -> None:
    """A round of one and one of two processes, with an event or two each."""
    out = tmp_path / "soak.json"
    about = soak.Soak(0, seed=0, epochs=2, gap=0.5, images=8, every=0.1, out=out, most=1)
    assert soak.soak(about, zygote) == 0
    result = json.loads(out.read_text())
    assert [one["processes"] for one in result["rounds"]] == ["2", "1"]
    assert all(one["different"] == [] for one in result["rounds"])
    assert result["events"]
    assert result["samples"]
    page = tmp_path / "reliability.md"
    page.write_text("before\n<!-- soak -->\nold\n<!-- /soak -->\nafter\n")
    report(result, tmp_path)
    text = page.read_text()
    assert "old" not in text
    assert f"{len(result['events'])} events" in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert 0 < (tmp_path / "results" / "soak.png").stat().st_size < 100_000


def test_a_bit_that_differs_is_named() -> None:
    a, b = torch.zeros(3), torch.zeros(3)
    b[1] = torch.finfo(torch.float32).tiny
    assert soak.different({"w": a, "n": [1]}, {"w": a.clone(), "n": [1]}) == []
    assert soak.different({"w": a, "n": [1]}, {"w": b, "n": [2]}) == ["['w']", "['n'][0]"]
    assert soak.different({"w": a}, {"v": a}) == ["the structure"]


def test_slopes_are_per_hour() -> None:
    found = slope([(0, 1), (1800, 2), (3600, 3), (7200, 5)])
    assert found == pytest.approx((2, 0), abs=1e-6)
    assert slope([(0, 1)]) is None
