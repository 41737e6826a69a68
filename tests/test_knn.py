"""Weighted k-NN against a computation spelled out."""

from __future__ import annotations

import math

import pytest
import torch

import solo_bam.knn as knn_module
from solo_bam.knn import accuracy, knn_scores


def _naive(bank: torch.Tensor, labels: torch.Tensor, query: torch.Tensor, k: int, distance: str) -> torch.Tensor:
    votes = []
    for feature, label in zip(bank, labels):
        if distance == "cosine":
            closeness = float(feature @ query / feature.norm() / query.norm())
            votes.append((closeness, math.exp(closeness / 0.07), int(label)))
        else:
            far = float((feature - query).norm())
            votes.append((-far, 1 / (far + 1e-5), int(label)))
    scores = torch.zeros(4)
    for _, weight, label in sorted(votes, reverse=True)[:k]:
        scores[label] += weight
    return scores / scores.sum()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_agrees_with_the_naive_computation(distance: str, k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_module, "BANK_TILE", chunk)
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(30, 5, generator=generator), 3 * torch.randn(7, 5, generator=generator)
    labels = torch.randint(0, 4, (30,), generator=generator)
    scores = knn_scores(bank, labels, queries, num_classes=4, k=k, distance=distance)
    expected = torch.stack([_naive(bank, labels, query, k, distance) for query in queries])
    torch.testing.assert_close(scores / scores.sum(1, keepdim=True), expected, rtol=1e-4, atol=1e-6)


def test_small_temperatures_stay_finite() -> None:
    scores = knn_scores(torch.eye(3), torch.arange(3), torch.eye(3), num_classes=3, k=3, temperature=1e-3)
    assert scores.isfinite().all()
    assert accuracy(scores, torch.arange(3)) == 100.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 4}, "k must be 1 to the bank's 3 images, got 4"),
        ({"k": 0}, "got 0"),
        ({"k": 1, "distance": "dot"}, "distance must be cosine or euclidean, got 'dot'"),
        ({"k": 1, "num_classes": 2}, "bank labels must be 0 to 1, got 0 to 2"),
    ],
)
def test_bad_arguments(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_scores(torch.eye(3), torch.arange(3), torch.eye(3), **{"num_classes": 3, **settings})  # type: ignore[arg-type]


def test_accuracy_in_percent() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    labels = torch.tensor([0, 1, 1, 2])
    assert accuracy(scores, labels) == 50.0
    assert accuracy(scores, labels, k=2) == 100.0
