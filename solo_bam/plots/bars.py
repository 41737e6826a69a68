"""Grouped bars: a few rows compared under a few measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.style import context

from solo_bam.plots.style import STYLE, Picture


def draw_bars(table: Mapping[str, Mapping[str, float]], path: Path, title: str, unit: str) -> Picture:
    """Write a PNG with a group of bars per measure and a bar per row, each with its value.

    Args:
        table: row -> measure -> value; every row has the same measures.
        path: of the PNG.
        title: over the picture.
        unit: on the value axis.
    """
    measures = list(next(iter(table.values())))
    width = 0.8 / len(table)
    with context(STYLE):
        figure = Picture(figsize=(2.6 * len(measures) + 1, 3.6), layout="constrained")
        axis = figure.add_subplot()
        for i, (row, values) in enumerate(table.items()):
            places = [m + (i - (len(table) - 1) / 2) * width for m in range(len(measures))]
            bars = axis.bar(places, [values[m] for m in measures], width, label=row)
            axis.bar_label(bars, fmt="%.1f", fontsize=8)
        axis.set(title=title, ylabel=unit)
        axis.set_xticks(range(len(measures)), measures)
        axis.grid(axis="x", visible=False)
        axis.set_ylim(0, 1.1 * max(max(values.values()) for values in table.values()))
        figure.legend(loc="outside lower center", ncols=len(table))
        figure.savefig(path)
    return figure
