"""The random decisions of a torchvision pipeline, taken without touching a pixel.

The same generators are asked in the same order as when the pipeline runs, so that another engine which carries the
decisions out makes the very same crop.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision import transforms as T

from solo_bam.core.errors import UserError
from solo_bam.solo_learn import GaussianBlur

# Operations of a jitter, as torchvision numbers them.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SKIP = -1.0
_FLAGS = (T.RandomGrayscale, T.RandomSolarize, T.RandomEqualize, T.RandomHorizontalFlip)
_NOTHING = (T.Resize, T.ToTensor, T.Normalize)


def kind(transform: Any, data_format: str = "dali") -> type:
    """What is done: the transform's class, or that of the one inside a ``RandomApply``.

    Args:
        transform: of a pipeline.
        data_format: who is to do it, for the message.

    Raises:
        UserError: it is none that can be carried out elsewhere.
    """
    inner = transform.transforms[0] if type(transform) is T.RandomApply else transform
    found = type(inner)
    if found not in (T.RandomResizedCrop, T.RandomAffine, T.ColorJitter, GaussianBlur, *_FLAGS, *_NOTHING):
        problem = f"got {data_format!r}, which has no {found.__name__}"
        raise UserError("data.format", problem, "remove it or set data.format=image_folder")
    return found


def width(transform: Any) -> int:
    """How many numbers :func:`draw` gives for a transform."""
    fixed = {T.RandomResizedCrop: 4, T.RandomAffine: 7, T.ColorJitter: 8} | dict.fromkeys(_NOTHING, 0)
    return fixed.get(kind(transform), 1)


def draw(transform: Any, image: Any, size: int) -> list[float]:
    """What a transform decides for one image.

    Args:
        transform: of a pipeline of :func:`solo_bam.data.transforms.augmentations.build_pipeline`.
        image: a PIL image, of which only the size is looked at.
        size: side of the crop, for what comes after the first transform.

    Returns:
        RandomResizedCrop: top, left, height, width. RandomAffine: 0 or 1, and the 2 x 3 matrix from a place in
        the crop to its place in the image. ColorJitter: four operations in order, :data:`SKIP` for none, and their
        factors, the hue's in whole 255ths. GaussianBlur: :func:`sampled_sigma`, 0 for none. The others: 0 or 1.
    """
    found = kind(transform)
    if found is T.RandomResizedCrop:
        return [float(x) for x in transform.get_params(image, transform.scale, transform.ratio)]
    if found in _FLAGS:
        return [float(torch.rand(1).item() < transform.p)]
    if found in _NOTHING:
        return []
    happens = not transform.p < torch.rand(1)
    inner = transform.transforms[0]
    if found is T.RandomAffine:
        return [1.0, *_matrix(inner, size)] if happens else [0.0] * 7
    if found is T.ColorJitter:
        return _jitter(inner) if happens else [SKIP] * 4 + [0.0] * 4
    return [sampled_sigma(random.uniform(*inner.sigma[:2])) if happens else 0.0]


_GRID = np.linspace(0.15, 4, 771)
_WEIGHTS = np.exp(-(np.arange(-15, 16) ** 2) / (2 * _GRID[:, None] ** 2))
_DEVIATIONS = np.sqrt((_WEIGHTS * np.arange(-15, 16) ** 2).sum(1) / _WEIGHTS.sum(1))


def sampled_sigma(sigma: Any) -> Any:
    """Sigma of the Gaussian which, sampled at whole pixels, has the deviation ``sigma`` (up to 4; or an array).

    PIL's blur keeps the deviation however small it is; a Gaussian of sigma 0.2 sampled at whole pixels blurs nothing.
    """
    return np.interp(sigma, _DEVIATIONS, _GRID)


def _jitter(t: T.ColorJitter) -> list[float]:
    order, *factors = t.get_params(t.brightness, t.contrast, t.saturation, t.hue)
    if factors[HUE] is not None:
        factors[HUE] = int(255 * factors[HUE]) / 255  # PIL's steps
    steps = [i for i in order.tolist() if factors[i] is not None]
    steps += [SKIP] * (4 - len(steps))
    return [*map(float, steps), *(0.0 if i == SKIP else float(factors[int(i)]) for i in steps)]


def _matrix(t: T.RandomAffine, size: int) -> list[float]:
    angle, shift, zoom, shear = t.get_params(t.degrees, t.translate, t.scale, t.shear, [size, size])
    return list(affine_matrix(np.array(angle), np.array(shift), np.array(zoom), np.array(shear), size))


def affine_matrix(angle: np.ndarray, shift: np.ndarray, zoom: np.ndarray, shear: np.ndarray, size: int) -> np.ndarray:
    """From a place in the crop to its place in the image: the image is turned, zoomed and sheared, then shifted.

    Args:
        angle: ``(...)`` degrees.
        shift: ``(..., 2)`` pixels across and down; the others are about the centre.
        zoom: ``(...)`` factors.
        shear: ``(..., 2)`` degrees across and down.
        size: side of the crop.

    Returns:
        ``(..., 6)``: 2 x 3 matrices, row by row.
    """
    a, tangent = np.radians(angle), np.tan(np.radians(shear))
    one, zero = np.ones_like(a), np.zeros_like(a)
    turn = _square(np.cos(a), -np.sin(a), np.sin(a), np.cos(a))
    sheared = _square(one, zero, -tangent[..., 1], one) @ _square(one, -tangent[..., 0], zero, one)
    inverse = np.linalg.inv(zoom[..., None, None] * turn @ sheared)
    centre = np.full(2, size / 2)
    moved = centre - (inverse @ (centre + shift)[..., None])[..., 0]
    return np.concatenate([inverse, moved[..., None]], axis=-1).reshape(*a.shape, 6)


def _square(*entries: np.ndarray) -> np.ndarray:
    """``(..., 2, 2)`` from four ``(...)``."""
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 2, 2)


def draw_all(pipelines: Sequence[tuple[T.Compose, int]], image: Any) -> np.ndarray:
    """The decisions for all crops of one image, one after the other, float32."""
    numbers: list[float] = []
    for pipeline, count in pipelines:
        size = crop_size(pipeline)
        for _ in range(count):
            for transform in pipeline.transforms:
                numbers += draw(transform, image, size)
    return np.asarray(numbers, dtype=np.float32)


def crop_size(pipeline: T.Compose) -> int:
    """Side of a pipeline's crops."""
    size: int = pipeline.transforms[0].size[0]
    return size
