"""Weighted k-NN against a computation spelled out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import solo_bam.knn as knn_module
from solo_bam.knn import Neighbours, accuracy, count_hits, find_neighbours, in_tiles, knn_scores, ranks


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


def _alike(kind: str, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 24, generator=generator)
    centre = torch.randn(24, generator=generator)
    return {
        "far apart": x,
        "near": centre + 0.1 * x,
        "nearer": centre + 0.02 * x,
        "equal": centre + 1e-4 * x,
        "large": 1e3 * (1 + x),
    }[kind]


@pytest.mark.parametrize("kind", ["far apart", "near", "nearer", "large"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("precisions", [[torch.bfloat16], [torch.bfloat16, torch.float32], [torch.float32]])
def test_a_filter_loses_no_neighbour(
    kind: str, distance: str, precisions: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as without a filter, to the last bit."""
    monkeypatch.setattr(knn_module, "_precisions", lambda _: precisions)
    monkeypatch.setattr(knn_module, "BANK_TILE", 399)  # no multiple of a group
    x = _alike(kind, 1100)
    bank, queries = x[:1000], x[1000:]
    with monkeypatch.context() as without:
        without.setattr(knn_module, "_candidates", lambda product, *_: (product == product).nonzero().unbind(1))
        everything = find_neighbours(in_tiles(bank), queries, len(bank), distance)
    for k in (1, 5, 130):
        near = find_neighbours(in_tiles(bank), queries, k, distance)
        assert torch.equal(near.positions, everything.positions[:, :k])
        assert torch.equal(near.closeness, everything.closeness[:, :k])
    unit = [F.normalize(part.double(), dim=1) for part in (bank, queries)]
    true = unit[1] @ unit[0].T if distance == "cosine" else -torch.cdist(queries.double(), bank.double())
    torch.testing.assert_close(
        everything.closeness.double(), true.gather(1, everything.positions), rtol=1e-5, atol=1e-6
    )
    assert (everything.positions.sort(1).values == torch.arange(1000)).all()


def test_the_bound_of_the_rounding_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of nearly half the bank is as close as many others, and its closeness to the centre is near zero."""
    monkeypatch.setattr(knn_module, "_precisions", lambda _: [torch.bfloat16])
    x = _alike("far apart", 1400)
    bank, queries = x[:400], x[400:]
    exact = find_neighbours(in_tiles(bank), queries, 400)  # every pair
    near = find_neighbours(in_tiles(bank), queries, 180)
    torch.testing.assert_close(near.closeness, exact.closeness[:, :180], rtol=0, atol=1e-6)
    unbounded = knn_module._rounding
    monkeypatch.setattr(knn_module, "_rounding", lambda *arguments: 0 * unbounded(*arguments))
    wrong = find_neighbours(in_tiles(bank), queries, 180)
    assert (wrong.closeness - exact.closeness[:, :180]).abs().max() > 1e-5


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_features_that_float32_cannot_tell_apart(distance: str) -> None:
    x = _alike("equal", 1100)
    closeness = find_neighbours(in_tiles(x[:1000]), x[1000:], 20, distance).closeness
    unit = F.normalize(x.double(), dim=1)
    true = unit[1000:] @ unit[:1000].T if distance == "cosine" else -torch.cdist(x[1000:].double(), x[:1000].double())
    torch.testing.assert_close(closeness.double(), true.topk(20).values, rtol=1e-4, atol=1e-6)


def test_the_filter_leaves_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_module, "_precisions", lambda _: [torch.bfloat16, torch.float32])
    computed = []
    ordinary = torch.sparse.sampled_addmm

    def counted(pairs: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        computed.append(pairs.values().numel())
        return ordinary(pairs, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.sparse, "sampled_addmm", counted)
    for kind in ("far apart", "near", "nearer"):
        x = _alike(kind, 9000)
        computed.clear()
        find_neighbours(in_tiles(x[:8192]), x[8192:8292], 20)
        assert 2000 <= sum(computed) < 0.03 * 100 * 8192, kind


def test_features_that_are_not_numbers_leave_the_others_alone() -> None:
    x = _alike("far apart", 300)
    broken = x.clone()
    broken[7], broken[11] = torch.nan, torch.inf
    near = find_neighbours(in_tiles(broken), x[200:], 20)
    kept = [i for i in range(300) if i not in (7, 11)]
    expected = find_neighbours(in_tiles(x[kept]), x[200:], 18).positions
    found = [[i for i in row if i not in (7, 11)][:18] for row in near.positions.tolist()]
    assert found == [[kept[i] for i in row] for row in expected.tolist()]


def test_products_are_of_full_precision_whatever_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def precisions(_: torch.device) -> list[torch.dtype]:
        seen.append(torch.get_float32_matmul_precision())
        return [torch.float32]

    monkeypatch.setattr(knn_module, "_precisions", precisions)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        find_neighbours(in_tiles(torch.eye(3)), torch.eye(3), 1)
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_matrix_of_all_queries_against_the_whole_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_module, "BANK_TILE", 1024)
    monkeypatch.setattr(knn_module, "QUERY_TILE", 256)

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.entries = max(self.entries, tensor.numel())
            return out

    k, labels = 20, torch.arange(20_000) % 100
    bank, queries = torch.randn(20_000, 8), torch.randn(3000, 8)
    with Largest() as largest:
        near = find_neighbours(in_tiles(bank), queries, k)
        count_hits(near, labels, labels[:3000], [k])
    allowed = max(knn_module.QUERY_TILE * max(knn_module.BANK_TILE, 16 * k), 3000 * 100)
    assert largest.entries <= allowed
    assert allowed < 20_000 * 3000 / 50


def test_neighbours_are_enough_for_every_smaller_k() -> None:
    near = Neighbours(torch.tensor([[0.9, 0.5, 0.4]]), torch.tensor([[2, 0, 1]]))
    hits = count_hits(near, torch.tensor([1, 1, 0]), torch.tensor([1]), [1, 3], temperature=1.0)
    assert hits == {1: (0, 0), 3: (1, 1)}
