"""Where a network looks in some images (figure 5 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.style import context
from torch import Tensor

from solo_bam.plots.style import STYLE, Picture


def draw_attention(images: Tensor, maps: Tensor, names: Sequence[str], path: Path, title: str) -> Picture:
    """Draw a row per image: the image and its maps, each from 0 (dark) to its own largest value (bright).

    Args:
        images: ``(N, 3, height, width)`` of any scale; each is shown from its darkest to its brightest value.
        maps: ``(N, M, h, w)``, 0 or more, shown patch by patch as they are.
        names: of the maps, M.
        path: of the picture; its ending chooses the format.
        title: over the picture.
    """
    count, height, width = len(images), images.shape[-2], images.shape[-1]
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = ((images - low) / (high - low).clamp(min=1e-5)).permute(0, 2, 3, 1).cpu()
    scaled = (maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12)).cpu()
    columns = ["image", *names]
    side = 1.5 if len(columns) <= 6 else 1.0
    with context(STYLE):
        figure = Picture(figsize=(side * len(columns) + 1.0, side * count * height / width + 0.9), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(count, len(columns), squeeze=False)
        for line in range(count):
            axes[line, 0].imshow(shown[line].numpy())
            for column in range(len(names)):
                picture = axes[line, column + 1].imshow(scaled[line, column].numpy(), cmap="viridis", vmin=0, vmax=1)
        for axis, name in zip(axes[0], columns):
            axis.set_title(name, fontsize=9)
        for axis in axes.flat:
            axis.set_axis_off()
        bar = figure.colorbar(picture, ax=axes, shrink=min(1.0, 3 / count), fraction=0.04)
        bar.set_label("share of the map's\nlargest value", fontsize=8)
        figure.savefig(path)
    return figure
