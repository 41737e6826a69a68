"""Draws a paper's figures from results.csv beside this file: python figures.py. Needs numpy, scipy and matplotlib."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.style import context
from scipy import stats

WIDTH = 3.25  # inches: a column
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "font.size": 8, "font.family": "serif", "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "solo-bam",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "x", "grid.alpha": 0.3,
    "text.parse_math": False,
}  # fmt: skip
STARTS = ("untrained", "start")  # the network before training
Values = dict[str, dict[int, float]]  # of each row, by seed


def read(folder: Path) -> dict[str, Values]:
    """Each metric's numbers of the students, measured after the training."""
    found: dict[str, Values] = defaultdict(lambda: defaultdict(dict))
    with (folder / "results.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["branch"] == "student" and row["online"] == "False":
                found[row["metric"]][row["entry"]][int(row["seed"])] = float(row["value"])
    return found


def draw(metrics: dict[str, Values], colors: dict[str, str], label: str) -> Figure:
    """A panel for each metric: the seeds as dots, their mean, and its 95 % interval from three seeds on."""
    rows = [entry for entry in colors if any(entry in values for values in metrics.values())]
    figure = Figure(figsize=(WIDTH, len(metrics) * (0.55 + 0.2 * len(rows))), layout="constrained")
    for axis, (metric, values) in zip(figure.subplots(len(metrics), squeeze=False).flat, metrics.items()):
        for i, entry in enumerate(rows):
            own, color = list(values.get(entry, {}).values()), colors[entry]
            if own:
                axis.plot(interval(own), [i, i], color=color, linewidth=1.2)
                axis.plot(own, [i + 0.22] * len(own), "o", color=color, markersize=2, alpha=0.7)
                axis.plot([np.mean(own)], [i], "o", color=color, markersize=4.5)
        if start := [v for name in STARTS for v in values.get(name, {}).values()]:
            axis.axvline(float(np.mean(start)), color="#666666", linestyle="--", linewidth=0.8)
        axis.set_yticks(range(len(rows)), rows)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(f"{metric}{label}")
    return figure


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean, by Student's t; of one or two values, the mean alone."""
    mean = float(np.mean(values))
    if len(values) < 3 or np.ptp(values) == 0:
        return mean, mean
    found = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def paired(values: Values, baseline: str) -> Values:
    """Differences to the baseline, seed by seed."""
    to = values.get(baseline, {})
    return {
        entry: {seed: own[seed] - to[seed] for seed in own if seed in to}
        for entry, own in values.items()
        if entry not in (baseline, *STARTS)
    }


def main(folder: Path, baseline: str = "") -> None:
    """Write accuracy and differences as PDF and SVG; the baseline is the first row, where none is named."""
    metrics = read(folder)
    if not metrics:
        return
    rows = dict.fromkeys(entry for values in metrics.values() for entry in values if entry not in STARTS)
    colors = {entry: COLORS[i % len(COLORS)] for i, entry in enumerate(rows)}
    baseline = baseline or next(iter(rows))
    differences = {metric: paired(values, baseline) for metric, values in metrics.items()}
    with context(STYLE):
        figures = {"accuracy": draw(metrics, colors, ", %")}
        if any(differences.values()):
            figures["differences"] = draw(differences, colors, f": minus {baseline}, points")
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(__file__).parent)
