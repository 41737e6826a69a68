"""The best of a row's trials, and whether it lies at the end of what was searched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from solo_bam.comparison.plan import Plan, Tried
from solo_bam.comparison.space import Choices, Range
from solo_bam.core.errors import UserError

_EDGE = 0.1  # of a range: nearer to its end, a better value may lie beyond


def best(plan: Plan, entry: str) -> Tried:
    """A row's trial with the highest accuracy, the first of several.

    Raises:
        UserError: they have all diverged.
    """
    found = max(plan.tried(entry), key=lambda one: one.accuracy or 0.0)
    if not found.accuracy:
        raise UserError("tune.trials", f"the loss of {entry} diverged in every trial", "lower the rates of its space")
    return found


def edges(plan: Plan) -> Iterator[tuple[str, str, int]]:
    """Row, key and side (-1: the smallest, 1: the largest) of each best value at an end of what was searched."""
    for entry, space in plan.spaces.items():
        if not any(one.accuracy for one in plan.tried(entry)):
            continue
        values = best(plan, entry).values
        for key, found in space.items():
            if side := _side(found, values[key]):
                yield entry, key, side


def _side(found: Range | Choices, value: Any) -> int:
    if isinstance(found, Range):
        share = found.share(value)
        return 1 if share > 1 - _EDGE else -1 if share < _EDGE else 0
    numbers = [one for one in found if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) < max(3, len(found)):
        return 0  # no order, no end
    return 1 if value == max(numbers) else -1 if value == min(numbers) else 0


def describe_edges(plan: Plan) -> list[str]:
    """``simclr: the best optimizer.lr is the largest tried``, a line each."""
    words = {-1: "smallest", 1: "largest"}
    return [f"{entry}: the best {key} is the {words[side]} tried" for entry, key, side in edges(plan)]
