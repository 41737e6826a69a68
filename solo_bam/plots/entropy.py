"""Entropy of BAM's attention over training (figure 3 of the paper)."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.style import context
from matplotlib.ticker import MaxNLocator

from solo_bam.plots.style import COLOURS, STYLE, Picture
from solo_bam.runs.curves import Rows, series, thinned

_LINES = (("source_entropy", "source attention", "--"), ("target_entropy", "target attention", "-"))  # as in the curves


def has_entropy(rows: Rows) -> bool:
    """Whether logged metrics are of a method with attention."""
    return any("target_entropy_step" in row for row in rows)


def draw_entropy(rows: Rows, path: Path, title: str) -> Picture:
    """Draw the entropy of target and source attention over the steps, and the largest that there can be.

    Args:
        rows: logged metrics, each with ``step``; ``attention_columns`` where the ceiling is to be drawn.
        path: of the picture; its ending chooses the format.
        title: over the picture.
    """
    with context(STYLE):
        figure = Picture(figsize=(6.4, 3.8), layout="constrained")
        axis = figure.add_subplot()
        for (key, label, dashes), colour in zip(_LINES, COLOURS):
            steps, values = series(rows, f"{key}_step")
            marker = "o" if len(steps) < 25 else None
            axis.plot(*thinned(steps, values), dashes, color=colour, label=label, marker=marker, markersize=3)
        _, columns = series(rows, "attention_columns")
        if columns and columns[-1] > 1:
            ceiling = math.log(columns[-1])
            label = f"uniform over {columns[-1]:.0f} columns: {ceiling:.2f}"
            axis.axhline(ceiling, color="black", linewidth=1, linestyle=":", label=label)
        axis.set(title=title, xlabel="step", ylabel="entropy (nats)")
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        figure.legend(loc="outside lower center", ncols=3)
        figure.savefig(path)
    return figure
