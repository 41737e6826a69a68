"""Means over seeds and paired differences, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST = 3  # values that an interval is worth anything with


@dataclass(frozen=True)
class Estimate:
    """A mean and what is known of it.

    Attributes:
        mean: of the values.
        interval: 95 % confidence interval of the mean, Student's t on n - 1 degrees of freedom; None below three
            values, which say next to nothing of the spread.
        n: values.
        ends: the smallest and the largest value.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    ends: tuple[float, float]

    @property
    def half_width(self) -> float | None:
        """Half the interval's length: the number behind ±."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves zero out. One without width, of coarse numbers, says nothing of the spread."""
        return self.interval is not None and bool(self.half_width) and not self.interval[0] <= 0 <= self.interval[1]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean over seeds. The seeds are the sample: the test images are the same for all and add no spread here.

    Args:
        values: one per seed, at least one.
    """
    mean, ends = float(np.mean(values)), (float(min(values)), float(max(values)))
    interval = None
    if len(values) >= FEWEST:
        if ends[0] == ends[1]:  # scipy warns of lost precision
            interval = ends
        else:
            found = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
            interval = (float(found.low), float(found.high))
    return Estimate(mean, interval, len(values), ends)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Mean of ``values - baseline``, seed by seed: what the seeds share (data order, crops) cancels.

    Args:
        values: by seed.
        baseline: by seed.

    Returns:
        Over the seeds that both have; None where there is none.
    """
    seeds = sorted(values.keys() & baseline.keys())
    return estimate([values[seed] - baseline[seed] for seed in seeds]) if seeds else None
