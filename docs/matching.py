"""Draw ``matching.png``: BAM's two attentions among eight images, before and after a training.

``python docs/matching.py RUN [FILE]``, RUN a finished run of BAM.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from torch import Tensor

from solo_bam.config.resolve import resolve
from solo_bam.data import find_source
from solo_bam.data.transforms.augmentations import Crops, plain_view
from solo_bam.losses.sinkhorn import sinkhorn
from solo_bam.plots.style import STYLE
from solo_bam.runs.checkpoints.read import load_pretrained, read_checkpoint
from solo_bam.train.pretrain import build_model, find_devices, seed_everything

CLASSES, EACH = 4, 2  # images: eight
VIEWS = 2


def main(run: Path, target: Path) -> None:
    """Draw a run's figure."""
    recipe = load_pretrained(run).recipe
    source = find_source(recipe.data)
    assert source.val is not None, "the images shown are validation images"
    devices, _ = find_devices(recipe)
    seed_everything(recipe.seed)
    model = build_model(recipe, resolve(recipe, source.num_classes, True, 1), devices).eval()
    chosen = np.concatenate([np.flatnonzero(source.val.targets == c)[:EACH] for c in range(CLASSES)])
    split = source.val.take(chosen)
    torch.manual_seed(0)
    crops = split(Crops(recipe.data.dataset, [recipe.augmentations[0].model_copy(update={"num_crops": VIEWS})]))
    views = torch.cat([torch.stack([crops[i][0][v] for i in range(len(chosen))]) for v in range(VIEWS)])
    plain = split(plain_view(recipe.data.dataset, recipe.augmentations[0]))
    panels = {"before training": attentions(model(views)["z"], model.options)}
    model.load_state_dict(read_checkpoint(run, "RUN")["state_dict"], strict=False)
    panels[f"after {recipe.max_epochs} epochs"] = attentions(model(views)["z"], model.options)
    draw(panels, torch.stack([plain[i][0] for i in range(len(chosen))]), target)


@torch.no_grad()
def attentions(z: Tensor, options: object) -> tuple[Tensor, Tensor]:
    """Target and source attention, ``(V B, V B)`` each, the published way: an image's own views are hidden."""
    z = F.normalize(z.float())
    images = torch.arange(len(z) // VIEWS).repeat(VIEWS)
    similarities = (z @ z.T).masked_fill(images[:, None] == images, -torch.inf)
    return (
        sinkhorn(similarities / options.reg, options.num_sink_iter),  # type: ignore[attr-defined]
        torch.softmax(similarities / options.temperature, 1),  # type: ignore[attr-defined]
    )


def draw(panels: dict[str, tuple[Tensor, Tensor]], images: Tensor, target: Path) -> None:
    """A row of two heat maps for each network, with the images along their sides."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = list(((images - low) / (high - low)).permute(0, 2, 3, 1).numpy()) * VIEWS
    with context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.2, 9.2), layout="constrained")
        for line, (name, pair) in enumerate(panels.items()):
            for column, (what, attention) in enumerate(zip(("target attention P", "source attention A"), pair)):
                axis: Axes = figure.add_subplot(2, 2, 2 * line + column + 1)
                picture = axis.imshow(attention, cmap="viridis", vmin=0, vmax=0.5)
                axis.axis("off")
                axis.set_title(f"{what}, {name}", pad=22)
                for i, image in enumerate(shown):
                    for place in ((i - 0.5, -1.6, 1, 1), (-1.6, i - 0.5, 1, 1)):
                        axis.inset_axes(place, transform=axis.transData).imshow(image)
                for inset in axis.child_axes:
                    inset.axis("off")
        figure.colorbar(picture, ax=figure.axes, shrink=0.4, label="share of a row's attention (yellow: 0.5 and more)")
        figure.savefig(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).with_name("matching.png")))
