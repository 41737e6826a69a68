"""Means and paired differences with their intervals, against scipy's and against a table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from solo_bam.evaluate.statistics import estimate, paired_difference


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(90, 2, n)
    found = estimate(list(values))
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.interval == pytest.approx((low, high))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert found.n == n


def test_known_values() -> None:
    """Student's t table: 4.303 on two degrees of freedom, 2.776 on four."""
    assert estimate([1.0, 2.0, 3.0, 4.0, 5.0]).half_width == pytest.approx(2.7764 / np.sqrt(2), abs=1e-3)
    assert estimate([0.0, 3.0, 6.0]).half_width == pytest.approx(4.3027 * 3 / np.sqrt(3), abs=1e-3)


@pytest.mark.parametrize("values", [[5.0], [7.0, 5.0]])
def test_one_or_two_values_have_no_interval(values: list[float]) -> None:
    found = estimate(values)
    assert found.interval is None
    assert found.half_width is None
    assert not found.clear_of_zero
    assert found.ends == (5.0, max(values))


def test_equal_values_have_an_interval_without_width() -> None:
    assert estimate([5.0, 5.0, 5.0]).interval == (5.0, 5.0)
    assert not estimate([5.0, 5.0, 5.0]).clear_of_zero  # coarse numbers, not certainty


def test_intervals_hold_what_they_promise() -> None:
    """Of 2,000 samples of three, 95 % of the intervals hold the true mean, to 1.5 %."""
    generator = np.random.default_rng(0)
    found = [estimate(list(sample)).interval for sample in generator.normal(7, 3, (2000, 3))]
    assert np.mean([low <= 7 <= high for low, high in filter(None, found)]) == pytest.approx(0.95, abs=0.015)


def test_differences_are_paired_by_seed() -> None:
    generator = np.random.default_rng(1)
    seeds, luck = range(6), generator.normal(0, 5, 6)
    a = {seed: 80 + luck[seed] + generator.normal(1, 0.1) for seed in seeds}
    b = {seed: 80 + luck[seed] for seed in reversed(seeds)}  # another order
    found = paired_difference(a, b)
    assert found is not None
    assert found.interval is not None
    told = stats.ttest_rel([a[s] for s in seeds], [b[s] for s in seeds]).confidence_interval(0.95)
    assert found.interval == pytest.approx((told.low, told.high))
    assert found.clear_of_zero
    unpaired = estimate(list(a.values())).half_width
    assert unpaired is not None
    assert found.half_width is not None
    assert found.half_width < unpaired / 10  # what the seeds share has cancelled


def test_only_seeds_that_both_have_count() -> None:
    found = paired_difference({0: 5.0, 1: 9.0, 2: 1.0}, {1: 8.0, 0: 3.0, 7: 100.0})
    assert found is not None
    assert (found.mean, found.n) == (1.5, 2)
    assert paired_difference({0: 5.0}, {1: 5.0}) is None
    assert not paired_difference({0: 5.0, 1: -5.0}, {0: 0.0, 1: 0.0}).clear_of_zero  # type: ignore[union-attr]
