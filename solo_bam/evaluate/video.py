"""Video object segmentation without training: labels of the first frame, handed on along similar features.

The protocol is DINO's (Caron et al., ICCV 2021, after Jabri et al., NeurIPS 2020), which the published BAM uses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from solo_bam.backbones.heat_maps import last_feature_map
from solo_bam.core.errors import UserError
from solo_bam.evaluate.davis import VOID, Labels

_MOST = 1 << 26  # affinities at once: 256 MiB
_ROUNDED_TO = 64  # pixels: the frames' long side


@dataclass(frozen=True)
class Propagation:
    """How labels are handed on.

    Attributes:
        n_last_frames: sources beside the first frame.
        size_mask_neighborhood: a position's sources are at most this many positions away along each axis; 0: all.
        topk: the most similar sources that count.
        temperature: of the softmax over their cosines.
    """

    n_last_frames: int = 7
    size_mask_neighborhood: int = 12
    topk: int = 5
    temperature: float = 0.1


_DEFAULTS = Propagation()


def segment(
    extract: Callable[[Tensor], Tensor],
    frames: Iterable[Tensor],
    first: Labels,
    short_side: int = 480,
    rounded_to: int = _ROUNDED_TO,
    settings: Propagation = _DEFAULTS,
) -> Iterator[Labels]:
    """Object numbers for every frame; the first frame's are given.

    Args:
        extract: maps ``(1, 3, height, width)`` in [0, 1] to features ``(1, D, h, w)``.
        frames: ``(3, height, width)`` each, values 0 to 255.
        first: ``(height, width)``, object numbers of the first frame, 0 for the background, 255 for void.
        short_side: of the resized frames, in pixels.
        rounded_to: the long side becomes a multiple of this, in pixels.
        settings: of the propagation.

    Yields:
        ``(height, width)`` in the size of ``first``; the first is ``first`` itself, void as background.
    """
    labels = np.where(first == VOID, 0, first).astype(np.uint8)
    size = resized(first.shape[0], first.shape[1], short_side, rounded_to)
    features = (F.normalize(extract(resize(frame, size))[0].float(), dim=0) for frame in frames)
    start = next(features)
    soft = one_hot(labels, (start.shape[1], start.shape[2])).to(start.device)
    yield labels
    for handed_on in propagate(start, features, soft, settings):
        yield harden(handed_on, size, (first.shape[0], first.shape[1]))


def resized(height: int, width: int, short_side: int, rounded_to: int = _ROUNDED_TO) -> tuple[int, int]:
    """A frame's new height and width: the short side as given, the long one in proportion, rounded down."""
    long_side = short_side * max(height, width) // min(height, width) // rounded_to * rounded_to
    long_side = max(long_side, short_side)
    return (long_side, short_side) if height > width else (short_side, long_side)


def resize(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """``(1, 3, *size)`` in [0, 1], in steps of 1/255, of a frame of bytes; bilinear without smoothing, as OpenCV's."""
    return F.interpolate(frame[None].float(), size, mode="bilinear", align_corners=False).round() / 255


def one_hot(labels: Labels, size: tuple[int, int]) -> Tensor:
    """``(1 + objects, *size)`` in float32, each position with the label of the pixel at its centre."""
    small = np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    return F.one_hot(torch.from_numpy(small).long(), int(labels.max()) + 1).permute(2, 0, 1).float()


def harden(soft: Tensor, size: tuple[int, int], final: tuple[int, int]) -> Labels:
    """Object numbers of ``(C, h, w)`` label shares: enlarged, each label scaled to 0 … 1, the largest one taken."""
    large = F.interpolate(soft[None], size, mode="bilinear", align_corners=False)[0]
    low = large.amin((1, 2), keepdim=True)
    scale = large.amax((1, 2), keepdim=True) - low
    numbers = ((large - low) / scale.clamp(min=1e-12)).argmax(0).to(torch.uint8).cpu().numpy()
    return np.array(Image.fromarray(numbers).resize(final[::-1], Image.Resampling.NEAREST))


def propagate(
    start: Tensor, following: Iterable[Tensor], labels: Tensor, settings: Propagation = _DEFAULTS
) -> Iterator[Tensor]:
    """Label shares of each following frame, from the first frame's and the last frames' own.

    Args:
        start: features of the first frame, ``(D, h, w)``, of unit length.
        following: those of the other frames.
        labels: shares of the first frame, ``(C, h, w)``.
        settings: of the propagation.

    Yields:
        ``(C, h, w)``, summing to 1 over C wherever the sources' shares do.
    """
    last: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.n_last_frames)
    for target in following:
        sources = [(start, labels), *last]
        handed_on = hand_on(target, [s for s, _ in sources], [shares for _, shares in sources], settings)
        last.append((target, handed_on))
        yield handed_on


