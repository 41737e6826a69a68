"""Crops of images in memory, all of one size in one function: the same operations whatever a batch draws.

Images are ``(N, 3, height, width)`` float32 in [0, 255], on any device, and changed in place. Decisions are the columns
of :class:`.decisions.Decisions` as ``(N, width, 1, 1)``. Nothing waits for a GPU, and nothing branches on a number: the
whole can be compiled or captured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam.data.transforms.decisions import Decisions

_REACH = 6  # pixels: three deviations of the strongest blur


def crop(pixels: Tensor, rows: Tensor, widths: Sequence[int], size: int, out: Tensor | None = None) -> Tensor:
    """Crops with the operations of :func:`solo_bam.data.transforms.augmentations.build_pipeline`.

    Args:
        pixels: uint8 ``(images, 3, height, width)``.
        rows: float32 ``(N, sum of widths)``, of :func:`.decisions.pack`.
        widths: of the decisions' columns.
        size: side of the crops.
        out: memory for them.

    Returns:
        ``(N, 3, size, size)``, float32.
    """
    d = Decisions(*torch.split(rows[:, :, None, None], list(widths), dim=1))
    x = pixels.index_select(0, d.place.flatten().view(torch.int32)).float()
    if d.box.shape[1]:
        x = resize(x, d.box, size)
    if d.matrix.shape[1]:
        x = warp(x, d.matrix)
    x = jitter(x, d)
    if d.sharpness.shape[1]:
        x = blur(x, d.sharpness)
    if d.top.shape[1]:
        x = torch.minimum(x, d.top - x)  # solarization
    if d.equalized.shape[1]:
        x = x.lerp_(equalise(x), d.equalized)
    return torch.addcmul(d.shift, x, d.scale, out=out)


# ---------------------------------------------------------------------------------------- places


def resize(x: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Boxes of images, resized to squares by PIL's antialiased bicubic filter.

    As two products with a matrix per image. torch's ``grid_sample`` takes four neighbors however much it shrinks, and
    its ``interpolate`` takes images one by one.
    """
    height, width = x.shape[2:]
    down, across = filters(boxes[:, :2], boxes[:, 2:], max(height, width), size).unbind(1)
    x = (x.flatten(1, 2) @ across[:, :, :width].mT).clamp_(0, 255)  # PIL cuts off between the two, too
    return (down[:, None, :, :height] @ x.view(-1, 3, height, size)).clamp_(0, 255)


def filters(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights ``(N, 2, size, side)`` of an image's pixels in a line of a crop's, down and across.

    Args:
        start: ``(N, 2, 1, 1)``, of the box in pixels.
        length: likewise; a negative one goes backwards.
        side: of the image.
        size: of the crop.
    """
    scale = length / size
    places = (torch.arange(0.5, side, device=start.device) - start) / scale  # of the image's pixels in the crop
    places = places.masked_fill_(places != places.clamp(0, size), math.inf)
    t = (places - torch.arange(0.5, size, device=start.device)[:, None]).abs_().mul_(scale.abs().clamp_(max=1))
    far = (2 - t).clamp_(min=0)
    rest = far - 1
    near = rest.clamp(min=0)
    # Keys' cubic with a = -1/2, twice: (2 - t)^2 (1 - t) up to 2, less 2 (1 - t)^2 (1 - 2 t) up to 1.
    weights = rest.mul_(far).mul_(far).sub_((near - 0.5).mul_(near).mul_(near), alpha=4)
    return weights.div_(weights.sum(3, keepdim=True))


def warp(x: Tensor, matrices: Tensor) -> Tensor:
    """Places taken from elsewhere; black outside the image, and only there."""
    size = x.shape[-1]
    line = torch.linspace(1 / size - 1, 1 - 1 / size, size, device=x.device)
    across, down, shift = matrices.view(-1, 2, 3, 1, 1).unbind(2)
    grid = (across * line + shift) + down * line[:, None]
    inside = grid.abs().amax(1, keepdim=True).le_(1)
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=False).mul_(inside)


def blur(x: Tensor, sharpness: Tensor) -> Tensor:
    """Gaussian blur, every channel by its own filter; beyond the border an image goes on as it ends."""
    squares = torch.arange(-_REACH, _REACH + 1, device=x.device, dtype=x.dtype).square_()
    weights = (squares * -sharpness[:, :, 0]).softmax(2).expand(-1, x.shape[1], -1).flatten(0, 1)[:, None, None]
    lines = F.pad(x, [_REACH] * 4, mode="replicate").flatten(0, 1)[None]
    lines = F.conv2d(F.conv2d(lines, weights.mT, groups=len(weights)), weights, groups=len(weights))
    return lines.view_as(x)


# ---------------------------------------------------------------------------------------- colors


def jitter(x: Tensor, d: Decisions) -> Tensor:
    """Brightness, contrast, saturation and hue in the image's own order: blends before the hue's turn and after it."""
    x = blend(x, d.before)
    if d.turns.shape[1]:
        x = turn_hue(x, d.turns)
    return blend(x, d.after)


def blend(x: Tensor, blends: Tensor) -> Tensor:
    """Images drawn towards their gray image, its mean or black, or away from it, some times."""
    flat = x.flatten(2)
    for shares in blends.view(len(x), -1, 1, 7).unbind(1):
        of_gray, of_mean, weight = torch.split(shares, [3, 3, 1], dim=2)
        base = torch.baddbmm(of_mean @ flat.mean(2, keepdim=True), of_gray, flat)
        flat = flat.lerp_(base, weight).clamp_(0, 255)
    return x


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Hue moved along the circle, with maximum and minimum of the channels kept: HSV's without the way to HSV and back.

    On the circle of 6 with red at 0, green at 2 and blue at 4, a channel is at its maximum up to 1 from its own place,
    at the minimum from 2 on, and falls linearly between. A color's place is ``1 + (green + blue - red - minimum) /
    chroma``, with the sign of green - blue; all is multiplied by chroma here, which may be 0.
    """
    red, green, blue = x.chunk(3, dim=1)
    top, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = top - low
    place = (green + blue).sub_(red).add_(top).sub_(low, alpha=2)
    distance = torch.mul(chroma.copysign(green - blue), turns, out=x).add_(place).abs_()  # up to 6: 3 and 3 back
    return distance.sub_(chroma, alpha=3).abs_().sub_(chroma - low).clamp_(low, top)


def equalise(x: Tensor) -> Tensor:
    """PIL's equalization of each channel's 256 levels."""
    levels = x.round().flatten(2).contiguous()
    below = torch.searchsorted(levels.sort().values, levels)  # pixels that are darker
    step = below.amax(2, keepdim=True) // 255
    spread = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, spread, levels).view_as(x)
