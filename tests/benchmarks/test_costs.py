"""The model of a step over processes: its fit finds constants, it counts the loss's collectives, it follows the code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import costs, many_gpus, scaling
from benchmarks.costs import Step, of_loss, predicted
from benchmarks.scaling import Size, model
from solo_bam.train.doctor.devices import device_named
from solo_bam.train.doctor.work import LOSS

TRUE = {"loss": [0.02, 0.005, 0.002], "collectives": [0.0003, 1 / 0.9, 0.001]}


def _made_up() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for W in (1, 2, 3, 4):
        for B, D, P in [*costs.FITTED, *costs.UNSEEN]:
            for rate in (*costs.RATES, costs.UNSEEN_RATE):
                for part in costs.PARTS if W > 1 else costs.PARTS[:1]:
                    one = {"B": B, "W": W, "D": D, "P": P, "rate": rate, "part": part}
                    counted = costs.row(Step(B, W, D, P), part, rate, 2)
                    sent = 1e6 * counted[2] / max(1, W / 2)
                    rows.append({**one, "seconds": [predicted(one, TRUE, 2)], "sent": sent})
    return rows


def test_the_fit_finds_the_constants() -> None:
    rows = _made_up()
    found = costs.checked(rows, cores=2)
    named = [*costs.CONSTANTS["loss"], *costs.CONSTANTS["collectives"]]
    true = [*TRUE["loss"], TRUE["collectives"][0], 0.9, TRUE["collectives"][2]]
    assert [found["constants"][name] for name in named] == pytest.approx(true, rel=1e-3)
    assert all(found[f"unseen, {part}"]["largest"] < 1e-3 for part in costs.PARTS)
    assert found["bytes sent over counted"]["median"] == pytest.approx(1)


def test_an_error_is_told() -> None:
    rows = _made_up()
    for one in rows:
        if (one["B"], one["D"], one["P"]) in costs.UNSEEN and one["part"] == "network":
            one["seconds"] = [0.8 * one["seconds"][0]]
    assert costs.checked(rows, cores=2)["unseen, network"]["median error"] == pytest.approx(0.25, rel=1e-2)


@pytest.mark.parametrize("teacher", [False, True])
def test_both_models_send_the_same(teacher: bool) -> None:
    """That of ``benchmarks.scaling`` is held against the loss's own calls."""
    size = Size(B=64, W=4, D=32)
    sent = sum(one.sent(size.W) for one in of_loss(size.B, size.D, teacher, gloo=False))
    assert sent == pytest.approx(model(size, teacher)["gather, bytes"])


def test_the_loss_of_many_processes_is_the_codes_own() -> None:
    """Eight times the columns: eight times the products, as a step of one process counts them; no data is needed."""
    recipe, found = many_gpus.alone("digits/bam_momentum", 16)
    one, many = (many_gpus.loss_of(recipe, 16, processes).operations for processes in (1, 8))
    products = sum(operation.flops for operation in one)
    assert products == sum(operation.flops for operation in found.operations if operation.part == LOSS) > 0
    assert sum(operation.flops for operation in many) == 8 * products


def test_many_gpus_are_slower_each() -> None:
    device, fabric = device_named("h100"), many_gpus.Fabric()
    one, many = (many_gpus.tell("digits/bam_momentum", 256, processes, device, fabric) for processes in (1, 1024))
    assert one["gather"] == one["sizes"] == one["column sums"] == one["gradients"] == 0
    assert many["images/s"] < one["images/s"]
    assert many["GB"] > one["GB"]


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(
        sys, "argv", ["scaling", "--links", "--tiny", "--repeats", "1", "--out", str(tmp_path / "a.json")]
    )
    scaling.main()
    assert "s per GFLOP" in capsys.readouterr().out
    assert "measured" in (tmp_path / "a.json").read_text()
