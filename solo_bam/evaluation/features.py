"""Features of a frozen backbone over a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Features(NamedTuple):
    """``values`` (N, D) in float32 and ``labels`` (N,), on the CPU, in the dataset's order."""

    values: Tensor
    labels: Tensor


@torch.no_grad()
def _collect(function: Callable[[Tensor], Tensor], dataset: Dataset[Any], batch_size: int, workers: int) -> Features:
    values, labels = [], []
    for images, targets in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
        values.append(function(images).float().cpu())
        labels.append(targets)
    return Features(torch.cat(values), torch.cat(labels))


def extract_features(backbone: nn.Module, dataset: Dataset[Any], batch_size: int = 256, workers: int = 0) -> Features:
    """What a backbone makes of each image, in evaluation mode; its mode is put back afterwards.

    Args:
        backbone: maps images ``(N, 3, height, width)`` to features ``(N, D)``.
        dataset: gives ``(image, label)``, transformed without randomness.
        batch_size: images at once.
        workers: loader processes.
    """
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    try:
        return _collect(lambda images: backbone(images.to(device)), dataset, batch_size, workers)
    finally:
        backbone.train(training)


def pixel_features(dataset: Dataset[Any]) -> Features:
    """The images themselves as features: the baseline that no network may fall below unnoticed."""
    return _collect(lambda images: images.flatten(1), dataset, 256, 0)
