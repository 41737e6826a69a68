"""Multinomial logistic regression on frozen features, by L-BFGS: strength, few labels, calibration."""

from __future__ import annotations

import warnings

import numpy as np
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from solo_bam.evaluate.features import Features
from solo_bam.evaluate.statistics import Estimate, estimate

STRENGTHS = tuple(10.0**power for power in range(-2, 6))  # C, what is searched
HELD_OUT, MOST, LEAST = 0.2, 10_000, 5  # share to choose on; images of a search at most; of a class at least
BINS = 15


def scaled(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Features of unit length, and labels."""
    return F.normalize(features.values, dim=1).numpy(), features.labels.numpy()


def fit(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    """A model of inverse regularization ``strength`` (scikit-learn's C)."""
    return _fitted(LogisticRegression(C=strength, max_iter=1000), x, y)


def _fitted(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def searched(x: np.ndarray, y: np.ndarray) -> float | None:
    """The C that is best on held-out images, for a fit to all of them: C weighs a sum over images.

    Returns:
        None where a class has too few images for any to be held out.
    """
    if np.bincount(y)[np.unique(y)].min() < LEAST:
        return None
    images = np.arange(len(y))
    if len(y) > MOST:
        images, _ = train_test_split(images, train_size=MOST, stratify=y, random_state=0)
    own, held = train_test_split(images, test_size=HELD_OUT, stratify=y[images], random_state=0)
    model, found = LogisticRegression(max_iter=1000, warm_start=True), []
    for strength in STRENGTHS:
        _fitted(model.set_params(C=strength), x[own], y[own])
        found.append(model.score(x[held], y[held]))
    return STRENGTHS[int(np.argmax(found))] * len(own) / len(y)


def few_shot(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], shots: int, draws: int
) -> Estimate:
    """Accuracy (%) over ``draws`` of ``shots`` images of each class.

    The draws are the same ones for all features; C is 1.
    """
    (x, y), (images, labels) = train, test
    found = []
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        chosen = np.concatenate([generator.permutation(np.flatnonzero(y == label))[:shots] for label in np.unique(y)])
        found.append(100 * fit(x[chosen], y[chosen], 1.0).score(images, labels))
    return estimate(found)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (%) in equal bins of the confidence (Guo et al., ICML 2017).

    Args:
        probabilities: ``(N, classes)``.
        labels: ``(N,)``, columns of them.
        bins: from 0 to 1.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(100 * np.abs(np.bincount(places, right - confidence, bins)).sum() / len(labels))
