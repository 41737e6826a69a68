"""Weighted k-nearest-neighbour classification (Wu et al., CVPR 2018; DINO's protocol), in pure torch.

The bank comes in tiles, and several processes may hold different ones: no matrix of all queries against the whole
bank ever exists. Of equally close images, the one that comes first in the bank is nearer; a pair's closeness does not
depend on what else is computed. So the result does not depend on how many processes share the bank.

Few pairs need their exact closeness. A tile's product in bfloat16, where the processor multiplies that many times
faster, and a bound of its error leave few candidates, which alone are computed one by one. No neighbour is lost,
whatever the features: where the bound leaves many, the product in float32 is asked; where float32 itself cannot tell
most images apart, as of a collapsed network, its product is the closeness.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam import distributed

BANK_TILE = 4096  # images of the bank in a tile
QUERY_TILE = 1024
DISTANCES = ("cosine", "euclidean")
_LAST = 0xFFFFFFFF

# The bank's position of the tile's first image, and the tile's features (n, D).
Tile = tuple[int, Tensor]


class Neighbours(NamedTuple):
    """The nearest images of the bank, nearest first, on the CPU.

    Attributes:
        closeness: ``(M, k)``, float32, the cosine or minus the Euclidean distance.
        positions: ``(M, k)`` integers, in the bank.
    """

    closeness: Tensor
    positions: Tensor


# --------------------------------------------------------------------------------------------- searching


def in_tiles(bank: Tensor) -> Iterator[Tile]:
    """A bank ``(N, D)`` in tiles."""
    return ((start, bank[start : start + BANK_TILE]) for start in range(0, len(bank), BANK_TILE))


@torch.no_grad()
def find_neighbours(
    tiles: Iterable[Tile], queries: Tensor, k: int, distance: str = "cosine", shared: bool = False
) -> Neighbours:
    """The k nearest images of a bank that may be shared by the processes.

    Memory beside the arguments, in bytes, whatever the bank's size: 16 · M · k for the neighbours, 8 · M · D for the
    queries scaled, 24 · D for each image of a tile, 4 for each pair of a tile and :data:`QUERY_TILE` queries, at most
    32 where the features are hardly to be told apart, and 16 · 4096 · k per process where the bank is shared.

    Args:
        tiles: features of any scale on any device, at least k images; :data:`BANK_TILE` in each is fastest.
        queries: ``(M, D)`` features, the same on every process; the search runs on their device.
        k: neighbours.
        distance: ``cosine`` or ``euclidean``.
        shared: each process has tiles of its own (possibly none), and the nearest of all are wanted.

    Raises:
        ValueError: an unknown distance.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance must be cosine or euclidean, got {distance!r}")
    origin = queries.float().mean(0)
    queries = _scaled(queries, distance, origin)
    centre = queries.mean(0)
    constant = (queries * centre).sum(1, dtype=torch.float64).float()
    best = torch.full((len(queries), k), torch.iinfo(torch.int64).min, device=queries.device)
    with _plain_float32():
        for start, features in tiles:
            tile = _prepared(_scaled(features.to(queries.device), distance, origin), distance)
            for rows in _slices(len(queries), QUERY_TILE):
                asked = _Queries(queries[rows], centre, constant[rows])
                found = _nearer_in_tile(tile, asked, start, best[rows].amin(1), k)
                best[rows] = torch.cat([best[rows], found], 1).topk(k, sorted=False).values
    return _unpacked(_over_processes(best) if shared else best, queries, distance)


def _scaled(features: Tensor, distance: str, origin: Tensor) -> Tensor:
    """Unit length, or, which changes no Euclidean distance and saves digits, around an origin."""
    return F.normalize(features.float(), dim=-1) if distance == "cosine" else features.float() - origin


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


