"""The random decisions of a batch as one array: a row of numbers per crop, for :mod:`.tensor_operations`.

Each crop has numbers for everything that its recipe may do; where it is left alone they change nothing. So the array's
shape follows from recipe and batch size, never from what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision import transforms as T

from solo_bam.data.transforms.draws import CONTRAST, HUE, SATURATION, SKIP, crop_size, kind
from solo_bam.solo_learn import GaussianBlur

_LUMA = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601, as PIL's
_MIRROR = np.array([[1.0, -1, -1], [-1, 1, 1]])  # signs of a matrix between mirrored images


class Decisions(NamedTuple):
    """Columns of the array, ``(rows, width)`` each; width 0 where no crop undergoes such an operation.

    Attributes:
        place: 1, of the image among all: the bits of an int32.
        box: 4, top, left, height and width in pixels; a mirrored crop starts at the right and has a negative width.
        matrix: 6, from a place in the crop to its place in the image, both reaching from -1 to 1.
        before: 7 for each blend before the hue's turn: shares of red, green and blue in what an image is blended with,
            pixel by pixel; of their means; and its weight.
        turns: 3, from the place of red, green and blue on the circle of hues, whose length is 6, in [-3, 3).
        after: as ``before``, after the hue's turn.
        sharpness: 1, of the blur, 1 / (2 sigma^2).
        top: 1, what solarization subtracts from: 255, or twice that for none.
        equalized: 1, whether.
        scale: 3, of the channels at the end, from 0 ... 255.
        shift: 3, likewise.
    """

    place: Tensor
    box: Tensor
    matrix: Tensor
    before: Tensor
    turns: Tensor
    after: Tensor
    sharpness: Tensor
    top: Tensor
    equalized: Tensor
    scale: Tensor
    shift: Tensor


def pack(
    pipelines: Sequence[T.Compose], drawn: Sequence[Sequence[np.ndarray]], indexes: Sequence[int], shape: Sequence[int]
) -> tuple[np.ndarray, list[int]]:
    """Decisions for some crops of one size, crop after crop.

    Args:
        pipelines: one for each crop.
        drawn: for each crop and transform an array, as :func:`.batch_draws.draw_batch` gives them.
        indexes: places of the images.
        shape: height and width of the images.

    Returns:
        The array, float32 ``(crops * images, sum of widths)``, and the widths of :class:`Decisions`.
    """
    crops = [{kind(t): (t, d) for t, d in zip(p.transforms, ds)} for p, ds in zip(pipelines, drawn)]

    def of(wanted: type, neutral: Sequence[float] = (0,)) -> np.ndarray:
        """A kind's decisions in all crops; ``neutral`` in those that lack it."""
        if not any(wanted in crop for crop in crops):
            return np.empty((len(crops) * len(indexes), 0))
        left_alone = np.tile(neutral, (len(indexes), 1))
        return np.concatenate([crop[wanted][1] if wanted in crop else left_alone for crop in crops])

    size, flips = crop_size(pipelines[0]), of(T.RandomHorizontalFlip)
    normalize = [crop[T.Normalize][0] for crop in crops]
    mean, std = (np.repeat([getattr(t, name) for t in normalize], len(indexes), 0) for name in ("mean", "std"))
    jitters = [crop[T.ColorJitter][0].transforms[0] for crop in crops if T.ColorJitter in crop]
    columns = {
        "place": np.tile(np.asarray(indexes, np.int32).view(np.float32), len(crops))[:, None],
        "box": _boxes(of(T.RandomResizedCrop, [0, 0, *shape]), flips, shape, size),
        "matrix": _matrices(of(T.RandomAffine, [0] * 7), flips, size),
        **_colors(of(T.ColorJitter, [SKIP] * 4 + [0] * 4), of(T.RandomGrayscale), jitters),
        "sharpness": 0.5 / np.maximum(of(GaussianBlur), 1e-3) ** 2,
        "top": 255 * (2 - of(T.RandomSolarize)),
        "equalized": of(T.RandomEqualize),
        "scale": 1 / (255 * std),
        "shift": -mean / std,
    }
    parts = [columns[name].astype(np.float32) for name in Decisions._fields]
    return np.concatenate(parts, axis=1), [part.shape[1] for part in parts]


def _boxes(d: np.ndarray, flips: np.ndarray, shape: Sequence[int], size: int) -> np.ndarray:
    """Boxes, from the right where mirrored; without crops whole images, and none where nothing would change."""
    if not d.size and not flips.size and tuple(shape) == (size, size):
        return d
    top, left, height, width = (d if d.size else np.tile([0, 0, *shape], (len(d), 1))).T
    flip = flips[:, 0] if flips.size else 0
    return np.stack([top, left + flip * width, height, width * (1 - 2 * flip)], axis=1)


def _matrices(d: np.ndarray, flips: np.ndarray, size: int) -> np.ndarray:
    """From pixels to -1 ... 1; of mirrored images, where the crop is to be mirrored afterwards."""
    if not d.size:
        return d
    m = np.where(d[:, :1] > 0, d[:, 1:], [1.0, 0, 0, 0, 1, 0]).reshape(-1, 2, 3)
    m[:, :, 2] = (2 * m[:, :, 2] + size * m[:, :, :2].sum(2)) / size - 1
    return (m * _MIRROR ** flips[:, :, None] if flips.size else m).reshape(-1, 6)


def _colors(d: np.ndarray, gray: np.ndarray, jitters: Sequence[T.ColorJitter]) -> dict[str, np.ndarray]:
    """A jitter's operations in the image's own order, and gray: up to three blends, the hue's turn, up to four more."""
    order, factors = (d[:, :4], d[:, 4:]) if d.size else (np.full((len(d), 4), SKIP),) * 2
    is_hue = order == HUE
    weights = np.where(is_hue | (order == SKIP), 0, 1 - factors)
    blends = _blends(order == SATURATION, order == CONTRAST, weights)
    later = is_hue.cumsum(1)[:, :, None] > 0
    count = max((3 - [t.brightness, t.contrast, t.saturation].count(None) for t in jitters), default=0)
    before, after = np.where(later, 0, blends)[:, :count], np.where(later, blends, 0)[:, 1 : count + 1]
    turns = (6 * 255 / 256 * (is_hue * factors).sum(1, keepdims=True) - [0, 2, 4] + 3) % 6 - 3  # PIL: 255ths of 256
    if all(t.hue is None for t in jitters):
        turns, after = turns[:, :0], after[:, :0]
    after = np.concatenate([after, _blends(gray, 0 * gray, gray)], axis=1)
    return {"before": before.reshape(len(d), -1), "turns": turns, "after": after.reshape(len(d), -1)}


def _blends(of_gray: np.ndarray, of_mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(rows, blends, 7)`` of the shares ``(rows, blends)`` of the gray image and of its mean, and the weights."""
    return np.concatenate([of_gray[..., None] * _LUMA, of_mean[..., None] * _LUMA, weights[..., None]], axis=2)
