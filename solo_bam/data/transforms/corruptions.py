"""The corruptions of CIFAR-10-C by the formulas and strengths of Hendrycks & Dietterich (ICLR 2019).

Frost is left out, which needs their photographs. Strengths are those for 32 pixels; lengths grow with the image's side.
The pixels are not those of the published files: glass takes a neighbor in place of swapping with it, fog is a sum of
octaves of noise, motion is a one-sided Gaussian streak.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 32  # pixels that the strengths are meant for
SEVERITIES = range(1, 6)
Pixels = np.ndarray  # (side, side, 3), 0 to 1
Generator = np.random.Generator
_LUMA = np.array([0.299, 0.587, 0.114])


class Corrupt:
    """A corruption of a square PIL image, the same every time for the same pixels.

    Args:
        name: one of :data:`CORRUPTIONS`.
        severity: 1 to 5.
    """

    def __init__(self, name: str, severity: int):
        self.name, self.severity = name, severity

    def __call__(self, image: Image.Image) -> Image.Image:
        make, strengths = CORRUPTIONS[self.name]
        generator = np.random.default_rng([zlib.crc32(image.tobytes()), self.severity, *self.name.encode()])
        pixels = make(np.asarray(image, dtype=np.float64) / 255, strengths[self.severity - 1], generator)
        return _as_image(pixels)

    def __repr__(self) -> str:
        return f"Corrupt({self.name}, {self.severity})"


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.uint8(255 * pixels.clip(0, 1) + 0.5))


def _blurred(x: Pixels, sigma: float) -> Pixels:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0))


def _magnified(x: Pixels, factor: float) -> Pixels:
    """The middle of an image at its full size."""
    middle = (len(x) - 1) / 2 * (1 - 1 / factor)
    return ndimage.affine_transform(x, [1 / factor, 1 / factor, 1], [middle, middle, 0], order=1, mode="nearest")


def _streaked(x: Pixels, radius: float, sigma: float, degrees: float) -> Pixels:
    """A Gaussian streak in one direction."""
    away = np.arange(2 * round(radius) + 1)
    weights = np.exp(-(away**2) / (2 * sigma**2))
    down, right = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    kept = [(w, d) for w, d in zip(weights / weights.sum(), away) if w > 1e-4]
    return sum(w * ndimage.shift(x, (d * down, d * right, 0), order=1, mode="nearest") for w, d in kept)


def _clouds(side: int, decay: float, generator: Generator) -> Pixels:
    """Noise whose octaves fall by the square of ``decay``, 0 to 1: ``(side, side)``."""
    field = np.zeros((side, side))
    for octave in range(int(np.log2(side)) + 1):
        grid = generator.uniform(-1, 1, (2**octave + 1, 2**octave + 1))
        rows = np.linspace(0, 2**octave, side)
        field += ndimage.map_coordinates(grid, np.meshgrid(rows, rows, indexing="ij"), order=1) / decay ** (2 * octave)
    return (field - field.min()) / np.ptp(field)


def _impulse(x: Pixels, amount: float, generator: Generator) -> Pixels:
    drawn = generator.random(x.shape)
    return np.where(drawn < amount / 2, 0.0, np.where(drawn < amount, 1.0, x))


def _defocus(x: Pixels, strength: tuple[float, float], _: Generator) -> Pixels:
    radius, smoothing = strength[0] * len(x) / SIDE, strength[1]
    reach = int(radius) + 2
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = ndimage.gaussian_filter((rows**2 + columns**2 <= radius**2).astype(float), smoothing)
    return ndimage.convolve(x, disk[..., None] / disk.sum())


def _glass(x: Pixels, strength: tuple[float, int, int], generator: Generator) -> Pixels:
    sigma, reach, times = strength[0] * len(x) / SIDE, max(1, round(strength[1] * len(x) / SIDE)), strength[2]
    x = _blurred(x, sigma)
    for _ in range(times):
        moves = generator.integers(-reach, reach, (2, *x.shape[:2]))
        rows, columns = np.clip(np.indices(x.shape[:2]) + moves, 0, len(x) - 1)
        x = x[rows, columns]
    return _blurred(x, sigma)


def _motion(x: Pixels, strength: tuple[float, float], generator: Generator) -> Pixels:
    radius, sigma = np.multiply(strength, len(x) / SIDE)
    return _streaked(x, radius, sigma, generator.uniform(-45, 45))


def _zoom(x: Pixels, most: float, _: Generator) -> Pixels:
    views = [x, *(_magnified(x, factor) for factor in np.arange(1, most, 0.01))]
    return np.mean(views, axis=0)


def _snow(x: Pixels, strength: tuple[float, ...], generator: Generator) -> Pixels:
    mean, deviation, size, least, radius, sigma, kept = strength
    flakes = _magnified(generator.normal(mean, deviation, (*x.shape[:2], 1)), size)
    flakes = np.where(flakes < least, 0, flakes.clip(0, 1))
    unit = len(x) / SIDE
    flakes = _streaked(flakes, radius * unit, sigma * unit, generator.uniform(-135, -45))
    white = np.maximum(x, (1.5 * x @ _LUMA + 0.5)[..., None])
    return kept * x + (1 - kept) * white + flakes + flakes[::-1, ::-1]


def _fog(x: Pixels, strength: tuple[float, float], generator: Generator) -> Pixels:
    amount, decay = strength
    return (x + amount * _clouds(len(x), decay, generator)[..., None]) * x.max() / (x.max() + amount)


def _brightness(x: Pixels, amount: float, _: Generator) -> Pixels:
    """More of HSV's value; hue and saturation stay."""
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    return np.where(value > 0, x * brighter / np.maximum(value, 1e-9), brighter)


