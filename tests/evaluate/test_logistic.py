"""Calibration and intervals against what can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from solo_bam.evaluate.logistic import STRENGTHS, calibration_error, fit, searched


def test_the_calibration_error_of_known_answers() -> None:
    labels = np.array([0, 0, 1, 1])
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert calibration_error(sure, labels) == 0
    assert calibration_error(sure, 1 - labels) == 100
    assert calibration_error(np.full((4, 2), 0.5), labels) == pytest.approx(0)
    # Bins of their own: 0.6 right half of the time, 0.9 always: (2 * 0.1 + 2 * 0.1) / 4.
    mixed = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    assert calibration_error(mixed, np.array([0, 1, 1, 1])) == pytest.approx(10)


def test_the_calibration_error_is_that_of_bins() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(5), 500)
    labels = generator.integers(0, 5, 500)
    error, confidence, right = 0.0, probabilities.max(1), probabilities.argmax(1) == labels
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    assert calibration_error(probabilities, labels) == pytest.approx(100 * error, rel=1e-6)


def test_a_weak_penalty_is_chosen_where_it_is_needed() -> None:
    y = np.repeat([0, 1], [180, 20])
    x = 0.1 * y[:, None] + np.random.default_rng(0).normal(0, 0.01, (200, 1))
    strength = searched(x, y)
    assert strength is not None
    assert fit(x, y, strength).score(x, y) == 1 > fit(x, y, STRENGTHS[0]).score(x, y)
    assert searched(x[-4:], y[-4:]) is None
