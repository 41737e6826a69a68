"""A torchvision pipeline's operations in DALI, as PIL carries them out; the decisions come from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvidia.dali import fn, math, pipeline_def, types
from torchvision import transforms as T

from solo_bam.data.transforms.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, crop_size, kind, width
from solo_bam.solo_learn import GaussianBlur

FILES = "files"
_equalize = getattr(fn, "equalize", None) or fn.experimental.equalize  # its place before DALI 2
_CUT = -0.499 / 255  # turns rounding into cutting off, which PIL does
_INVERTED = [value if value < 128 else 255 - value for value in range(256)]


def names(pipelines: Sequence[tuple[T.Compose, int]]) -> list[tuple[str, int]]:
    """The graph's inputs after :data:`FILES` and how many numbers per image each takes, in the order of the draws."""
    crops = [pipeline for pipeline, count in pipelines for _ in range(count)]
    return [
        (f"{crop}.{step}", width(transform))
        for crop, pipeline in enumerate(crops)
        for step, transform in enumerate(pipeline.transforms)
        if width(transform)
    ]


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def crops_graph(pipelines: Sequence[tuple[T.Compose, int]], source: Any, gpu: bool) -> tuple[Any, ...]:
    """All crops of a batch of encoded images.

    Args:
        pipelines: torchvision pipelines and how many crops of each.
        source: called for every batch; gives what :func:`names` says.
        gpu: decode and augment there.
    """
    inputs = [FILES, *(name for name, _ in names(pipelines))]
    given = fn.external_source(
        source=source,
        num_outputs=len(inputs),
        dtype=[types.UINT8] + [types.FLOAT] * (len(inputs) - 1),
        ndim=1,
    )
    draws = dict(zip(inputs, given))
    images = fn.decoders.image(
        draws[FILES],
        device="mixed" if gpu else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,  # as PIL
        jpeg_fancy_upsampling=True,  # as PIL
    )
    outputs: list[Any] = []
    for pipeline, count in pipelines:
        for _ in range(count):
            x = images
            for step, transform in enumerate(pipeline.transforms):
                x = apply(transform, x, draws.get(f"{len(outputs)}.{step}"), crop_size(pipeline))
            outputs.append(x)
    return tuple(outputs)


def apply(transform: Any, x: Any, d: Any, size: int) -> Any:
    """One transform with its decisions ``d`` on images ``x``, (height, width, 3) bytes."""
    found = kind(transform)
    if found is T.RandomResizedCrop:
        d = fn.cast(d, dtype=types.INT32)
        x = fn.slice(x, start=d[0:2], shape=d[2:4], axes=(0, 1))
        x = fn.resize(x, size=(size, size), interp_type=types.INTERP_CUBIC)
    elif found is T.Resize:
        x = fn.resize(x, size=(size, size), interp_type=types.INTERP_CUBIC)
    elif found is T.RandomAffine:
        if d[0] > 0:
            x = warp(x, fn.reshape(d[1:7], shape=[2, 3]))
    elif found is T.ColorJitter:
        x = jitter(x, d)
    elif found is T.RandomGrayscale:
        if d[0] > 0:
            x = fn.cat(grey(x), grey(x), grey(x), axis=2)
    elif found is GaussianBlur:
        if d[0] > 0:
            x = fn.gaussian_blur(x, sigma=d[0])
    elif found is T.RandomSolarize:
        if d[0] > 0:
            x = fn.lookup_table(x, keys=list(range(256)), values=_INVERTED, dtype=types.UINT8)
    elif found is T.RandomEqualize:
        if d[0] > 0:
            x = equalise(x, size)
    elif found is T.RandomHorizontalFlip:
        if d[0] > 0:
            x = fn.flip(x)
    elif found is T.Normalize:
        mean, std = ([255 * float(value) for value in values] for values in (transform.mean, transform.std))
        x = fn.crop_mirror_normalize(x, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")
    return x


def warp(x: Any, matrix: Any) -> Any:
    """Black outside the image, and only there: DALI's own filling would mix black into the border."""
    inside = fn.cast(x[:, :, 0:1] >= 0, dtype=types.UINT8)
    inside = fn.warp_affine(inside, matrix=matrix, fill_value=0, interp_type=types.INTERP_NN)
    return to_bytes(fn.warp_affine(x, matrix=matrix, dtype=types.FLOAT)) * inside


def equalise(x: Any, size: int) -> Any:
    """PIL's equalisation, channel by channel.

    For a level's new value PIL counts the pixels below it, DALI those up to it: the same thing on the negative. And
    PIL's pixels per level are a whole number, which matters in small crops; with less than one nothing is done.
    """
    brightest = fn.cast(x == fn.reductions.max(x, axes=(0, 1), keep_dims=True), dtype=types.FLOAT)
    per_level = (size * size - fn.reductions.sum(brightest, axes=(0, 1), keep_dims=True)) / 255
    whole = math.floor(per_level)
    flat = fn.cast(whole < 1, dtype=types.FLOAT)
    y = negative(_equalize(negative(x))) * (per_level / math.max(whole, 1))
    return to_bytes(flat * x + (1 - flat) * (y + 0.5))


def negative(x: Any) -> Any:
    """255 less every byte."""
    return fn.cast(255 - x, dtype=types.UINT8)


def jitter(x: Any, d: Any) -> Any:
    """Brightness, contrast, saturation and hue in the image's own order."""
    for step in range(4):
        if d[step] == BRIGHTNESS:
            x = fn.brightness_contrast(x, brightness=d[4 + step], brightness_shift=_CUT)
        elif d[step] == CONTRAST:
            mean = math.floor(fn.reductions.mean(grey(x), axes=(0, 1), keep_dims=True) + 0.5)
            x = to_bytes(mean + (x - mean) * d[4 + step])
        elif d[step] == SATURATION:
            base = fn.cast(grey(x), dtype=types.FLOAT)
            x = to_bytes(base + (x - base) * d[4 + step])
        elif d[step] == HUE:
            x = turn_hue(x, d[4 + step])
    return x


def grey(x: Any) -> Any:
    """(height, width, 1) luma."""
    return fn.color_space_conversion(x, image_type=types.RGB, output_type=types.GRAY)


def to_bytes(x: Any) -> Any:
    """Cut off to bytes, as PIL does."""
    return fn.cast(math.floor(x), dtype=types.UINT8)


def turn_hue(x: Any, share: Any) -> Any:
    """Hue moved by a share of the circle in 255ths; PIL's, with hue and saturation in 256 steps."""
    x = fn.cast(x, dtype=types.FLOAT)
    r, g, b = x[:, :, 0:1], x[:, :, 1:2], x[:, :, 2:3]
    top, low = math.max(math.max(r, g), b), math.min(math.min(r, g), b)
    chroma = math.max(top - low, 1e-3)
    is_red, is_green = r == top, g == top
    sector = is_red * ((g - b) / chroma) + (1 - is_red) * (
        is_green * (2 + (b - r) / chroma) + (1 - is_green) * (4 + (r - g) / chroma)
    )
    hue = sector / 6
    hue = math.floor((hue - math.floor(hue)) * 255) + share * 255
    hue = (hue - 256 * math.floor(hue / 256)) * (6 / 255)
    saturated = math.floor(255 * (top - low) / math.max(top, 1)) / 255
    parts = []
    for offset in (5, 3, 1):
        k = hue + offset
        k = k - 6 * math.floor(k / 6)
        parts.append(top - top * saturated * math.clamp(math.min(k, 4 - k), 0, 1))
    return fn.cast(fn.cat(*parts, axis=2), dtype=types.UINT8)
