"""The pictures of a comparison's page, each with a text for those who do not see it. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from solo_bam.comparison.equal_cost import curve_kinds
from solo_bam.comparison.fairness import LABELS
from solo_bam.comparison.report.curves import draw_course, draw_pareto, draw_trials
from solo_bam.comparison.report.figures import as_svg, draw_accuracy, draw_cost, draw_tradeoff
from solo_bam.comparison.report.label_free import draw_label_free
from solo_bam.comparison.report.summary import costs, digits, format_mean, shown_columns
from solo_bam.comparison.results import Results, with_untrained

Drawn = Iterator[tuple[Figure | None, str]]


class Picture(NamedTuple):
    """A figure.

    Attributes:
        svg: the element.
        told: what it shows, for those who do not see it.
    """

    svg: Markup
    told: str


def pictures(results: Results, prefix: str) -> dict[str, list[Picture]]:
    """Groups of pictures by their titles; those without a picture are left out.

    Args:
        results: of one comparison.
        prefix: of all ids, which must differ between the comparisons of a page.
    """
    groups = {
        "Accuracy": _accuracy_pictures,
        "During the training": _course_pictures,
        "Accuracy against cost": _cost_pictures,
        "Search": _tuning_pictures,
        "Choice without labels": draw_label_free,
    }
    drawn = {}
    for i, (name, group) in enumerate(groups.items()):
        drawn[name] = [
            Picture(_described(as_svg(figure, f"{prefix}-{i}-{j}"), told), told)
            for j, (figure, told) in enumerate(group(results))
            if figure is not None
        ]
    return {name: found for name, found in drawn.items() if found}


def _described(svg: str, told: str) -> Markup:
    """The element with a text alternative; matplotlib has escaped what stands in it."""
    return Markup('<svg role="img" aria-label="{}"').format(told) + Markup(svg.removeprefix("<svg"))


def _accuracy_pictures(results: Results) -> Drawn:
    supervised = [entry for one in results.differences if one.key == LABELS for entry, on in one.values.items() if on]
    for column in shown_columns(results):
        shown = with_untrained(results.entries, [column])
        means = [f"{entry} {format_mean(column.estimate(entry), digits(results))}" for entry in shown]
        yield (
            draw_accuracy(column, results.entries, bool(results.unfair), supervised),
            f"{column.title}: {', '.join(means)}.",
        )


def _course_pictures(results: Results) -> Drawn:
    kinds = curve_kinds(results)
    for kind in kinds:
        for over in ("epoch", "hours"):
            told = f"{kind} accuracy over {over}s" if over == "epoch" else f"{kind} accuracy over hours of training"
            ends = ", ".join(filter(None, (_end(results, entry, kind) for entry in results.entries)))
            figure = draw_course(results.outcomes, kind, over, results.entries, bool(results.unfair))
            yield figure, f"{told}; thick: mean of finished seeds, band: lowest to highest. At the end: {ends}."


def _end(results: Results, entry: str, kind: str) -> str:
    own = [outcome.curves[kind][-1].value for outcome in results.outcomes if outcome.entry == entry
           and outcome.status == "finished" and outcome.curves.get(kind)]  # fmt: skip
    return f"{entry} {sum(own) / len(own):.1f}" if own else ""


def _cost_pictures(results: Results) -> Drawn:
    found = {entry: costs(results, entry) for entry in results.entries}
    for column in shown_columns(results):
        told = f"{column.title} of each row over the hours that a run of it takes; the numbers stand in the tables."
        yield draw_tradeoff(column, found, results.entries, bool(results.unfair)), told
    for kind in curve_kinds(results):
        told = f"{kind} accuracy over the hours so far, 95 % intervals as bands; the numbers stand in the table."
        yield draw_pareto(results, kind), told
    measured = {"images_per_second": ("Images per second", 1.0, 0), "peak_memory": ("Peak memory in GiB", 2.0**30, 2)}
    for measure, (name, scale, places) in measured.items():
        means = [
            f"{entry} {sum(getattr(cost, measure) for cost in own) / len(own) / scale:.{places}f}"
            for entry, own in found.items()
            if own
        ]
        yield draw_cost(found, measure, results.entries, bool(results.unfair)), f"{name}: {', '.join(means)}."


def _tuning_pictures(results: Results) -> Drawn:
    rates = [(trial.entry, trial.values.get("optimizer.lr")) for trial in results.trials if trial.chosen]
    chosen = ", ".join(f"{entry} {rate:g}" for entry, rate in rates if isinstance(rate, float))
    told = f"Accuracy on held-out training images over the learning rate. Chosen: {chosen or 'none yet'}."
    yield draw_trials(results.trials, results.entries, bool(results.unfair)), told
