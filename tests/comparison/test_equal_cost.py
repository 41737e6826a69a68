"""Accuracy at equal cost: between two measurements, never beyond them, the same cost for all rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from solo_bam.comparison.collect import _curves
from solo_bam.comparison.equal_cost import at_equal_cost, value_at
from solo_bam.comparison.report.curves import draw_pareto
from solo_bam.comparison.report.formats import markdown
from solo_bam.comparison.report.tables import equal_cost_table
from solo_bam.comparison.results import Cost, Point, Results
from tests.comparison import synthetic


def line(speed: float, top: float, seed: int, ends: int = 4) -> list[Point]:
    """Measured after each of ``ends`` epochs of 100 images, of an hour over ``speed``."""
    return [Point(e, e / speed, top * e / 4 + seed, 100.0 * e, e / speed) for e in range(1, ends + 1)]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A slow row that ends at 80 and more after 4 hours; one of twice the speed that ends at 60 and more."""
    found = synthetic.results(tmp_path, entries=("bam", "byol"), seeds=(0, 1, 2))
    rows = {"bam": (1.0, 80.0), "byol": (2.0, 60.0)}
    outcomes = [replace(o, curves={"k-NN": line(*rows[o.entry], o.seed)}) for o in found.outcomes]
    return replace(found, outcomes=outcomes)


def test_values_lie_between_measurements() -> None:
    points = line(1.0, 80.0, 0)
    assert value_at(points, "device_hours", 2.5) == pytest.approx(50)
    assert value_at(points, "images", 400) == pytest.approx(80)
    assert value_at(points, "images", 99) is None
    assert value_at(points, "images", 401) is None


def test_at_equal_images_and_hours(results: Results) -> None:
    images, hours = at_equal_cost(results, "k-NN", "images"), at_equal_cost(results, "k-NN", "device_hours")
    assert images is not None
    assert hours is not None
    assert (images[0], hours[0]) == (400, 2)
    assert images[1].values == {"bam": {0: 80, 1: 81, 2: 82}, "byol": {0: 60, 1: 61, 2: 62}}
    assert hours[1].values == {"bam": {0: 40, 1: 41, 2: 42}, "byol": {0: 60, 1: 61, 2: 62}}
    table = equal_cost_table(results)
    assert table is not None
    assert [cell.split(" ")[0] for cell in table.rows[0][1:]] == ["81.0", "+20.0", "41.0", "−20.0"]
    assert "k-NN, online, % at 400 images" in table.header
    assert "k-NN, online, % at 2.000 CPU-hours" in table.header
    assert "At equal cost" in markdown([results])


def test_a_shorter_run_sets_the_cost_and_a_late_first_measurement_has_none(results: Results) -> None:
    first, *rest = results.outcomes
    short = replace(results, outcomes=[replace(first, curves={"k-NN": line(1.0, 80.0, 0, ends=2)}), *rest])
    found = at_equal_cost(short, "k-NN", "images")
    assert found is not None
    assert (found[0], found[1].values["byol"][0]) == (200, 30)
    late = replace(first, curves={"k-NN": [Point(4, 4, 80, 400.0, 4.0)]})
    found = at_equal_cost(replace(results, outcomes=[late, *rest]), "k-NN", "device_hours")
    assert found is not None
    assert found[1].values["bam"].keys() == {1, 2}


def test_where_nothing_can_be_said(results: Results, tmp_path: Path) -> None:
    assert at_equal_cost(synthetic.results(tmp_path), "k-NN", "images") is None  # costs of points are not known
    one = replace(results, outcomes=[o for o in results.outcomes if o.entry == "bam"])
    assert at_equal_cost(one, "k-NN", "images") is None
    gpu = Cost(900, 1, 1, "GPU", 1)
    mixed = replace(results, outcomes=[replace(results.outcomes[0], cost=gpu), *results.outcomes[1:]])
    assert at_equal_cost(mixed, "k-NN", "device_hours") is None
    assert at_equal_cost(mixed, "k-NN", "images") is not None
    assert draw_pareto(mixed, "k-NN") is None


def test_the_best_at_each_cost_is_drawn(results: Results) -> None:
    figure = draw_pareto(results, "k-NN")
    assert figure is not None
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    front = dict(zip(*lines["best at this cost"].get_data()))
    assert max(front.values()) == pytest.approx(81)
    assert front[min(front, key=lambda x: abs(x - 2))] == pytest.approx(61, abs=0.7)
    assert lines["reached by all"].get_xdata()[0] == 2  # type: ignore[index]


def test_costs_add_up_over_epochs() -> None:
    rows = [{"epoch": float(e), "knn_acc1": 10.0 * e} for e in range(3)]
    costs = [
        {"epoch": e, "seconds": 1800.0, "images": 50, "processor_seconds": 3600.0, "processes": 2, "device": "CPU"}
        for e in range(2)
    ]
    ((name, points),) = _curves(rows, costs)
    assert (name, points[1]) == ("k-NN", Point(2, 1.0, 10.0, 100.0, 4.0))
    assert math.isnan(points[2].images)
