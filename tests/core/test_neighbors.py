"""Weighted k-NN against a computation spelled out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import solo_bam.core.neighbors as knn_module
from solo_bam.core.neighbors import Neighbours, accuracy, count_hits, find_neighbours, in_tiles, knn_scores, ranks


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
    monkeypatch.setattr(knn_module, "QUERY_TILE", chunk)
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


def _published(
    bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, targets: torch.Tensor, k: int, temperature: float
) -> tuple[int, int]:
    """Hits @1 and @5 of the protocol that the paper's code follows, one query at a time in double precision."""
    rows = [x.double().numpy() for x in (bank, queries)]
    unit, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    first = five = 0
    for query, target in zip(asked, targets.tolist()):
        cosines = unit @ query
        nearest = np.argsort(-cosines, kind="stable")[:k]
        totals = np.bincount(labels.numpy()[nearest], np.exp(cosines[nearest] / temperature), minlength=10)
        order = np.argsort(-totals, kind="stable")
        first += int(order[0] == target)
        five += int(target in order[: min(5, k)])
    return first, five


def test_hits_are_those_of_the_published_protocol() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 16, generator=generator)
    labels, targets = (torch.randint(0, 10, (n,), generator=generator) for n in (500, 200))
    bank, queries = (centres[y] + 1.5 * torch.randn(len(y), 16, generator=generator) for y in (labels, targets))
    ks = [1, 3, 20, 100]
    near = find_neighbours(in_tiles(bank), queries, max(ks))
    for temperature in (0.07, 0.5):
        hits = count_hits(near, labels, targets, ks, temperature)
        assert hits == {k: _published(bank, labels, queries, targets, k, temperature) for k in ks}
    assert 50 < hits[20][0] < 200


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("tile", [50, 333, 2048])
def test_of_equally_close_images_the_first_is_nearer(distance: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_module, "BANK_TILE", tile)
    generator = torch.Generator().manual_seed(0)
    bank = torch.eye(4)[torch.randint(0, 4, (1000,), generator=generator)]  # exact arithmetic, hundreds of ties
    near = find_neighbours(in_tiles(bank), torch.eye(4), 300, distance)
    closeness = bank @ torch.eye(4) if distance == "cosine" else -torch.cdist(bank, torch.eye(4))
    expected = closeness.T.sort(dim=1, descending=True, stable=True)
    assert torch.equal(near.positions, expected.indices[:, :300])
    torch.testing.assert_close(near.closeness, expected.values[:, :300])


def test_the_label_comes_after_better_scores_and_equal_ones_of_lower_classes() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [float("nan")] * 3])
    assert ranks(scores, torch.tensor([0, 1, 0, 0])).tolist() == [0, 1, 2, 2]


def test_no_matrix_of_all_queries_against_the_whole_bank() -> None:
    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.entries = max(self.entries, tensor.numel())
            return out

    k, labels = 20, torch.arange(50_000) % 100
    bank, queries = torch.randn(50_000, 8), torch.randn(3000, 8)
    with Largest() as largest:
        near = find_neighbours(in_tiles(bank), queries, k)
        count_hits(near, labels, labels[:3000], [k])
    allowed = max(knn_module.QUERY_TILE * max(knn_module.BANK_TILE, knn_module._GROUP * k), 3000 * 100)
    assert largest.entries <= allowed
    assert allowed < 50_000 * 3000 / 50


def test_neighbours_are_enough_for_every_smaller_k() -> None:
    near = Neighbours(torch.tensor([[0.9, 0.5, 0.4]]), torch.tensor([[2, 0, 1]]))
    hits = count_hits(near, torch.tensor([1, 1, 0]), torch.tensor([1]), [1, 3], temperature=1.0)
    assert hits == {1: (0, 0), 3: (1, 1)}
