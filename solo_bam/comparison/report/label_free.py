"""Whether measures that need no labels would have chosen among the runs as accuracy does."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure
from scipy import stats

from solo_bam.comparison.report.figures import legend, looks, one_panel
from solo_bam.comparison.report.summary import shown_columns
from solo_bam.comparison.results import Column, Results
from solo_bam.plots.style import shortened

MEASURES = ("RankMe", "alpha-ReQ", "LiDAR")
FEWEST = 4  # runs that an order says anything of


def draw_label_free(results: Results) -> Iterator[tuple[Figure | None, str]]:
    """A figure per measure, with what it shows in words: a point for each run, and the agreement of the two orders.

    Accuracy is that of the first linear column, else of the first. α-ReQ is best near 1, so it ranks by the distance.
    """
    columns = shown_columns(results)
    if not columns:
        return
    column = next((one for one in columns if "linear" in one.title), columns[0])
    for kind in MEASURES:
        points = list(_points(results, column, kind))
        if len(points) < FEWEST:
            continue
        order = [-abs(value - 1) if kind == "alpha-ReQ" else value for _, value, _ in points]
        agreement = stats.kendalltau(order, [accuracy for _, _, accuracy in points]).statistic
        told = f"{kind} and {column.title}: Kendall's τ {agreement:.2f} over {len(points)} runs"
        with one_panel(3.1, told, bool(results.unfair)) as (figure, axis):
            for entry, look in looks(results.entries).items():
                own = [(value, accuracy) for name, value, accuracy in points if name == entry]
                if own:
                    axis.plot(*zip(*own), look.marker, color=look.colour, markersize=6, label=shortened(entry))
            if kind == "alpha-ReQ":
                axis.axvline(1, color="#666666", linestyle=":", linewidth=1.2, label="best by its authors")
            axis.set(xlabel=f"{kind}, without labels", ylabel=f"{column.title} ({column.unit})")
            legend(figure, axis.get_legend_handles_labels()[0])
            yield figure, f"{told}. 1: the same order, 0: none, −1: the opposite."


def _points(results: Results, column: Column, kind: str) -> Iterator[tuple[str, float, float]]:
    """Row, measure and accuracy of each run that has both."""
    for run in results.outcomes:
        accuracy = column.values.get(run.entry, {}).get(run.seed)
        found = [one.value for one in run.records if one.protocol.kind == kind and one.branch == "student"]
        if accuracy is not None and found:
            yield run.entry, found[0], accuracy
