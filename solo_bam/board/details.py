"""What the page shows of the chosen runs: curves, what their recipes differ in, pictures."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from solo_bam.config.keys import flat
from solo_bam.runs.curves import over_epochs, thinned
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.status import SHOWN

Runs = Mapping[str, RunFolder]

AXES = {"epochs": "epoch", "hours": "hours of training"}
_EPOCH = re.compile(r"[-_./]?epoch[=_-]?(\d+)")
_SKIPPED = {"checkpoints", "logs", "tensorboard"}
_DASHES = ("solid", "dashed", "dotted", "dotdash")
PAPER = {"light": ("#1a1a1a", "#d0d0d0"), "dark": ("#e8e8e8", "#43474e")}  # ink and lines
MISSING = "—"


class Pictures(NamedTuple):
    """Pictures of one kind of a run: several where each is of an epoch.

    Attributes:
        name: e.g. ``plots/similarity``.
        links: from the root, by epoch; -1 for a picture of none.
    """

    name: str
    links: dict[int, str]


def logged_rows(run: RunFolder) -> list[dict[str, float]]:
    """What a run has logged; nothing where something else has written its files: no run hides the others."""
    try:
        return run.metrics()
    except Exception:
        return []


def metric_names(runs: Runs) -> list[str]:
    """What any of the runs has logged, what runs are shown with first, and of that what was logged most often."""
    logged = Counter(name for run in runs.values() for row in logged_rows(run) for name in row)
    first = sorted((name for name in SHOWN if name in logged), key=lambda name: -logged[name])
    return [*first, *sorted(logged.keys() - {"epoch", "step", *SHOWN})]


def differences(runs: Runs) -> list[tuple[str, list[str]]]:
    """Keys of the recipes whose values are not all the same, with each run's."""
    recipes = [dict(flat(run.recipe() or {})) for run in runs.values()]
    keys = sorted({key for recipe in recipes for key in recipe if key})
    told = [(key, [str(recipe.get(key, MISSING)) for recipe in recipes]) for key in keys]
    return [(key, values) for key, values in told if len({*values}) > 1]


def pictures(run: RunFolder, root: Path) -> list[Pictures]:
    """A run's pictures (PNG, SVG), by kind."""
    found: dict[str, dict[int, str]] = {}
    for place, folders, files in os.walk(run.path):
        folders[:] = sorted(folder for folder in folders if folder not in _SKIPPED)
        for file in sorted(files):
            path = Path(place, file)
            if path.suffix in (".png", ".svg"):
                name = path.relative_to(run.path).with_suffix("").as_posix()
                epoch = _EPOCH.search(name)
                kind = _EPOCH.sub("", name, count=1) if epoch else name
                links = found.setdefault(kind or "epochs", {})
                links[int(epoch[1]) if epoch else -1] = quote(os.fsencode(path.relative_to(root)))
    return [Pictures(name, dict(sorted(links.items()))) for name, links in found.items()]


def curves(runs: Runs, metric: str, axis: str, scheme: str) -> Any:
    """One metric of the runs in a figure, as BokehJS takes it.

    Args:
        runs: by name.
        metric: that they log.
        axis: of :data:`AXES`.
        scheme: ``light`` or ``dark``.
    """
    from bokeh.core.validation import silence
    from bokeh.core.validation.warnings import MISSING_RENDERERS
    from bokeh.embed import json_item
    from bokeh.models.annotations import Legend, LegendItem
    from bokeh.palettes import Colorblind8
    from bokeh.plotting import figure

    silence(MISSING_RENDERERS)  # of runs that have not logged it yet
    plot = figure(
        x_axis_label=AXES[axis], y_axis_label=metric, height=420, sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save", active_drag="box_zoom",
        tooltips=[("run", "$name"), (axis, "$snap_x{0.00}"), (metric, "$snap_y{0.0000}")],
    )  # fmt: skip
    colors = [color for color in Colorblind8 if color not in ("#F0E442", "#000000")]  # unseen on white, and on black
    items = []
    for i, (name, run) in enumerate(runs.items()):
        try:
            x, y = line(run, metric, axis)
        except Exception:  # as in logged_rows
            continue
        if len(x):
            color, dash = colors[i % len(colors)], _DASHES[i // len(colors) % len(_DASHES)]
            drawn: list[Any] = [plot.line(x, y, line_color=color, line_dash=dash, line_width=2, name=name)]
            if len(x) < 25:
                drawn.append(plot.scatter(x, y, color=color, size=6, name=name))
            items.append(LegendItem(label=name, renderers=drawn))
    plot.add_layout(Legend(items=items, click_policy="hide", location="left", margin=0), "below")
    _paint(plot, *PAPER[scheme])
    return json_item(plot)


def line(run: RunFolder, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric over one of :data:`AXES`; empty where it was not logged."""
    x, y = thinned(*over_epochs(run.metrics(), metric))
    if axis == "hours" and len(x):
        costs = run.costs()
        ends = [0.0, *(row["epoch"] + 1 for row in costs)]
        x = np.interp(x, ends, np.cumsum([0.0, *(row["seconds"] / 3600 for row in costs)]), right=np.nan)
    return x, y


def _paint(plot: Any, ink: str, line: str) -> None:
    """In the page's colors."""
    plot.background_fill_color = plot.border_fill_color = None
    plot.outline_line_color = None
    plot.toolbar.logo = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_color = plot.axis.major_label_text_color = plot.axis.axis_line_color = ink
    plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = line
    plot.grid.grid_line_color = line
    plot.legend.label_text_color = ink
    plot.legend.background_fill_color = plot.legend.border_line_color = None
    plot.legend.padding, plot.legend.label_text_font_size = 0, "13px"
