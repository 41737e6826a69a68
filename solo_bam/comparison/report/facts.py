"""What a comparison's numbers show and do not show, in sentences."""

from __future__ import annotations

from statistics import median

from solo_bam.comparison.report.summary import (
    FEW_SEEDS,
    UNFAIR,
    circumstances,
    format_run,
    listed,
    seeds,
    student_columns,
    test_images,
    unfair_notes,
)
from solo_bam.comparison.results import Column, Results
from solo_bam.evaluate.statistics import FEWEST

_FEW_IMAGES = 1000


def sentence(results: Results) -> str:
    """What was compared."""
    shared = listed(results.stated) if results.stated else "recipe but for the methods' own part"
    but = f", but for what is marked {UNFAIR}" if results.unfair else ""
    told = (
        f"{'seed' if len(seeds(results)) == 1 else 'seeds'} {listed(seeds(results))} and " if results.outcomes else ""
    )
    return (
        f"{listed(results.entries)}, each pretrained with {told}the same {shared}{but}; "
        f"differences are taken to {results.baseline}."
    )


def facts(results: Results) -> list[str]:
    """What the numbers show and do not show."""
    return [
        *unfair_notes(results),
        *(f"By its nature {note}." for note in results.notes),
        *_on_seeds(results),
        *_on_differences(results),
        *_on_untrained(results),
        *_on_images(results),
        *_on_tuning(results),
        *_on_reach(results),
        *_on_runs(results),
    ]


def _on_seeds(results: Results) -> list[str]:
    found = [column.estimate(entry) for column in student_columns(results) for entry in results.entries]
    counts = sorted({one.n for one in found if one})
    if not counts:
        return ["No run has a number yet: nothing is shown."]
    told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    facts = [f"Each mean rests on {told} {'seed' if counts == [1] else 'seeds'}."]
    if counts[0] < FEWEST:
        told = "One seed has" if counts[0] == 1 else "Two seeds have"
        facts.append(f"{told} no interval: whether a difference is more than chance cannot be told from it.")
    if any(count in FEW_SEEDS for count in counts):
        facts.append("Few seeds make wide intervals: a difference that matters may be there and not be shown.")
    return facts


def _on_differences(results: Results) -> list[str]:
    others = [entry for entry in results.entries if entry != results.baseline]
    columns = student_columns(results)
    pairs = [(c, entry, c.difference(entry, results.baseline)) for c in columns for entry in others]
    found = [(column, entry, one) for column, entry, one in pairs if one and one.interval]
    if not found:
        return []
    clear = [(column, entry, one) for column, entry, one in found if one.clear_of_zero]
    some = f"{len(found)} difference{'s' * (len(found) > 1)} to {results.baseline} with an interval "
    of = f"({len(others)} row{'s' * (len(others) > 1)}, {len(columns)} column{'s' * (len(columns) > 1)})"
    facts = [f"Of {some}{of}, {len(found) - len(clear)} cannot be told from zero."]
    for column in columns:
        for word, sign in (("above", 1), ("below", -1)):
            names = [entry for c, entry, one in clear if c is column and one.mean * sign > 0]
            if names:
                facts.append(
                    f"{_title(column)}: {listed(names)} {word} {results.baseline}, by more than the seeds' scatter."
                )
    if len(found) > 1:
        expected = f"{0.05 * len(found):.1g} of the {len(found)}"
        facts.append(
            f"The intervals are not corrected for their number: if no row differed, {expected} would still be expected "
            "to leave zero out."
        )
    if any(one.half_width == 0 for _, _, one in found):
        facts.append(
            "An interval without width means that all seeds gave the same number, not that there is no scatter."
        )
    return facts


def _on_untrained(results: Results) -> list[str]:
    """Training that has made features worse."""
    facts = []
    for column in student_columns(results):
        start = column.estimate(column.start)
        means = {entry: column.estimate(entry) for entry in results.entries}
        below = [entry for entry, one in means.items() if start and one and one.mean < start.mean]
        if below:
            facts.append(f"{_title(column)}: {listed(below)} below the {column.start} network.")
    return facts


def _title(column: Column) -> str:
    return column.title + (" (online)" if column.online and "online" not in column.title else "")


def _on_images(results: Results) -> list[str]:
    facts = []
    for data, count in test_images(results).items():
        facts.append(f"Measured on {count:,} images of {data}: one image is {100 / count:.2g} %.")
        records = [r for o in results.outcomes for r in o.records if r.data == data and r.interval and r.unit == "%"]
        halves = [(r.interval[1] - r.interval[0]) / 2 for r in records if r.interval]
        if halves:
            facts.append(
                f"These images alone leave each accuracy uncertain by about ± {median(halves):.1f} points (95 %, "
                "Wilson), which the intervals over seeds do not contain: all rows share the images."
            )
        if count < _FEW_IMAGES:
            facts.append("This is a small test set: an order of the rows need not hold on other data.")
    return facts


def _on_tuning(results: Results) -> list[str]:
    if results.tuning:
        return [f"Tuning: {results.tuning.rstrip('.')}.", *_on_edges(results)]
    return ["Nothing was tuned for this comparison: a method that its recipe happens to suit better gains from it."]


def _on_edges(results: Results) -> list[str]:
    return [f"{edge[:1].upper()}{edge[1:]}: a better one may lie beyond." for edge in results.edges]


def _on_reach(results: Results) -> list[str]:
    told = ", ".join(f"{name} {value}" for name, value in results.stated.items())
    return [f"One setting ({told}): nothing is said of others, nor of longer training."] if told else []


def _on_runs(results: Results) -> list[str]:
    facts = []
    if gaps := results.failed:
        facts.append(f"{len(gaps)} of {len(results.outcomes)} runs gave no number: {listed(map(format_run, gaps))}.")
    if results.at_once > 1:
        facts.append(f"{results.at_once} runs at a time shared the machine, which hours and images per second show.")
    if differing := [what for what, values in circumstances(results) if len(values) > 1]:
        facts.append(f"The runs differ in {listed(differing)}, which may change times and, slightly, numbers.")
    return facts
