"""The random decisions of torchvision pipelines for many images at once: the law of :mod:`.draws`.

The numbers behind them follow from seed, epoch and image, whatever else is in the batch, but they are not those of
torchvision's generators, which are asked image by image: that alone takes longer than everything else here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torchvision import transforms as T

from solo_bam.data.transforms.draws import HUE, SKIP, affine_matrix, crop_size, kind, sampled_sigma, width
from solo_bam.solo_learn import GaussianBlur

TRIES = 10  # torchvision's, for a crop that fits
_NUMBERS = {T.RandomResizedCrop: 2 * TRIES + 2, T.RandomAffine: 6, T.ColorJitter: 9, GaussianBlur: 2}


def uniforms(seed: int, epoch: int, indexes: Sequence[int], count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) for each image of an epoch: ``(images, count)``, float64.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) at the places ``index * count ...`` of one stream per seed and
    epoch: any image's numbers are there at once.
    """
    start, gamma = np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint64)
    places = np.asarray(indexes, dtype=np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
    z = start + places * (gamma | np.uint64(1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def draw_batch(
    pipelines: Sequence[tuple[T.Compose, int]], shape: tuple[int, int], seed: int, epoch: int, indexes: Sequence[int]
) -> list[list[np.ndarray]]:
    """Decisions for all crops of some images.

    Args:
        pipelines: torchvision pipelines and how many crops of each.
        shape: height and width of the images.
        seed: of the run.
        epoch: from 0.
        indexes: of the images.

    Returns:
        For each crop and transform an array ``(images, width(transform))``, as :func:`.draws.draw`
        gives them for one image.
    """
    crops = one_by_one(pipelines)
    needed = sum(numbers(transform) for crop in crops for transform in crop.transforms)
    u, used = uniforms(seed, epoch, indexes, needed), 0
    drawn: list[list[np.ndarray]] = []
    for crop in crops:
        drawn.append([])
        for transform in crop.transforms:
            mine = u[:, used : used + numbers(transform)]
            used += numbers(transform)
            drawn[-1].append(draw_many(transform, mine, shape, crop_size(crop)))
    return drawn


def one_by_one(pipelines: Sequence[tuple[T.Compose, int]]) -> list[T.Compose]:
    """The pipeline of each crop."""
    return [pipeline for pipeline, count in pipelines for _ in range(count)]


def numbers(transform: Any) -> int:
    """How many uniform numbers a transform's decisions take."""
    return _NUMBERS.get(kind(transform), width(transform))


def draw_many(transform: Any, u: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """A transform's decisions from uniform numbers ``(images, numbers(transform))``."""
    found = kind(transform)
    if found is T.RandomResizedCrop:
        return _boxes(transform, u, *shape)
    if found not in (T.RandomAffine, T.ColorJitter, GaussianBlur):
        return (u < getattr(transform, "p", 0)).astype(np.float64)
    inner, happens = transform.transforms[0], u[:, :1] < transform.p
    if found is T.RandomAffine:
        return np.where(happens, np.column_stack([happens, _matrices(inner, u[:, 1:], size)]), 0.0)
    if found is T.ColorJitter:
        return np.where(happens, _jitters(inner, u[:, 1:]), [SKIP] * 4 + [0.0] * 4)
    return np.where(happens, sampled_sigma(_between(inner.sigma, u[:, 1:])), 0.0)


def _between(limits: Sequence[float], u: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * u


def _boxes(t: T.RandomResizedCrop, u: np.ndarray, height: int, width: int) -> np.ndarray:
    """The first of some tries that fits, else the largest central crop of an allowed ratio; top, left, h, w."""
    areas = height * width * _between(t.scale, u[:, :TRIES])
    ratios = np.exp(_between([math.log(ratio) for ratio in t.ratio], u[:, TRIES:-2]))
    h, w = np.rint(np.sqrt(areas / ratios)), np.rint(np.sqrt(areas * ratios))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = (np.arange(len(u)), fits.argmax(1))
    top, left = np.floor(u[:, -2] * (height - h[first] + 1)), np.floor(u[:, -1] * (width - w[first] + 1))
    boxes = np.column_stack([top, left, h[first], w[first]])
    return np.where(fits.any(1, keepdims=True), boxes, _central(t.ratio, height, width))


def _central(ratio: Sequence[float], height: int, width: int) -> list[float]:
    h, w = min(height, round(width / min(ratio))), min(width, round(height * max(ratio)))
    return [(height - h) // 2, (width - w) // 2, h, w]


def _matrices(t: T.RandomAffine, u: np.ndarray, size: int) -> np.ndarray:
    """Rows of 2 x 3 matrices; uniform numbers: angle, shift across and down, zoom, shear."""
    reach = [share * size for share in t.translate]
    shift = np.column_stack([np.rint(_between((-reach[i], reach[i]), u[:, 1 + i])) for i in (0, 1)])
    zoom = _between(t.scale, u[:, 3])
    shear = np.column_stack([_between(t.shear, u[:, 4]) if t.shear else 0 * zoom, 0 * zoom])
    return affine_matrix(_between(t.degrees, u[:, 0]), shift, zoom, shear, size)


def _jitters(t: T.ColorJitter, u: np.ndarray) -> np.ndarray:
    """Operations in order and their factors; uniform numbers: four for the order, four for the factors."""
    limits = [t.brightness, t.contrast, t.saturation, t.hue]
    missing = np.array([limit is None for limit in limits])
    order = np.where(missing, 2.0, u[:, :4]).argsort(1)
    factors = np.column_stack([_between(limit or (0.0, 0.0), u[:, 4 + i]) for i, limit in enumerate(limits)])
    factors[:, HUE] = np.trunc(255 * factors[:, HUE]) / 255  # PIL's steps
    skipped = missing[order]
    taken = np.take_along_axis(factors, order, axis=1)
    return np.column_stack([np.where(skipped, SKIP, order), np.where(skipped, 0.0, taken)])
