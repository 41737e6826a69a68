"""Features as points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.style import context

from solo_bam.plots.style import COLOURS, STYLE, Picture, shortened

_GREY = "#BBBBBB"
_MARKERS = "os^vDP*X<>"
_SHOWN = len(_MARKERS)  # classes with a colour and a marker of their own


def draw_features(
    places: np.ndarray, labels: np.ndarray, classes: Sequence[str], axes: Sequence[str], path: Path, title: str
) -> Picture:
    """Draw a point per image; up to ten classes have a colour and a marker, the rest of more is grey.

    Args:
        places: ``(N, 2)``.
        labels: ``(N,)``, -1 for images without a label.
        classes: names of the labels.
        axes: names of the two axes, with units.
        path: of the picture; its ending chooses the format.
        title: over the picture.
    """
    there = np.unique(labels[labels >= 0])
    # Evenly over the classes' order, the same ones for every network.
    chosen = there if len(there) <= _SHOWN else there[np.linspace(0, len(there) - 1, _SHOWN).round().astype(int)]
    with context(STYLE):
        figure = Picture(figsize=(7.0, 5.0), layout="constrained")
        axis = figure.add_subplot()
        _draw_classes(axis, places, labels, classes, chosen)
        rest = ~np.isin(labels, chosen)
        if rest.any():
            label = "images" if not len(there) else f"{len(there) - len(chosen)} other classes"
            colour = COLOURS[0] if not len(there) else _GREY
            axis.scatter(
                places[rest, 0], places[rest, 1], s=10, c=colour, alpha=0.6, linewidths=0, label=label, zorder=1
            )
        figure.suptitle(title)
        axis.set(xlabel=axes[0], ylabel=axes[1])
        if len(there):
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.8, title="class")
        figure.savefig(path)
    return figure


def _draw_classes(
    axis: Axes, places: np.ndarray, labels: np.ndarray, classes: Sequence[str], chosen: np.ndarray
) -> None:
    for i, label in enumerate(chosen):
        of_class = places[labels == label]
        colour = COLOURS[i % len(COLOURS)]
        axis.scatter(
            of_class[:, 0],
            of_class[:, 1],
            s=16,
            marker=_MARKERS[i],
            c=colour,
            alpha=0.75,
            linewidths=0,
            label=shortened(classes[label]),
        )