@contextmanager
def _plain_float32() -> Iterator[None]:
    """Products in float32 as exact as the bound of their error says; no word on sparse tensors being new."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# ----------------------------------------------------------------------------- candidates, then exact closeness


class _Filter(NamedTuple):
    """Features in the precision of a product.

    Attributes:
        values: ``(n, D + 2)``; the last two columns take an image's shift from the product, a query has ones there.
        length: ``(n,)`` of the features.
        lost: ``(n,)``, the length of what rounding took from them.
        rest: at most what rounding took from a shift.
    """

    values: Tensor
    length: Tensor
    lost: Tensor
    rest: Tensor


class _Queries(NamedTuple):
    """Scaled queries ``(m, D)``, the centre ``(D,)`` of all, and the products ``(m,)`` of both."""

    exact: Tensor
    centre: Tensor
    constant: Tensor


class _Prepared(NamedTuple):
    """A tile: an image's closeness to a query is ``exact @ query - shift``; ``length`` is the longest image's.

    The filters, made when first asked for, have the features around the queries' centre, where rounding takes least;
    their product with a centred query is the closeness up to the query's constant and rounding.
    """

    exact: Tensor
    shift: Tensor
    length: Tensor
    filters: dict[torch.dtype, _Filter]

    def filter(self, dtype: torch.dtype, centre: Tensor) -> _Filter:
        if dtype not in self.filters:
            centred = self.exact - centre
            self.filters[dtype] = _filter(centred, dtype, self.shift - centred @ centre)
        return self.filters[dtype]


def _prepared(exact: Tensor, distance: str) -> _Prepared:
    shift = exact.new_zeros(len(exact)) if distance == "cosine" else exact.square().sum(1) / 2
    return _Prepared(exact, shift, exact.norm(dim=1).max(), {})


def _precisions(device: torch.device) -> list[torch.dtype]:
    """Of the filters, the fastest first: bfloat16 where its products are summed in float32 and much faster."""
    fast = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return [torch.bfloat16, torch.float32] if fast else [torch.float32]


def _filter(features: Tensor, dtype: torch.dtype, shift: Tensor | None = None) -> _Filter:
    values = features.to(dtype)
    length, lost = features.norm(dim=1), (features - values).norm(dim=1)
    if shift is None:
        return _Filter(F.pad(values, (0, 2), value=1.0), length, lost, lost.new_zeros(()))
    parts = [shift.to(dtype), (shift - shift.to(dtype)).to(dtype)]
    rest = (shift - parts[0] - parts[1]).abs().max()
    return _Filter(torch.cat([values, -torch.stack(parts, 1)], 1), length, lost, rest)


def _nearer_in_tile(tile: _Prepared, queries: _Queries, start: int, worst: Tensor, k: int) -> Tensor:
    """Keys ``(m, n)`` of a tile's images, among them the k nearest of those that are nearer than ``worst``, a key."""
    least = _closeness(worst).nan_to_num(nan=-torch.inf) - queries.constant
    for dtype in _precisions(worst.device):
        images, asked = tile.filter(dtype, queries.centre), _filter(queries.exact - queries.centre, dtype)
        error = _rounding(tile, queries, images, asked)
        pairs = _candidates(asked.values @ images.values.T, least, error, k)
        if pairs is not None:
            return _keys_of_pairs(*pairs, tile, queries.exact, start)
    keys = _keys(queries.exact @ tile.exact.T - tile.shift, torch.arange(len(tile.exact), device=worst.device) + start)
    return keys.topk(min(k, len(tile.exact)), sorted=False).values


def _rounding(tile: _Prepared, queries: _Queries, images: _Filter, asked: _Filter) -> Tensor:
    """How far the filter's closeness to each query ``(m,)`` can be from the exact one; the product's rounding aside.

    By Cauchy-Schwarz: of what rounding took from either side, and of float32's rounding in the sums, of the filter's
    D terms one by one and of the exact closeness in at least four lanes.
    """
    D, longest = queries.exact.shape[1], images.length.max()
    lost = images.rest + images.lost.max() * (asked.length + asked.lost) + longest * asked.lost
    filtered = D * longest * (asked.length + queries.centre.norm() + longest)
    exact = (D / 4 + 16) * tile.length * (queries.exact.norm(dim=1) + tile.length)
    return lost + torch.finfo(torch.float32).eps * (filtered + exact)


