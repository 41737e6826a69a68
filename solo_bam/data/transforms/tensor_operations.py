"""A torchvision pipeline's operations on batches of images, by kornia; the decisions come from outside.

Images are ``(N, 3, height, width)`` float32 in [0, 1], on any device; decisions are arrays of a row per image, as
:func:`.draws.draw` gives them. Which images an operation touches is known on the CPU, so nothing waits for
a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from kornia import enhance
from kornia.color import rgb_to_grayscale
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torchvision import transforms as T

from solo_bam.data.transforms.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, kind
from solo_bam.solo_learn import GaussianBlur

_BLUR = 13  # pixels: three deviations of the strongest blur to either side


def apply(transform: Any, x: Tensor, d: np.ndarray, size: int) -> Tensor:
    """One transform with its decisions on images; the result may be the input, changed.

    Args:
        transform: of a pipeline of :func:`solo_bam.data.transforms.augmentations.build_pipeline`.
        x: images.
        d: ``(N, width(transform))``.
        size: side of the crops.
    """
    found = kind(transform)
    if found is T.RandomResizedCrop:
        return resize(x, d, size)
    if found is T.Resize:
        return resize(x, np.tile([0.0, 0.0, *x.shape[2:]], (len(x), 1)), size)
    if found is T.RandomAffine:
        return _where(d[:, 0] > 0, x, warp, d[:, 1:])
    if found is T.ColorJitter:
        return jitter(x, d)
    if found is T.RandomGrayscale:
        return _where(d[:, 0] > 0, x, lambda y: rgb_to_grayscale(y).expand_as(y))
    if found is GaussianBlur:
        blurred = d[:, 0] > 0
        return _where(blurred, x, lambda y: blur(y, d[blurred, 0]))
    if found is T.RandomSolarize:
        return _where(d[:, 0] > 0, x, lambda y: enhance.solarize(y, 127.5 / 255))
    if found is T.RandomEqualize:
        return _where(d[:, 0] > 0, x, equalise)
    if found is T.RandomHorizontalFlip:
        return _where(d[:, 0] > 0, x, lambda y: y.flip(-1))
    if found is T.Normalize:
        return enhance.normalize(x, torch.tensor(transform.mean), torch.tensor(transform.std))
    return x


def _where(chosen: np.ndarray, x: Tensor, operation: Callable[..., Tensor], *parameters: np.ndarray) -> Tensor:
    """An operation on some of the images, which are changed in place."""
    (places,) = chosen.nonzero()
    if len(places):
        at = sent(places, x.device)
        x[at] = operation(x[at], *(sent(p[places].astype(np.float32), x.device) for p in parameters))
    return x


def sent(values: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device, without waiting for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# ---------------------------------------------------------------------------------------- places


def resize(x: Tensor, boxes: np.ndarray, size: int) -> Tensor:
    """Boxes (top, left, height, width) of images, resized to squares by PIL's antialiased bicubic filter.

    As two products with a matrix per image. kornia's ``crop_and_resize`` and torch's ``grid_sample`` take four
    neighbours however much they shrink, and torch's ``interpolate`` takes images one by one.
    """
    top, left, height, width = sent(boxes.astype(np.float32).T.copy(), x.device)
    across = filters(left, width, x.shape[3], size)
    x = (x.flatten(1, 2) @ across.mT).view(*x.shape[:3], size).clamp_(0, 1)  # PIL cuts off between the two, too
    return (filters(top, height, x.shape[2], size)[:, None] @ x).clamp_(0, 1)


def filters(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights ``(N, size, side)`` of an image's pixels in a line of a crop's."""
    start, length = start[:, None, None], length[:, None, None]
    pixels = torch.arange(side, device=start.device) + 0.5 - start
    scale = length / size
    centres = (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    t = ((pixels - centres) / scale.clamp(min=1)).abs_()
    near, far = (1 - t).clamp_(min=0), (2 - t).clamp_(min=0)
    weights = 0.5 * far * far * (1 - t) + near * near * (2 * t - 1)  # Keys' cubic with a = -1/2
    weights *= (pixels > 0) & (pixels < length)
    return weights / weights.sum(2, keepdim=True)


def warp(x: Tensor, matrices: Tensor) -> Tensor:
    """Places taken from elsewhere, ``(N, 6)`` matrices in pixels; black outside the image, and only there."""
    size = x.shape[-1]
    m = matrices.view(-1, 2, 3)
    # In grid_sample's coordinates an image reaches from -1 to 1.
    shift = (2 * m[:, :, 2:] + size * m[:, :, :2].sum(2, keepdim=True)) / size - 1
    grid = F.affine_grid(torch.cat([m[:, :, :2], shift], dim=2), list(x.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(3)[:, None]
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False) * inside


# ---------------------------------------------------------------------------------------- colours


def jitter(x: Tensor, d: np.ndarray) -> Tensor:
    """Brightness, contrast, saturation and hue in the image's own order."""
    operations = {
        BRIGHTNESS: enhance.adjust_brightness_accumulative,
        CONTRAST: enhance.adjust_contrast_with_mean_subtraction,
        SATURATION: enhance.adjust_saturation_with_gray_subtraction,
        HUE: turn_hue,
    }
    for step in range(4):
        for name, operation in operations.items():
            x = _where(d[:, step] == name, x, operation, d[:, 4 + step])
    return x


def turn_hue(x: Tensor, shares: Tensor) -> Tensor:
    """Hue moved by shares of the circle in 255ths, which PIL takes for 256ths."""
    return enhance.adjust_hue(x, shares * (255 / 256 * 2 * math.pi))


def blur(x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Gaussian blur; beyond the border the image goes on as it ends."""
    both = torch.from_numpy(sigmas.astype(np.float32))[:, None].expand(-1, 2)  # on the CPU: kornia looks at them
    return gaussian_blur2d(x, (_BLUR, _BLUR), both, border_type="replicate")


def equalise(x: Tensor) -> Tensor:
    """PIL's equalisation of each channel's 256 levels."""
    levels = (255 * x).round_() / 255
    # kornia cuts 255 x off to find the level: 1e-5 keeps it from the one below.
    return (255 * enhance.equalize((levels + 1e-5).clamp_(max=1))).round_() / 255
