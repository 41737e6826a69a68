"""Weighted k-nearest-neighbour classification (Wu et al., CVPR 2018; DINO's protocol), in pure torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Entries of the distance matrix held at once (64 MiB in float32).
_CHUNK_ENTRIES = 2**24


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    distance: str = "cosine",
) -> Tensor:
    """Class scores of each query from its k nearest neighbours in the bank.

    A neighbour votes for its class with weight exp(cosine / temperature), or, for Euclidean distance, with
    1 / (distance + 1e-5).

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
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f"distance must be cosine or euclidean, got {distance!r}")
    if bank_labels.min() < 0 or bank_labels.max() >= num_classes:
        raise ValueError(
            f"bank labels must be 0 to {num_classes - 1}, got {int(bank_labels.min())} to {int(bank_labels.max())}"
        )
    bank, queries = bank.float(), queries.float()
    if distance == "cosine":
        bank, queries = F.normalize(bank, dim=-1), F.normalize(queries, dim=-1)
    scores = queries.new_zeros(len(queries), num_classes)
    step = max(1, _CHUNK_ENTRIES // len(bank))
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        weights, neighbours = _neighbours(bank, queries[chunk], k, temperature, distance)
        scores[chunk].scatter_add_(1, bank_labels[neighbours], weights)
    return scores


def _neighbours(bank: Tensor, queries: Tensor, k: int, temperature: float, distance: str) -> tuple[Tensor, Tensor]:
    """Votes and positions of the k nearest: two ``(M, k)`` tensors."""
    if distance == "cosine":
        cosine, neighbours = (queries @ bank.T).topk(k)
        # Only ratios count within a query; the shift keeps exp finite for small temperatures.
        return ((cosine - cosine[:, :1]) / temperature).exp(), neighbours
    nearest, neighbours = torch.cdist(queries, bank).topk(k, largest=False)
    return 1 / (nearest + 1e-5), neighbours


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of rows whose label is among the k best scores, in percent."""
    best = scores.topk(min(k, scores.shape[1])).indices
    return 100.0 * (best == labels[:, None]).any(1).float().mean().item()
