"""How alike images are to a network (figure 1 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.style import context
from torch import Tensor

from solo_bam.plots.style import COLOURS, STYLE, Picture

_BINS = 40
_KINDS = ("same image, other view", "same class, other image", "other class")
_UNLABELLED = ("same image, other view", "other image")
_HATCHES = ("", "///", "...")

Groups = dict[str, np.ndarray]


def similarity_groups(views: Tensor, labels: Tensor) -> Groups:
    """Cosines of all pairs of a batch by what the pair has in common.

    Args:
        views: ``(V, N, D)`` features of V views of N images.
        labels: ``(N,)``; -1 for images without a label.

    Returns:
        kind -> cosines, -1 to 1; a kind without a pair is left out.
    """
    count = views.shape[1]
    rows = F.normalize(views.flatten(0, 1).float(), dim=1)
    image = torch.arange(count).repeat(len(views))
    label = labels.repeat(len(views))
    first, second = torch.triu_indices(len(rows), len(rows), offset=1)
    cosines = (rows @ rows.T)[first, second]
    same_image, same_class = image[first] == image[second], label[first] == label[second]
    chosen = [same_image, same_class & ~same_image, ~same_class]
    kinds: tuple[str, ...] = _KINDS
    if (labels < 0).any():
        chosen, kinds = [same_image, ~same_image], _UNLABELLED
    return {kind: cosines[mask].numpy() for kind, mask in zip(kinds, chosen) if mask.any()}


def draw_similarities(panels: Mapping[str, Groups], path: Path, title: str) -> Picture:
    """Draw the distributions of cosines, a panel for each network.

    Args:
        panels: name of the network -> :func:`similarity_groups`.
        path: of the picture; its ending chooses the format.
        title: over the picture.
    """
    kinds = list(dict.fromkeys(kind for groups in panels.values() for kind in groups))
    low = min(np.min(values) for groups in panels.values() for values in groups.values())
    bins = np.linspace(max(-1.0, np.floor(10 * low) / 10), 1.0, _BINS + 1)
    with context(STYLE):
        figure = Picture(figsize=(4.6 * max(len(panels), 1.3), 3.6), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
        for axis, (name, groups) in zip(axes, panels.items()):
            for kind, colour, hatch in zip(kinds, COLOURS, _HATCHES):
                if kind not in groups:
                    continue
                share = np.histogram(groups[kind], bins)[0] / len(groups[kind]) * 100
                axis.stairs(share, bins, fill=True, color=colour, alpha=0.25)
                axis.stairs(share, bins, color=colour, linewidth=1.5, hatch=hatch)
                axis.axvline(groups[kind].mean(), color=colour, linewidth=1, linestyle="--")
            axis.set(title=name, xlabel="cosine similarity", ylabel="share of pairs (%)")
        handles: list[Artist] = [
            Patch(facecolor=f"{colour}40", edgecolor=colour, linewidth=1.5, hatch=hatch, label=kind)
            for kind, colour, hatch in zip(kinds, COLOURS, _HATCHES)
        ]
        handles.append(Line2D([], [], color="black", linewidth=1, linestyle="--", label="mean"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.savefig(path)
    return figure