def _contrast(x: Pixels, share: float, _: Generator) -> Pixels:
    mean = x.mean((0, 1), keepdims=True)
    return mean + share * (x - mean)


def _elastic(x: Pixels, strength: tuple[float, float, float], generator: Generator) -> Pixels:
    """A random affine map of three points, then smooth displacements; all lengths are shares of the side."""
    side = len(x)
    push, sigma, reach = np.multiply(strength, side)
    corners = side // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = np.column_stack([corners + generator.uniform(-reach, reach, corners.shape), np.ones(3)])
    affine = np.linalg.solve(moved, corners)
    places = np.moveaxis(np.indices((side, side)), 0, -1) @ affine[:2] + affine[2]
    noise = generator.uniform(-1, 1, (side, side, 2))
    places += push * ndimage.gaussian_filter(noise, (sigma, sigma, 0), truncate=3)
    places = np.moveaxis(places, -1, 0)
    return np.dstack([ndimage.map_coordinates(x[..., i], places, order=1, mode="mirror") for i in range(3)])


def _pixelate(x: Pixels, share: float, _: Generator) -> Pixels:
    small = _as_image(x).resize((int(share * len(x)),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize(x.shape[1::-1], Image.Resampling.BOX)) / 255


def _jpeg(x: Pixels, quality: int, _: Generator) -> Pixels:
    file = io.BytesIO()
    _as_image(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=["JPEG"])) / 255


# What makes it, and its strengths of severity 1 to 5.
CORRUPTIONS: dict[str, tuple[Callable[[Pixels, Any, Generator], Pixels], list[Any]]] = {
    "gaussian noise": (lambda x, c, draw: x + draw.normal(0, c, x.shape), [0.04, 0.06, 0.08, 0.09, 0.10]),
    "shot noise": (lambda x, c, draw: draw.poisson(x * c) / c, [500, 250, 100, 75, 50]),
    "impulse noise": (_impulse, [0.01, 0.02, 0.03, 0.05, 0.07]),
    "defocus blur": (_defocus, [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]),
    "glass blur": (_glass, [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)]),
    "motion blur": (_motion, [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
    "zoom blur": (_zoom, [1.06, 1.11, 1.16, 1.21, 1.26]),
    "snow": (_snow, [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ]),
    "fog": (_fog, [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
    "brightness": (_brightness, [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": (_contrast, [0.75, 0.5, 0.4, 0.3, 0.15]),
    "elastic": (_elastic, [
        (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
    ]),
    "pixelate": (_pixelate, [0.95, 0.9, 0.85, 0.75, 0.65]),
    "JPEG": (_jpeg, [80, 65, 58, 50, 40]),
}  # fmt: skip
