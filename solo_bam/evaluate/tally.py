"""Counting right and wrong answers exactly, over batches and processes."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam.core import collectives
from solo_bam.core.errors import UserError
from solo_bam.runs.records import wilson_interval

TOP = 5


class Tally:
    """Answers of several classifiers to the same images.

    Args:
        heads: classifiers.
        num_classes: of the labels.
        device: where the logits are.

    Attributes:
        confusion: ``(heads, classes, classes)`` counts: true class, predicted class.
        top: ``(heads,)`` images whose class is among the five most likely.
        loss: ``(heads,)`` sum of the cross-entropies.
    """

    def __init__(self, heads: int, num_classes: int, device: torch.device | str = "cpu"):
        self.confusion = torch.zeros(heads, num_classes, num_classes, dtype=torch.int64, device=device)
        self.top = torch.zeros(heads, dtype=torch.int64, device=device)
        self.loss = torch.zeros(heads, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: ``(heads, N, classes)`` logits, ``(N,)`` labels."""
        heads, _, classes = logits.shape
        head = torch.arange(heads, device=labels.device)[:, None]
        cells = (head * classes + labels) * classes + logits.argmax(-1)
        self.confusion.view(-1).index_add_(0, cells.flatten(), torch.ones_like(cells).flatten())
        best = logits.topk(min(TOP, classes)).indices
        self.top += (best == labels[:, None]).any(-1).sum(-1)
        repeated = labels.expand(heads, -1)
        self.loss += F.cross_entropy(logits.float().transpose(1, 2), repeated, reduction="none").sum(-1)

    def reduce(self) -> None:
        """Add up all processes."""
        for counts in (self.confusion, self.top, self.loss):
            collectives.all_sum(counts)

    @property
    def images(self) -> int:
        """Images counted."""
        return int(self.confusion[0].sum())

    @property
    def accuracies(self) -> list[float]:
        """Of each classifier, in percent; NaN where its logits were not finite, whose argmax is the first class."""
        return self._shares(self.confusion.diagonal(dim1=1, dim2=2).sum(-1))

    @property
    def top_accuracies(self) -> list[float]:
        """Shares of the images whose class is among the five most likely, in percent."""
        return self._shares(self.top)

    def _shares(self, counts: Tensor) -> list[float]:
        shares = 100.0 * counts.cpu().double() / max(self.images, 1)
        return shares.where(self.loss.cpu().isfinite(), math.nan).tolist()

    @property
    def losses(self) -> list[float]:
        """Mean cross-entropy of each classifier, in nats."""
        return (self.loss / max(self.images, 1)).tolist()

    def best(self) -> int:
        """The classifier with the most right answers; of equal ones, that of the smaller cross-entropy.

        Raises:
            UserError: none has an answer that is a number.
        """
        found = [i for i, share in enumerate(self.accuracies) if not math.isnan(share)]
        if not found:
            raise UserError("optimizer.lr", "the answers of every linear head are NaN or infinite", "lower it")
        return max(found, key=lambda i: (self.accuracies[i], -self.losses[i]))


def write_per_class(path: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """A table of each class's images, right answers, accuracy and its 95 % interval, in percent."""
    with path.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["class", "images", "correct", "accuracy", "low", "high"])
        for label, name in enumerate(classes):
            images, correct = int(confusion[label].sum()), int(confusion[label, label])
            if images:
                shares = [100 * correct / images, *wilson_interval(correct / images, images)]
                table.writerow([name, images, correct, *(f"{share:.2f}" for share in shares)])
            else:
                table.writerow([name, 0, 0, "", "", ""])


def write_confusion(path: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Counts: a row per true class, a column per predicted class."""
    with path.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["true \\ predicted", *classes])
        table.writerows([name, *map(int, row)] for name, row in zip(classes, confusion))