def _candidates(product: Tensor, least: Tensor, error: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Rows and columns, by rows, of what may be among the k largest of its row and at least ``least``; NaN may be.

    Few groups of columns have a peak so high, so that few columns are looked at one by one; else None.
    """
    columns = torch.arange(product.shape[1], device=product.device)
    size = max(1, min(16, len(columns) // (4 * k)))
    if rest := -len(columns) % size:
        product, columns = F.pad(product, (0, rest), value=-torch.inf), F.pad(columns, (0, rest))
    grouped = product.view(len(product), size, -1)
    peaks, eps = grouped.amax(1), torch.finfo(product.dtype).eps
    if peaks.shape[1] >= k:
        kth = peaks.float().topk(k, sorted=False).values.amin(1)
        least = torch.maximum(least, kth - error - eps * kth.abs())
    least = least - error
    least = (least - eps * least.abs()).to(product.dtype)  # it and the product are rounded by half of eps at most
    rows, groups = (~(peaks < least[:, None])).nonzero().unbind(1)
    if 2 * len(rows) > peaks.numel():
        return None
    chosen, members = (~(grouped[rows, :, groups] < least[rows, None])).nonzero().unbind(1)
    return rows[chosen], columns[members * peaks.shape[1] + groups[chosen]]


def _keys_of_pairs(rows: Tensor, columns: Tensor, tile: _Prepared, queries: Tensor, start: int) -> Tensor:
    """Keys of some pairs, computed exactly, a row per query; rows are filled up with the lowest key."""
    counts = rows.bincount(minlength=len(queries))
    starts = F.pad(counts.cumsum(0), (1, 0))
    shape = (len(queries), len(tile.exact))
    pairs = torch.sparse_csr_tensor(starts, columns, queries.new_zeros(len(columns)), shape, check_invariants=False)
    closeness = torch.sparse.sampled_addmm(pairs, queries, tile.exact.T, beta=0.0).values() - tile.shift[columns]
    keys = torch.full((len(queries), int(counts.max())), torch.iinfo(torch.int64).min, device=rows.device)
    keys[rows, torch.arange(len(rows), device=rows.device) - starts[rows]] = _keys(closeness, columns + start)
    return keys


def _keys(closeness: Tensor, positions: Tensor) -> Tensor:
    """Integers in the order of the closeness (float32) and, where that is equal, of the positions turned round."""
    bits = (closeness + 0.0).contiguous().view(torch.int32)  # + 0.0: -0 and 0 are one number
    return (_ordered(bits).long() << 32) | (_LAST - positions)


def _ordered(bits: Tensor) -> Tensor:
    """A float's bits as an integer of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _closeness(keys: Tensor) -> Tensor:
    return _ordered((keys >> 32).int()).view(torch.float32)


def _positions(keys: Tensor) -> Tensor:
    return _LAST - (keys & _LAST)


def _over_processes(best: Tensor) -> Tensor:
    """The best keys of all processes."""
    if distributed.is_distributed():
        for rows in _slices(len(best), 4096):
            everyones = distributed.gather(best[rows])
            best[rows] = everyones.transpose(0, 1).flatten(1).topk(best.shape[1]).values
    return best


def _unpacked(keys: Tensor, queries: Tensor, distance: str) -> Neighbours:
    keys = keys.sort(dim=1, descending=True).values
    closeness = _closeness(keys)
    if distance == "euclidean":
        squares = queries.square().sum(1, keepdim=True) - 2 * closeness
        closeness = -squares.clamp(min=0).sqrt()
    return Neighbours(closeness.cpu(), _positions(keys).cpu())


# ---------------------------------------------------------------------------------------------- voting


def votes(
    near: Neighbours, bank_labels: Tensor, num_classes: int, ks: Iterable[int], temperature: float, distance: str
) -> Iterator[tuple[int, Tensor]]:
    """Each k, rising, with the class scores ``(M, num_classes)`` of the k nearest; valid until the next is asked for.

    A neighbour votes for its class with weight exp(cosine / temperature), or, for Euclidean distance, with
    1 / (distance + 1e-5).
    """
    closeness = near.closeness.double()
    # Of the cosines' exp, only ratios count within a query; the shift keeps it finite for small temperatures.
    shifted = (closeness - closeness[:, :1]) / temperature
    weights = shifted.exp() if distance == "cosine" else 1 / (1e-5 - closeness)
    labels = bank_labels.cpu()[near.positions]
    scores = weights.new_zeros(len(labels), num_classes)
    done = 0
    for k in sorted(set(ks)):
        for j in range(done, k):  # one at a time: the order of the additions is fixed
            scores.scatter_add_(1, labels[:, j : j + 1], weights[:, j : j + 1])
        done = k
        yield k, scores


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Place of the label among the classes, from 0; of equal scores, the lower class comes first.

    Args:
        scores: ``(M, classes)``; where the label's own is NaN, it comes last.
        labels: ``(M,)``.
    """
    own = scores.gather(1, labels[:, None])
    after = torch.arange(scores.shape[1], device=scores.device) >= labels[:, None]
    return scores.shape[1] - ((scores < own) | ((scores == own) & after)).sum(1) - own.isnan().squeeze(1).int()


def count_hits(
    near: Neighbours,
    bank_labels: Tensor,
    targets: Tensor,
    ks: Sequence[int],
    temperature: float = 0.07,
    distance: str = "cosine",
) -> Mapping[int, tuple[int, int]]:
    """For each k, how many queries have their label first, and among the first five (or k, where that is less).

    Args:
        near: at least as many neighbours as the largest k.
        bank_labels: ``(N,)`` of the whole bank.
        targets: ``(M,)`` labels of the queries.
        ks: neighbours that vote.
        temperature: of the cosine vote, above 0.
        distance: that ``near`` was found by.
    """
    targets, num_classes = targets.cpu(), int(max(bank_labels.max(), targets.max())) + 1
    hits = dict.fromkeys(ks, (0, 0))
    for rows in _slices(len(targets), 4096):
        part = Neighbours(near.closeness[rows], near.positions[rows])
        for k, scores in votes(part, bank_labels, num_classes, ks, temperature, distance):
            place = ranks(scores, targets[rows])
            first, five = int((place == 0).sum()), int((place < min(5, k)).sum())
            hits[k] = (hits[k][0] + first, hits[k][1] + five)
    return hits


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    distance: str = "cosine",
) -> Tensor:
    """Class scores of each query from its k nearest neighbours in the bank, as :func:`votes`; on one process.

    Args:
        bank: ``(N, D)`` features, any scale.
        bank_labels: ``(N,)`` integers in 0 to num_classes - 1.
        queries: ``(M, D)`` features.
        num_classes: number of classes.
        k: neighbours, 1 to N.
        temperature: of the cosine vote, above 0.
        distance: ``cosine`` or ``euclidean``.

    Returns:
        ``(M, num_classes)``, float32, larger is more likely.

    Raises:
        ValueError: k, a label or a distance out of range.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must be 1 to the bank's {len(bank)} images, got {k}")
    if bank_labels.min() < 0 or bank_labels.max() >= num_classes:
        raise ValueError(
            f"bank labels must be 0 to {num_classes - 1}, got {int(bank_labels.min())} to {int(bank_labels.max())}"
        )
    near = find_neighbours(in_tiles(bank), queries, k, distance)
    ((_, scores),) = votes(near, bank_labels, num_classes, [k], temperature, distance)
    return scores.float().to(queries.device)


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of rows whose label is among the k best scores, in percent."""
    return 100.0 * (ranks(scores, labels) < k).float().mean().item()
