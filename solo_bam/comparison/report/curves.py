"""A comparison's curves: accuracy during the training, and over the learning rates of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from solo_bam.comparison.equal_cost import at_equal_cost, curve_runs, value_at
from solo_bam.comparison.report.figures import Look, legend, looks, one_panel
from solo_bam.comparison.results import Point, Results, RunResult, Trial
from solo_bam.evaluate.statistics import FEWEST, estimate
from solo_bam.plots.style import shortened


def draw_course(
    outcomes: Sequence[RunResult], kind: str, over: str, entries: Sequence[str], unfair: bool = False
) -> Figure | None:
    """Accuracy during the training: the mean of the finished seeds, their range as a band, each seed as a thin line.

    Args:
        outcomes: the runs.
        kind: of the curves, ``k-NN`` or ``linear``.
        over: ``epoch`` or ``hours``.
        entries: in order.
        unfair: whether to say so.

    Returns:
        None where no run has such a curve, of two points at least.
    """
    own = {entry: [o for o in outcomes if o.entry == entry and len(o.curves.get(kind, [])) > 1] for entry in entries}
    if not any(own.values()):
        return None
    name = f"{kind} accuracy over {'epochs' if over == 'epoch' else 'hours of training'}"
    with one_panel(3.1, name, unfair) as (figure, axis):
        for entry, runs in own.items():
            if runs:
                _draw_entry(axis, runs, kind, over, looks(entries)[entry], entry)
        axis.set(xlabel="epoch" if over == "epoch" else "hours, evaluation left out", ylabel="accuracy (%)")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=over == "epoch"))
        legend(figure, axis.get_legend_handles_labels()[0])
        return figure


def _draw_entry(axis: Axes, runs: Sequence[RunResult], kind: str, over: str, look: Look, entry: str) -> None:
    for run in runs:
        x = [getattr(point, over) for point in run.curves[kind]]
        axis.plot(x, [point.value for point in run.curves[kind]], color=look.colour, linewidth=0.6, alpha=0.45)
    points = _over_seeds([run.curves[kind] for run in runs if run.status == "finished"], over)
    if points:
        x, low, mean, high = points
        if len(runs) >= FEWEST:  # of two, the lines say it
            axis.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    else:  # no finished run: the thin lines alone, named
        x, mean = [], []
    axis.plot(
        x, mean, look.dashes, color=look.colour, linewidth=1.8, marker=look.marker, markersize=5,
        markevery=max(1, len(x) // 8), label=shortened(entry),
    )  # fmt: skip


def _over_seeds(
    curves: Sequence[Sequence[Point]], over: str
) -> tuple[list[float], list[float], list[float], list[float]] | None:
    """Places, lowest, mean and highest value at the epochs that all seeds have."""
    by_epoch = [{point.epoch: point for point in curve} for curve in curves]
    if not by_epoch:
        return None
    common = sorted(set.intersection(*(set(points) for points in by_epoch)))
    values = np.array([[points[epoch].value for points in by_epoch] for epoch in common]).reshape(len(common), -1)
    places = np.array([[getattr(points[epoch], over) for points in by_epoch] for epoch in common]).reshape(values.shape)
    return places.mean(1).tolist(), values.min(1).tolist(), values.mean(1).tolist(), values.max(1).tolist()


def draw_pareto(results: Results, kind: str) -> Figure | None:
    """Accuracy over the cost so far: each row's mean, its 95 % interval as a band, and the best row at each cost.

    Args:
        results: of one comparison.
        kind: of the curves, ``k-NN`` or ``linear``.

    Returns:
        None where no two rows reached a common cost.
    """
    found = at_equal_cost(results, kind, "device_hours")
    if found is None:
        return None
    runs = curve_runs(results, kind, "device_hours")
    device = next(run.cost.device for run in runs if run.cost)
    with one_panel(3.1, f"{kind} accuracy over {device}-hours", bool(results.unfair)) as (figure, axis):
        grid = np.linspace(0, max(run.curves[kind][-1].device_hours for run in runs), 200)
        best = np.full(len(grid), -np.inf)
        for entry, look in looks(results.entries).items():
            own = [run.curves[kind] for run in runs if run.entry == entry]
            at = [[value_at(points, "device_hours", cost) for points in own] for cost in grid]
            told = [(i, estimate(values)) for i, values in enumerate(at) if values and None not in values]  # type: ignore[arg-type]
            if not told:
                continue
            places, means = [i for i, _ in told], [one.mean for _, one in told]
            ends = np.array([one.interval or (one.mean, one.mean) for _, one in told]).clip(0, 100).T
            axis.fill_between(grid[places], *ends, color=look.colour, alpha=0.15, linewidth=0)
            axis.plot(grid[places], means, look.dashes, color=look.colour, linewidth=1.8, label=shortened(entry))
            best[places] = np.maximum(best[places], means)
        front = np.maximum.accumulate(best)
        shown = np.isfinite(front)
        axis.plot(grid[shown], front[shown], color="black", linewidth=5, alpha=0.18, label="best at this cost")
        axis.axvline(found[0], color="#666666", linestyle=":", linewidth=1.2, label="reached by all")
        axis.set(xlabel=f"{device}-hours of training, evaluation left out", ylabel="accuracy (%)")
        legend(figure, axis.get_legend_handles_labels()[0])
        return figure


def draw_trials(trials: Sequence[Trial], entries: Sequence[str], unfair: bool = False) -> Figure | None:
    """Accuracy on held-out images over the learning rate, a point for each trial; the chosen one has a ring.

    Args:
        trials: of the tuning.
        entries: in order.
        unfair: whether to say so.

    Returns:
        None where there is none with a number.
    """
    measured = [trial for trial in trials if trial.accuracy is not None and "optimizer.lr" in trial.values]
    found = {entry: sorted((t for t in measured if t.entry == entry), key=_tried_rate) for entry in entries}
    if not any(found.values()):
        return None
    with one_panel(3.1, "Search: every trial by its learning rate", unfair) as (figure, axis):
        for entry, own in found.items():
            look = looks(entries)[entry]
            if own:
                _plot_trials(axis, own, look, entry)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set(xlabel="optimizer.lr", ylabel="accuracy, held-out training images (%)")
        ring: Any = Line2D([], [], **_RING, label="chosen")
        legend(figure, [*axis.get_legend_handles_labels()[0], ring])
        return figure


_RING: dict[str, Any] = {
    "linestyle": "", "marker": "o", "markersize": 13, "markerfacecolor": "none", "color": "black", "zorder": 5,
}  # fmt: skip


def _plot_trials(axis: Axes, own: Sequence[Trial], look: Look, entry: str) -> None:
    x, y = _points(own)
    axis.plot(x, y, "", color=look.colour, marker=look.marker, markersize=6, label=shortened(entry))
    chosen = [trial for trial in own if trial.chosen]
    axis.plot(*_points(chosen), **_RING)


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [_tried_rate(trial) for trial in trials], [trial.accuracy or 0.0 for trial in trials]


def _tried_rate(trial: Trial) -> float:
    return float(str(trial.values["optimizer.lr"]))
