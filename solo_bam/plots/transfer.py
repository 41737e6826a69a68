"""Bars of many measures of a network, beside those of the network before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.style import context

from solo_bam.plots.style import COLOURS, STYLE, Picture, shortened

Bar = tuple[float, tuple[float, float] | None]  # percent, with its interval


def draw_transfer(
    panels: Mapping[str, Mapping[str, Mapping[str, Bar]]], networks: Sequence[str], path: Path, title: str
) -> Picture:
    """Write a PNG with a panel per data set, a group of bars per measure and a bar per network, the last ones pale.

    Args:
        panels: data set -> measure -> network -> value.
        networks: in order; the first is the one that is measured.
        path: of the PNG.
        title: over the picture.
    """
    colors = dict(zip(networks, (COLOURS[0], "#888888", "#BBBBBB")))
    height = max(len(measures) for measures in panels.values())
    width = 0.8 / len(networks)
    with context(STYLE):
        figure = Picture(figsize=(1.5 + 5 * len(panels), 1.6 + 0.42 * height), layout="constrained")
        for axis, (data, measures) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items()):
            for i, network in enumerate(networks):
                rows = [(row + i * width, own[network]) for row, own in enumerate(measures.values()) if network in own]
                places, values = [place for place, _ in rows], [value for _, (value, _) in rows]
                axis.barh(places, values, width, color=colors[network], label=network)
                for place, (value, interval) in rows:
                    low, high = interval or (value, value)
                    axis.plot([low, high], [place, place], color="black", linewidth=1)
                    axis.text(max(high, value) + 1, place, f"{value:.1f}", va="center", fontsize=7.5)
            axis.set_yticks([row + width * (len(networks) - 1) / 2 for row in range(len(measures))], list(measures))
            axis.invert_yaxis()
            axis.set(title=shortened(data, 40), xlabel="accuracy (%), line: 95 % interval", xlim=(0, 108))
            axis.grid(axis="y", visible=False)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(networks))
        figure.suptitle(title, fontsize=11)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return figure
