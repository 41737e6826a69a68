"""The measures of DAVIS (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv 1704.00675), as its evaluation has them.

Masks are boolean ``(height, width)`` arrays of one object.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from solo_bam.data.datasets.davis import VOID as VOID

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
TOLERANCE = 0.008  # of the image's diagonal


class Statistics(NamedTuple):
    """Of a measure over an object's frames; shares of 1."""

    mean: float
    recall: float
    decay: float


class ObjectScore(NamedTuple):
    """J and F of one object."""

    object: int
    region: Statistics
    boundary: Statistics


def region_similarity(truth: Mask, found: Mask, void: Mask | None = None) -> float:
    """J: intersection over union; 1 where both are empty.

    Args:
        truth: annotated mask.
        found: mask to score.
        void: pixels that do not count.
    """
    counted = np.ones_like(truth) if void is None else ~void
    union = int(((truth | found) & counted).sum())
    return float(((truth & found) & counted).sum() / union) if union else 1.0


def boundary_accuracy(truth: Mask, found: Mask, void: Mask | None = None, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of the boundaries, matched within a distance.

    Args:
        truth: annotated mask.
        found: mask to score.
        void: pixels that do not count.
        tolerance: share of the image's diagonal, rounded up to pixels.
    """
    counted = np.ones_like(truth) if void is None else ~void
    reach = math.ceil(tolerance * math.hypot(*truth.shape))
    theirs, ours = boundary(truth & counted), boundary(found & counted)
    if not theirs.any() or not ours.any():
        return float(theirs.any() == ours.any())
    precision = float((distance_transform_edt(~theirs)[ours] <= reach).mean())
    recall = float((distance_transform_edt(~ours)[theirs] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Pixels that differ from their neighbour on the right, below, or right below."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edges: Mask = (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])
    return edges


def statistics(per_frame: NDArray[np.float64]) -> Statistics:
    """Mean; recall, the share of frames above 0.5; decay, the first quarter's mean less the last one's."""
    ends = np.round(np.linspace(1, len(per_frame), 5) + 1e-10).astype(int) - 1
    first, last = per_frame[ends[0] : ends[1] + 1], per_frame[ends[3] : ends[4] + 1]
    return Statistics(float(per_frame.mean()), float((per_frame > 0.5).mean()), float(first.mean() - last.mean()))


def score_sequence(truths: Labels, found: Labels) -> list[ObjectScore]:
    """J and F of every object of the first frame; the first and the last frame are not counted.

    Args:
        truths: ``(frames, height, width)`` annotated object numbers, 0 for the background, 255 for void.
        found: likewise, to score.

    Raises:
        ValueError: fewer than three frames, or shapes that differ.
    """
    if truths.shape != found.shape or len(truths) < 3:
        raise ValueError(f"got frames {truths.shape} and {found.shape}, must be equal and at least 3")
    first = truths[0]
    objects = range(1, int(first[first != VOID].max(initial=0)) + 1)
    return [_score(number, truths[1:-1] == number, found[1:-1] == number) for number in objects]


def _score(number: int, truths: NDArray[np.bool_], found: NDArray[np.bool_]) -> ObjectScore:
    pairs = list(zip(truths, found))
    regions = np.array([region_similarity(t, f) for t, f in pairs])
    boundaries = np.array([boundary_accuracy(t, f) for t, f in pairs])
    return ObjectScore(number, statistics(regions), statistics(boundaries))
