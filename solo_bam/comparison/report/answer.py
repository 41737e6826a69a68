"""What a comparison says, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from solo_bam.comparison.report.summary import listed, student_columns
from solo_bam.comparison.results import Column, Results
from solo_bam.evaluate.statistics import FEWEST

_NAMED = 3  # rows, where nothing more can be said of them


def answer(results: Results) -> str:
    """Who is ahead, by how much, and of whom it cannot be told; empty without two rows that have numbers.

    ``k-NN (k = 20): a is ahead of b by 1.9 ± 0.6 points; linear: no difference between a and b (n = 3).``
    """
    columns = student_columns(results)
    columns = [column for column in columns if not column.online] or columns
    columns = [column for column in columns if column.headline] or columns
    told = [_of(column, ranked) for column in columns if len(ranked := _ranked(column, results)) > 1]
    if not told:
        return ""
    seeds = sorted({len(column.values[entry]) for column in columns for entry in _ranked(column, results)})
    unfair = "; the comparison is not fair" if results.unfair else ""
    return f"{'; '.join(told)} (n = {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))}){unfair}."


def _ranked(column: Column, results: Results) -> list[str]:
    """The rows with numbers, the best first."""
    means = {entry: found.mean for entry in results.entries if (found := column.estimate(entry))}
    return sorted(means, key=lambda entry: -means[entry])


def _of(column: Column, ranked: list[str]) -> str:
    enough = [entry for entry in ranked if len(column.values[entry]) >= FEWEST]
    if len(enough) < 2:
        told = [f"{entry} {mean(list(column.values[entry].values())):.1f}" for entry in ranked[:_NAMED]]
        more = " first" if len(ranked) > _NAMED else ""
        return f"{column.title}: {listed(told)}{more}, of too few seeds to tell from chance"
    first, *others = enough
    few = [entry for entry in ranked if entry not in enough]
    aside = f" ({listed(few)}: too few seeds)" if few else ""
    aside += _beside_untrained(column, enough)
    level = [entry for entry in others if not _clear(column, first, entry)]
    if level:
        return f"{column.title}: no difference between {listed([first, *level])}{aside}"
    found = column.difference(first, others[0])
    assert found is not None
    ahead = f"{first} is ahead of {others[0]} by {found.mean:.1f} ± {found.half_width or 0:.1f} points"
    return f"{column.title}: {ahead}{aside}"


def _beside_untrained(column: Column, entries: Sequence[str]) -> str:
    """That no row's training has made anything better, where it was measured."""
    found = [one for entry in entries if (one := column.difference(entry, column.start)) is not None]
    ahead = any(one.clear_of_zero and one.mean > 0 for one in found)
    return f", none ahead of the {column.start} network" if found and not ahead else ""


def _clear(column: Column, first: str, other: str) -> bool:
    found = column.difference(first, other)
    return found is not None and found.clear_of_zero