@torch.no_grad()
def hand_on(target: Tensor, sources: Sequence[Tensor], labels: Sequence[Tensor], settings: Propagation) -> Tensor:
    """A frame's label shares: a softmax-weighted mean over the most similar positions of its sources.

    Args:
        target: features of the frame, ``(D, h, w)``, of unit length.
        sources: those of the frames that it learns from.
        labels: their label shares, ``(C, h, w)`` each.
        settings: of the propagation.

    Returns:
        ``(C, h, w)``.
    """
    height, width = target.shape[1:]
    keys = torch.cat([s.flatten(1) for s in sources], dim=1)
    shares = torch.cat([shares.flatten(1) for shares in labels], dim=1)
    queries = target.flatten(1).T
    k = min(settings.topk, keys.shape[1])
    found = []
    for rows in torch.split(torch.arange(len(queries), device=target.device), max(1, _MOST // keys.shape[1])):
        cosines = queries[rows] @ keys
        if settings.size_mask_neighborhood:
            far = _far(rows, height, width, settings.size_mask_neighborhood).repeat(1, len(sources))
            cosines.masked_fill_(far, -torch.inf)
        values, places = cosines.topk(k, dim=1)
        weights = (values / settings.temperature).softmax(dim=1)
        found.append((shares[:, places] * weights).sum(-1))
    return torch.cat(found, dim=1).reshape(-1, height, width)


def _far(rows: Tensor, height: int, width: int, radius: int) -> Tensor:
    """Which positions of a frame lie outside the square neighbourhood of each of ``rows``: ``(rows, h·w)``."""
    places = torch.arange(height * width, device=rows.device)
    down = (rows[:, None] // width - places // width).abs()
    right = (rows[:, None] % width - places % width).abs()
    return (down > radius) | (right > radius)


# ------------------------------------------------------------------------------------------- features


@torch.no_grad()
def dense_features(backbone: Any, images: Tensor, layer: str | None = None) -> Tensor:
    """A feature per position: a ViT's last patch tokens after the closing norm, or another network's last feature map.

    Args:
        backbone: in evaluation mode, for images of this size.
        images: ``(N, 3, height, width)``, normalised.
        layer: name of the submodule whose output is taken instead, e.g. ``layer3`` or ``blocks.8``.

    Returns:
        ``(N, D, h, w)`` in float32.

    Raises:
        UserError: no such layer, or it gives nothing of the kind.
    """
    if layer is not None:
        output = _output_of(backbone, layer, images)
    elif isinstance(backbone, VisionTransformer):
        output = backbone.forward_features(images)
    else:
        try:
            return last_feature_map(backbone, images)
        except ValueError as error:
            raise UserError("layer", f"is missing, the network {error}", "name one of its layers") from None
    if isinstance(output, Tensor) and output.ndim == 3 and isinstance(backbone, VisionTransformer):
        return _grid(backbone, output, images).float()
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise UserError("layer", f"got {layer!r}, which gives no feature map", "name another layer")
    return (output.permute(0, 3, 1, 2) if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else output).float()


def _output_of(backbone: nn.Module, layer: str, images: Tensor) -> object:
    try:
        module = backbone.get_submodule(layer)
    except AttributeError:
        names = ", ".join(name for name, _ in backbone.named_children())
        raise UserError("layer", f"got {layer!r}, allowed: submodules of {names}", "correct it") from None
    seen: list[object] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    try:
        backbone(images)
    finally:
        handle.remove()
    return seen[0] if seen else None


def _grid(backbone: Any, tokens: Tensor, images: Tensor) -> Tensor:
    patches = tokens[:, backbone.num_prefix_tokens :]
    down, right = backbone.patch_embed.patch_size
    size = (images.shape[-2] // down, images.shape[-1] // right)
    return patches.transpose(1, 2).reshape(len(tokens), -1, *size)
