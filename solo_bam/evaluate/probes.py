"""Accuracies of frozen features, in percent. Every protocol is stated by its function's arguments."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from solo_bam.core.neighbors import accuracy, knn_scores
from solo_bam.evaluate.features import Features


def knn(bank: Features, test: Features, k: int = 20, temperature: float = 0.07, distance: str = "cosine") -> float:
    """Weighted k-NN accuracy @1 of the test features, with all bank features as neighbours."""
    classes = int(torch.cat([bank.labels, test.labels]).max()) + 1
    scores = knn_scores(bank.values, bank.labels, test.values, classes, k, temperature, distance)
    return accuracy(scores, test.labels)


def few_shot_knn(bank: Features, test: Features, per_class: int, draws: int = 10, k: int = 5) -> float:
    """Mean k-NN accuracy @1 over random banks of ``per_class`` images per class.

    Args:
        bank: features to draw from; the draws are the same for every feature, by seeds 0, 1, ….
        test: features to classify.
        per_class: labelled images per class.
        draws: number of banks.
        k: neighbours, cosine with temperature 0.07.
    """
    accuracies = []
    for seed in range(draws):
        chosen = torch.from_numpy(_balanced(bank.labels.numpy(), per_class, seed))
        accuracies.append(knn(Features(bank.values[chosen], bank.labels[chosen]), test, k=k))
    return float(np.mean(accuracies))


def _balanced(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Positions of ``per_class`` images of each class."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    return np.concatenate([generator.choice(m, per_class, replace=False) for m in members])


def linear(train: Features, test: Features, C: float = 1.0) -> float:
    """Accuracy of multinomial logistic regression (L2, inverse strength C) on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(train.values.numpy(), train.labels.numpy())
    return float(100.0 * model.score(test.values.numpy(), test.labels.numpy()))
