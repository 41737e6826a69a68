"""solo-learn's online k-NN as a metric that works on today's torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.metric import Metric

from solo_bam.core import hardware
from solo_bam.core.neighbors import accuracy, knn_scores


class WeightedKNNClassifier(Metric):
    """solo-learn's online k-NN under its own interface.

    Mended: torchmetrics has no ``compute_on_step`` any more and ``forward`` must only update; classes that
    the validation set lacks no longer crash it; cosine distance compares normalised features; images
    without a label (-1) stay out of the bank and of the accuracy.

    Args:
        k: neighbours; a smaller bank is used whole.
        T: temperature of the cosine vote.
        distance_fx: ``euclidean`` (solo-learn's default online) or ``cosine``.
    """

    full_state_update = False

    def __init__(self, k: int = 20, T: float = 0.07, distance_fx: str = "cosine", **kwargs: Any):
        super().__init__()
        self.k, self.T, self.distance_fx = k, T, distance_fx
        for name in ("train_features", "train_targets", "test_features", "test_targets"):
            self.add_state(name, default=[], persistent=False, dist_reduce_fx="cat")

    def update(
        self,
        train_features: Tensor | None = None,
        train_targets: Tensor | None = None,
        test_features: Tensor | None = None,
        test_targets: Tensor | None = None,
    ) -> None:
        """Add features ``(N, D)`` and labels ``(N,)`` to the bank (train) or to the queries (test)."""
        for split, features, targets in (
            ("train", train_features, train_targets),
            ("test", test_features, test_targets),
        ):
            if features is not None and targets is not None:
                if not hardware.reading_waits(targets.device):
                    features, targets = _labelled(features, targets)  # on accelerators at the end: rows are counted
                # Copies: a compiled network that runs as a CUDA graph writes its next output over its last.
                getattr(self, f"{split}_features").append(features.detach().clone())
                getattr(self, f"{split}_targets").append(targets.detach().clone())

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Only :meth:`update`: computing at every step would cost more than the training."""
        self.update(*args, **kwargs)

    @torch.no_grad()
    def compute(self) -> tuple[float, float]:
        """Accuracy @1 and @5 in percent, over all processes; NaN without labelled images."""
        bank, labels = _labelled(_cat(self.train_features), _cat(self.train_targets))
        queries, targets = _labelled(_cat(self.test_features), _cat(self.test_targets))
        if not len(bank) or not len(queries):
            return float("nan"), float("nan")
        classes = int(max(labels.max(), targets.max())) + 1
        scores = knn_scores(bank, labels, queries, classes, min(self.k, len(bank)), self.T, self.distance_fx)
        return accuracy(scores, targets), accuracy(scores, targets, k=5)


def _labelled(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    kept = targets != -1
    return features[kept], targets[kept]


def _cat(state: Any) -> Tensor:
    """A torchmetrics list state as one tensor (after a sync over processes it already is one)."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)
