"""Confusion matrices of any number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.style import context

from solo_bam.plots.style import STYLE, Picture, shortened

_WITH_VALUES, _WITH_NAMES = 20, 40  # classes, at most
_LISTED = 12


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], path: Path, title: str) -> Picture:
    """Draw a confusion matrix, each row as shares of its true class.

    Up to 20 classes the shares stand in the fields, up to 40 the classes on the axes; above, the classes are numbered
    and the most frequent confusions are listed by name.

    Args:
        matrix: ``(classes, classes)`` counts, rows are true and columns predicted classes.
        classes: names, in the matrix's order.
        path: of the picture; its ending chooses the format.
        title: over the picture.
    """
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(100.0 * matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    count = len(classes)
    named = count <= _WITH_NAMES
    size = max(3.6, 0.55 * count if count <= _WITH_VALUES else 0.22 * count) if named else 6.5
    with context({**STYLE, "axes.grid": False}):
        figure = Picture(figsize=(size + (1.6 if named else 4.6), size + 0.6), layout="constrained")
        axes = figure.subplots(1, 1 if named else 2, squeeze=False, width_ratios=None if named else [size + 1, 3.6])
        axis = axes[0, 0]
        # The root shows confusions of a few percent beside a diagonal near 100 %.
        picture = axis.imshow(shares, cmap="cividis", norm=PowerNorm(0.5, 0, 100))
        axis.set(title=title, xlabel="predicted class", ylabel="true class")
        if named:
            names = [shortened(name) for name in classes]
            upright = max(map(len, names)) <= 3
            turn = 0 if upright else 45 if count <= _WITH_VALUES else 90
            axis.set_xticks(range(count), names, rotation=turn, ha="right" if turn == 45 else "center")
            axis.set_yticks(range(count), names)
        if count <= _WITH_VALUES:
            _write_values(axis, shares)
        bar = figure.colorbar(picture, ax=axis, shrink=0.8, ticks=[0, 1, 5, 20, 50, 100])
        bar.set_label("share of the true class's images (%)")
        if not named:
            axis.set(xlabel="predicted class, number", ylabel="true class, number")
            _list_confusions(axes[0, 1], shares, classes)
        figure.savefig(path)
    return figure


def _write_values(axis: Axes, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:  # neither empty fields nor classes without images
            digits = 0 if share >= 99.95 else 1
            colour = "black" if share > 30 else "white"
            axis.text(column, row, f"{share:.{digits}f}", ha="center", va="center", color=colour, fontsize=7.5)


def _list_confusions(axis: Axes, shares: np.ndarray, classes: Sequence[str]) -> None:
    """The largest shares off the diagonal, by name."""
    off = np.nan_to_num(shares) * (1 - np.eye(len(classes)))
    order = np.argsort(-off, axis=None, kind="stable")[:_LISTED]
    lines = [
        f"{off[i, j]:4.1f} %  {shortened(classes[i], 32)} ({i})\n            as {shortened(classes[j], 32)} ({j})"
        for i, j in zip(*np.unravel_index(order, off.shape))
        if off[i, j] > 0
    ]
    axis.set_axis_off()
    text = "Most frequent confusions\n\n" + ("\n".join(lines) or "none")
    axis.text(0, 1, text, transform=axis.transAxes, va="top", fontsize=9)
