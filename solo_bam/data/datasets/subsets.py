"""Parts of a dataset that depend on its labels and a seed alone."""

from __future__ import annotations

import numpy as np


def balanced(targets: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Positions of a share of the labelled images, equally many of each class; 1: all labelled images.

    The number per class is the share of all labelled images, divided by the classes and rounded, at least 1; a
    smaller class gives all it has. Of one seed, the smaller subset lies within the larger one.

    Args:
        targets: ``(N,)`` labels, -1 for images without.
        share: above 0, at most 1.
        seed: which images.

    Returns:
        Rising positions.
    """
    labelled = np.flatnonzero(targets >= 0)
    if share >= 1 or not len(labelled):
        return labelled
    classes = np.unique(targets[labelled])
    per_class = max(1, round(share * len(labelled) / len(classes)))
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(targets == c))[:per_class] for c in classes]
    return np.sort(np.concatenate(drawn))


def describe_share(share: float) -> str:
    """What :func:`balanced` takes, for a protocol."""
    return "all" if share >= 1 else f"class-balanced {100 * share:g} %"
