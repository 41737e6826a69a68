"""Weighted k-nearest-neighbour classification (Wu et al., CVPR 2018; DINO's protocol), in pure torch.

The bank comes in tiles, and several processes may hold different ones: no matrix of all queries against the whole
bank ever exists. Of equally close images, the one that comes first in the bank is nearer; a tile gives the same
numbers whichever process holds it. So the result does not depend on how many processes share the bank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam.core import collectives

BANK_TILE = 4096  # images of the bank in a tile
QUERY_TILE = 512  # queries that a tile is held against at once
QUERY_TILE_ON_ACCELERATORS = 4096  # fewer waits of the host, one for each pair of tiles
DISTANCES = ("cosine", "euclidean")
_GROUP = 8  # neighbours of a tile are looked for in the groups of images with the closest members
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

    Memory beside the arguments, in bytes, whatever the bank's size: 8 · M · k for the neighbours, 4 · M · D for the
    queries scaled, :data:`BANK_TILE` · (8 D + 7 · :data:`QUERY_TILE`) for a tile, 32 · :data:`QUERY_TILE` · 8 k for
    the images that are sorted, and 16 · 4096 · k per process where the bank is shared; on accelerators with
    :data:`QUERY_TILE_ON_ACCELERATORS` in its place.

    Args:
        tiles: features of any scale on any device, at least k images.
        queries: ``(M, D)`` features, the same on every process; the search runs on their device.
        k: neighbours.
        distance: ``cosine`` or ``euclidean``.
        shared: each process has tiles of its own (possibly none), and the nearest of all are wanted.

    Raises:
        ValueError: an unknown distance.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance must be cosine or euclidean, got {distance!r}")
    queries = _scaled(queries, distance)
    best = torch.full((len(queries), k), torch.iinfo(torch.int64).min, device=queries.device)
    for start, features in tiles:
        tile = _scaled(features.to(queries.device), distance)
        for rows in _slices(len(queries), _query_tile(queries.device)):
            found = _nearer_in_tile(tile, queries[rows], distance, start, best[rows, -1:], k)
            best[rows] = torch.cat([best[rows], found], 1).topk(k).values
    return _unpacked(_over_processes(best) if shared else best, queries, distance)


def _query_tile(device: torch.device) -> int:
    return QUERY_TILE if device.type == "cpu" else QUERY_TILE_ON_ACCELERATORS


def _scaled(features: Tensor, distance: str) -> Tensor:
    return F.normalize(features.float(), dim=-1) if distance == "cosine" else features.float()


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _nearer_in_tile(tile: Tensor, queries: Tensor, distance: str, start: int, worst: Tensor, k: int) -> Tensor:
    """Keys ``(m, n)`` of a tile's images, among them the k nearest of those that are nearer than ``worst``, a key.

    They lie in the k groups of consecutive images whose closest members are closest: were one in another group, each
    of these k would hold a nearer image. After the first tiles few groups hold any, so that few images are sorted.
    """
    closeness = tile @ queries.T
    if distance == "euclidean":  # minus the squared distance, up to the query's own square
        closeness = closeness.mul_(2).sub_(tile.square().sum(1, keepdim=True))
    if rest := -len(tile) % _GROUP:
        closeness = F.pad(closeness, (0, 0, 0, rest), value=-torch.inf)
    firsts = torch.arange(0, len(closeness), _GROUP, device=tile.device)
    # As if the closest were the first of its group: at least the key of each member.
    peaks = _keys(closeness.view(-1, _GROUP, len(queries)).amax(1).T, firsts + start)
    groups = peaks.topk(min(k, int((peaks > worst).sum(1).max()))).values
    members = torch.arange(_GROUP, device=tile.device)
    positions = (_positions(groups)[:, :, None] + members).flatten(1)
    return _keys(closeness.T.gather(1, positions - start), positions)


def _keys(closeness: Tensor, positions: Tensor) -> Tensor:
    """Integers in the order of the closeness (float32) and, where that is equal, of the positions turned round."""
    bits = (closeness + 0.0).contiguous().view(torch.int32)  # + 0.0: -0 and 0 are one number
    return (_ordered(bits).long() << 32) | (_LAST - positions)


def _ordered(bits: Tensor) -> Tensor:
    """A float's bits as an integer of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _positions(keys: Tensor) -> Tensor:
    return _LAST - (keys & _LAST)


def _over_processes(best: Tensor) -> Tensor:
    """The best keys of all processes."""
    if collectives.is_distributed():
        for rows in _slices(len(best), 4096):
            everyones = collectives.gather(best[rows])
            best[rows] = everyones.transpose(0, 1).flatten(1).topk(best.shape[1]).values
    return best


def _unpacked(keys: Tensor, queries: Tensor, distance: str) -> Neighbours:
    closeness = _ordered((keys >> 32).int()).view(torch.float32)
    if distance == "euclidean":
        squares = queries.square().sum(1, keepdim=True) - closeness
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


def predict(near: Neighbours, bank_labels: Tensor, k: int, temperature: float, distance: str = "cosine") -> Tensor:
    """The class that the k nearest vote for, ``(M,)``; of equal scores, the lower class, as :func:`ranks` has it.

    Args:
        near: at least k neighbours.
        bank_labels: ``(N,)`` of the whole bank.
        k: neighbours that vote.
        temperature: of the cosine vote, above 0.
        distance: that ``near`` was found by.
    """
    found, num_classes = [], int(bank_labels.max()) + 1
    for rows in _slices(len(near.positions), 4096):
        part = Neighbours(near.closeness[rows], near.positions[rows])
        ((_, scores),) = votes(part, bank_labels, num_classes, [k], temperature, distance)
        best = scores == scores.amax(1, keepdim=True)
        found.append((best * torch.arange(num_classes, 0, -1)).argmax(1))
    return torch.cat(found)


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
