"""What came out of a comparison: accuracies, cost, and one over the other.

Every function gives a figure, small enough to stand beside others; :func:`as_svg` makes it text for a page. An entry
has the same colour, marker and dashes in all of them. ``unfair`` writes below that the comparison is not fair.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator

from solo_bam.comparison.results import Column, Cost
from solo_bam.evaluate.statistics import Estimate
from solo_bam.plots.style import COLOURS, STYLE, shortened

_MARKERS = "os^vDP*X<>p"  # as many as no multiple of the colours: both together repeat late
_DASHES = ("-", "--", ":", "-.")
_GREY, _RED = "#666666", "#B00020"
_WIDTH = 5.4  # inches: legible on a telephone, two or three beside one another on a screen
# Text stays text, and the same figure is the same bytes.
_STYLE = {
    **STYLE,
    "savefig.bbox": "standard",
    "svg.fonttype": "none",
    "svg.hashsalt": "solo-bam",
    "text.parse_math": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
}


class Look(NamedTuple):
    """How an entry is told from the others."""

    colour: str
    marker: str
    dashes: str


def looks(entries: Sequence[str]) -> dict[str, Look]:
    """A look for each entry, by its place."""
    return {
        entry: Look(COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, entry in enumerate(entries)
    }


def as_svg(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element, the same text every time.

    Args:
        figure: of this module.
        prefix: of all its ids, which must differ from those of the page's other figures.
    """
    out = io.StringIO()
    with context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: whoever reads it has the font
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", text).rstrip()


@contextmanager
def one_panel(height: float, title: str, unfair: bool) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one panel."""
    with context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height + 0.2 * unfair), layout="constrained")
        axis = figure.add_subplot()
        told = "\n† not a fair comparison: see the reasons" if unfair else ""
        axis.set_title(title + told, color=_RED if unfair else "black")
        yield figure, axis


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Below the panel, which keeps its height."""
    columns = 3 if max(len(str(handle.get_label())) for handle in handles) <= 15 else 2
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5, handlelength=3)


# -------------------------------------------------------------------------------------- rows of entries


def draw_accuracy(
    column: Column, entries: Sequence[str], unfair: bool = False, supervised: Sequence[str] = ()
) -> Figure:
    """Seeds, mean and 95 % interval of each entry.

    Args:
        column: the numbers.
        entries: rows, from the top.
        unfair: whether to say so.
        supervised: entries with labels in their loss, which have a line, too: a ceiling.
    """
    found = {entry: (list(column.values.get(entry, {}).values()), column.estimate(entry)) for entry in entries}
    ceiling = 100.0 if column.unit == "%" else np.inf
    limits = _limits([pair for pair in found.values() if pair[1]], ceiling)
    with one_panel(_height(entries), _title(column), unfair) as (figure, axis):
        for row, (entry, (values, one)) in enumerate(found.items()):
            look = looks(entries)[entry]
            told = "" if one is None else f"{one.mean:.1f}" + (f" ± {one.half_width:.1f}" if one.interval else "")
            _draw_row(axis, row, values, one, look, limits, told, filled=True)
        _name_rows(axis, entries, limits)
        line = "; line: 95 % interval of the mean" if any(one and one.interval for _, one in found.values()) else ""
        told = f"{column.unit} (dots: seeds{line})"
        lines = {column.start: "--", **dict.fromkeys(supervised, ":")}
        axis.set_xlabel(told + "".join(_draw_line(axis, column, name, lines[name], limits) for name in lines))
        return figure


def _draw_line(axis: Axes, column: Column, name: str, dashes: str, limits: tuple[float, float]) -> str:
    """A line at a row's mean, where there is room for it; a line of text for the label."""
    one = column.estimate(name)
    if one is None:
        return ""
    if one.mean <= limits[0]:
        return f"\n{name}, to the left, {one.mean:.1f}"
    axis.axvline(one.mean, color=_GREY, linestyle=dashes, linewidth=1.2, zorder=1)
    return f"\n{'dashed' if dashes == '--' else 'dotted'}: {shortened(name)}, {one.mean:.1f}"


def draw_tradeoff(
    column: Column, costs: Mapping[str, Sequence[Cost]], entries: Sequence[str], unfair: bool = False
) -> Figure | None:
    """Accuracy over what a run takes: each entry's mean, its 95 % interval as a line.

    Args:
        column: the numbers.
        costs: of each entry's finished runs.
        entries: in order.
        unfair: whether to say so.

    Returns:
        None where nothing was measured, or on devices of two kinds.
    """
    shown = {entry: one for entry in entries if costs.get(entry) and (one := column.estimate(entry))}
    devices = {cost.device for entry in shown for cost in costs[entry]}
    if len(devices) != 1:
        return None
    with one_panel(3.1, f"{_title(column)} over the cost of a training", unfair) as (figure, axis):
        for entry, one in shown.items():
            look, hours = looks(entries)[entry], float(np.mean([cost.device_hours for cost in costs[entry]]))
            if one.interval:
                axis.plot([hours, hours], one.interval, color=look.colour, linewidth=1.5, zorder=2)
            axis.plot(
                [hours], [one.mean], look.marker, color=look.colour, markersize=8, label=shortened(entry), zorder=3
            )
        axis.set_xlim(left=0)
        axis.set(xlabel=f"{devices.pop()}-hours of a run, evaluation left out", ylabel=f"accuracy ({column.unit})")
        start = column.estimate(column.start)
        if start is not None:
            axis.axhline(start.mean, color=_GREY, linestyle="--", linewidth=1.2, zorder=1, label=column.start)
        legend(figure, axis.get_legend_handles_labels()[0])
        return figure


