"""Accuracy at equal cost, from the curves of the trainings: interpolated between measurements, never beyond them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from solo_bam.comparison.results import Column, Point, Results, RunResult

Over = Literal["images", "device_hours"]


def curve_kinds(results: Results) -> list[str]:
    """What was measured during the trainings: ``k-NN``, ``linear``."""
    return list(dict.fromkeys(kind for outcome in results.outcomes for kind in outcome.curves))


def value_at(points: Sequence[Point], over: Over, cost: float) -> float | None:
    """The accuracy at a cost; None before the first measurement and after the last."""
    places = [getattr(point, over) for point in points]
    if not places or not places[0] <= cost <= places[-1] * (1 + 1e-9):
        return None
    return float(np.interp(cost, places, [point.value for point in points]))


def curve_runs(results: Results, kind: str, over: Over) -> list[RunResult]:
    """Finished runs whose curve knows the cost; none where it was counted on devices of two kinds."""
    found = [o for o in results.outcomes if o.status == "finished" and o.curves.get(kind)]
    found = [o for o in found if not any(math.isnan(getattr(point, over)) for point in o.curves[kind])]
    devices = {o.cost.device for o in found if o.cost}
    return [] if over == "device_hours" and len(devices) != 1 else found


def at_equal_cost(results: Results, kind: str, over: Over) -> tuple[float, Column] | None:
    """The largest cost that all runs reached, and their accuracies there.

    Args:
        results: of a comparison.
        kind: of the curves, ``k-NN`` or ``linear``.
        over: the cost.

    Returns:
        None without two rows that have a number.
    """
    runs = curve_runs(results, kind, over)
    if len({run.entry for run in runs}) < 2:
        return None
    cost = min(getattr(run.curves[kind][-1], over) for run in runs)
    column = Column(over, f"{kind}, online", "%", f"{kind} during the training", "student", True, {})
    for run in runs:
        if (value := value_at(run.curves[kind], over, cost)) is not None:
            column.values.setdefault(run.entry, {})[run.seed] = value
    return (cost, column) if len(column.values) > 1 else None
