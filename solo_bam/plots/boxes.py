"""Images with the boxes that ContrastiveCrop draws crop centres from, and the heat that they come from."""

from __future__ import annotations

from pathlib import Path

from matplotlib.patches import Rectangle
from matplotlib.style import context
from torch import Tensor

from solo_bam.data.transforms.contrastive_crop import enlarge
from solo_bam.plots.style import COLOURS, STYLE, Picture

_COLUMNS = 6


def draw_boxes(images: Tensor, heat: Tensor, boxes: Tensor, path: Path, title: str) -> Picture:
    """Write a PNG: each image with its box, and under it its heat map.

    Args:
        images: ``(N, 3, height, width)`` of any scale; each is shown from its darkest to its brightest value.
        heat: ``(N, h, w)``.
        boxes: ``(N, 4)`` shares ``(h_min, w_min, h_max, w_max)``.
        path: of the PNG.
        title: over the picture.
    """
    count, height, width = len(images), images.shape[-2], images.shape[-1]
    columns, lines = min(count, _COLUMNS), -(-count // _COLUMNS)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = ((images - low) / (high - low).clamp(min=1e-5)).permute(0, 2, 3, 1).cpu()
    heat = enlarge(heat, height, width).cpu()
    with context(STYLE):
        figure = Picture(figsize=(1.5 * columns, 3.1 * lines + 0.5), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(2 * lines, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for i in range(count):
            line, column = 2 * (i // columns), i % columns
            axes[line, column].imshow(shown[i].numpy())
            axes[line + 1, column].imshow(heat[i].numpy(), cmap="viridis", vmin=0, vmax=1)
            for axis in axes[line : line + 2, column]:
                axis.add_patch(_rectangle(boxes[i].tolist(), height, width))
        figure.savefig(path)
    return figure


def _rectangle(box: list[float], height: int, width: int) -> Rectangle:
    """A box in the picture's coordinates, in which pixels are centred on whole numbers."""
    top, left, bottom, right = box
    corner = (left * width - 0.5, top * height - 0.5)
    size = ((right - left) * width, (bottom - top) * height)
    return Rectangle(corner, *size, fill=False, edgecolor=COLOURS[1], linewidth=1.5, clip_on=False)