def _title(column: Column) -> str:
    return column.title + (", online" if column.online and "online" not in column.title else "")


def _height(rows: Sequence[str]) -> float:
    return 1.05 + 0.36 * len(rows)


def _limits(found: Sequence[tuple[list[float], Estimate | None]], ceiling: float) -> tuple[float, float]:
    """The values with their surroundings: an interval over three seeds may be longer than everything else together."""
    if not found:
        return 0.0, 1.0
    values = [value for own, _ in found for value in own]
    ends = [end for _, one in found if one and one.interval for end in one.interval] or values
    low, high = min(values), max(values)
    room = max(high - low, 0.5)
    low, high = min(low, max(min(ends), low - room)), max(high, min(max(ends), high + room, ceiling))
    return low - 0.05 * (high - low + 0.1), high + 0.05 * (high - low + 0.1)


def _draw_row(
    axis: Axes, row: int, values: Sequence[float], one: Estimate | None, look: Look, limits: tuple[float, float],
    told: str, filled: bool,
) -> None:  # fmt: skip
    beside = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 9}
    if one is None:
        axis.text(0.02, row, "no number", color=_GREY, style="italic", **beside)  # type: ignore[arg-type]
        return
    if one.interval:
        ends = np.clip(one.interval, *limits)
        axis.plot(ends, [row, row], color=look.colour, linewidth=2, zorder=2, solid_capstyle="butt")
        for end, cut, shape in zip(ends, one.interval, "<>"):
            marker = "|" if end == cut else shape  # an arrow says that it goes on
            axis.plot([end], [row], marker, color=look.colour, markersize=8, clip_on=False, zorder=3)
    axis.plot(values, [row + 0.24] * len(values), "o", color=look.colour, markersize=3.5, alpha=0.7, zorder=2)
    face = look.colour if filled else "white"
    axis.plot([one.mean], [row], look.marker, color=look.colour, markerfacecolor=face, markersize=8, zorder=4)
    axis.text(1.02, row, told, **beside)  # type: ignore[arg-type]


def _name_rows(axis: Axes, entries: Sequence[str], limits: tuple[float, float] | None = None) -> None:
    axis.set_yticks(range(len(entries)), [shortened(entry) for entry in entries])
    axis.set_ylim(len(entries) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    if limits:
        axis.set_xlim(*limits)


def draw_cost(
    costs: Mapping[str, Sequence[Cost]], measure: str, entries: Sequence[str], unfair: bool = False
) -> Figure | None:
    """Bars from zero with a dot per run.

    Args:
        costs: of each entry's runs.
        measure: ``images_per_second`` or ``peak_memory``.
        entries: rows, from the top.
        unfair: whether to say so.

    Returns:
        None where nothing was measured, or memory on devices of two kinds.
    """
    scale, title, unit = _COSTS[measure]
    found = {entry: [getattr(cost, measure) / scale for cost in costs.get(entry, ())] for entry in entries}
    devices = {cost.device for own in costs.values() for cost in own}
    if not devices or (measure == "peak_memory" and len(devices) > 1):
        return None
    told = {"GPU": "allocated on the GPU", "CPU": "of the main process"}.get(next(iter(devices)), "")
    with one_panel(_height(entries), title, unfair) as (figure, axis):
        for row, (entry, values) in enumerate(found.items()):
            _draw_bar(axis, row, values, looks(entries)[entry])
        _name_rows(axis, entries)
        axis.set_xlim(left=0)
        axis.set_xlabel(f"{unit} {told} (dots: runs)" if measure == "peak_memory" else f"{unit} (dots: runs)")
        return figure


_COSTS = {
    "images_per_second": (1, "Training speed", "images per second"),
    "peak_memory": (2**30, "Peak memory", "GiB"),
}


def _draw_bar(axis: Axes, row: int, values: Sequence[float], look: Look) -> None:
    beside = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 9}
    if not values:
        axis.text(0.02, row, "no number", color=_GREY, style="italic", **beside)  # type: ignore[arg-type]
        return
    mean = float(np.mean(values))
    axis.barh([row], [mean], 0.6, color=look.colour, alpha=0.35, edgecolor=look.colour, linewidth=1.2)
    axis.plot(values, [row] * len(values), "o", color=look.colour, markersize=4)
    axis.text(1.02, row, f"{mean:,.0f}" if mean >= 100 else f"{mean:.2f}", **beside)  # type: ignore[arg-type]
