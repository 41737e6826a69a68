"""What a run has logged, as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Rows = Sequence[Mapping[str, float]]


def series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a logged key; empty where it was not logged."""
    points = [(row["step"], row[key]) for row in rows if key in row and "step" in row]
    return [x for x, _ in points], [y for _, y in points]


def over_epochs(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Epochs, fractions by the step, and values of a logged key; empty where either was not logged."""
    steps, values = series(rows, key)
    ends = [(row["step"] + 1) / (row["epoch"] + 1) for row in rows if "epoch" in row and "step" in row]
    return ([(step + 1) / max(ends) for step in steps], values) if ends else ([], [])


def thinned(x: Sequence[float], y: Sequence[float], points: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """A long line as means of equal parts, since more points than pixels hide the course; a short one unchanged."""
    parts = min(len(x), points)
    if not parts:
        return np.zeros(0), np.zeros(0)
    xs, ys = (np.array([part.mean() for part in np.array_split(np.asarray(values), parts)]) for values in (x, y))
    return xs, ys
