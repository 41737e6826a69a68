"""A comparison's tables: accuracies, differences, health, cost, search, recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from solo_bam.comparison.equal_cost import Over, at_equal_cost, curve_kinds
from solo_bam.comparison.fairness import Difference
from solo_bam.comparison.report.summary import (
    MISSING,
    UNFAIR,
    costs,
    digits,
    format_difference,
    format_mean,
    gaps,
    listed,
    mark_notes,
    number,
    seeds_notes,
    student_columns,
    teacher_columns,
    unfair_notes,
)
from solo_bam.comparison.results import Column, Cost, Results, Trial, with_untrained
from solo_bam.core.hardware import GIB
from solo_bam.evaluate.statistics import Estimate

Told = Callable[[Estimate | None, int], str]


@dataclass(frozen=True)
class Table:
    """Cells of text; the first of a row names it.

    Attributes:
        caption: what stands in it.
        header: names of the columns.
        rows: as long as the header.
        notes: to be read with it.
        marked: numbers of the rows that make the comparison unfair.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    marked: frozenset[int] = frozenset()


def lettered(results: Results) -> list[tuple[str, Column]]:
    """Every column with the letter of its protocol."""
    columns = [*student_columns(results), *teacher_columns(results)]
    return [("abcdefghijklmnopqrstuvwxyz"[i % 26] * (i // 26 + 1), column) for i, column in enumerate(columns)]


def result_tables(results: Results) -> list[Table]:
    """Accuracies, differences to the baseline, and cost, each where there is something to show."""
    differences = difference_table(results, results.baseline)
    return [*accuracy_tables(results), *([differences] if differences else []), *cost_tables(results)]


def accuracy_tables(results: Results) -> list[Table]:
    """The students' accuracies, and the momentum teachers' where there are any."""
    teacher = [(letter, column) for letter, column in lettered(results) if column.branch == "teacher"]
    notes = [*unfair_notes(results), *seeds_notes(results), *gaps(results)]
    tables = [_accuracies(results, students(results), "Results", notes)]
    if teacher:
        tables.append(_accuracies(results, teacher, "Results of the momentum teacher", mark_notes(results)))
    return tables


def students(results: Results) -> list[tuple[str, Column]]:
    """The students' columns, with the letters of their protocols."""
    return [(letter, column) for letter, column in lettered(results) if column.branch != "teacher"]


def _marked(results: Results, entry: str) -> str:
    """A row's name; with a dagger where one of its trainings has collapsed."""
    collapsed = any(outcome.entry == entry and outcome.collapsed_in is not None for outcome in results.outcomes)
    return f"{entry} †" if collapsed else entry


def _collapses(results: Results) -> list[str]:
    told = [
        f"{o.entry} seed {o.seed}, since epoch {o.collapsed_in}" for o in results.outcomes if o.collapsed_in is not None
    ]
    return [f"† Collapsed, the projections of different images are alike: {'; '.join(told)}."] if told else []


def _head(results: Results) -> str:
    return f"entry {UNFAIR}" if results.unfair else "entry"


def _name(letter: str, column: Column) -> str:
    during = ", online" if column.online and "online" not in column.title else ""
    return f"{column.title}{during}, {column.unit} ({letter})"


def _accuracies(results: Results, pairs: Sequence[tuple[str, Column]], caption: str, notes: Sequence[str]) -> Table:
    entries = with_untrained(results.entries, [column for _, column in pairs])
    estimates = {entry: [column.estimate(entry) for _, column in pairs] for entry in entries}
    protocols = [f"({letter}) {column.stated}" for letter, column in pairs]
    rows = [
        [_marked(results, entry), *_with_counts(of, digits(results), format_mean, _planned(results, entry))]
        for entry, of in estimates.items()
    ]
    intervals = any(one and one.interval for of in estimates.values() for one in of)
    return Table(
        f"{caption}: mean{' ± half of the 95 % interval' * intervals} over seeds",
        [_head(results), *(_name(letter, column) for letter, column in pairs), "n"],
        rows,
        [*notes, *_collapses(results), *protocols],
    )


def _planned(results: Results, entry: str) -> int:
    return sum(outcome.entry == entry for outcome in results.outcomes)


def difference_table(results: Results, baseline: str) -> Table | None:
    """Every other row less the baseline, paired by seed; None without another row, or without a number."""
    pairs, others = students(results), [entry for entry in results.entries if entry != baseline]
    if not pairs or not others:
        return None
    found = {entry: [column.difference(entry, baseline) for _, column in pairs] for entry in others}
    return Table(
        f"Differences to {baseline}, paired by seed: mean (95 % interval)",
        [_head(results), *(_name(letter, column).replace("%", "points") for letter, column in pairs), "n"],
        [[entry, *_with_counts(own, digits(results), format_difference)] for entry, own in found.items()],
        [
            *mark_notes(results),
            "An interval on both sides of zero shows no difference. n: seeds that both rows have.",
        ],
    )


def health_table(results: Results) -> Table | None:
    """The last epoch's signs of collapse: mean over a row's runs (lowest to highest); None where none was logged."""
    names = [name for name in _HEALTH if any(name in outcome.health for outcome in results.outcomes)]
    if not names:
        return None
    rows = []
    for entry in results.entries:
        own = [outcome for outcome in results.outcomes if outcome.entry == entry]
        values = [[outcome.health[name] for outcome in own if name in outcome.health] for name in names]
        told = [_range(of, places) for of, places in zip(values, (_HEALTH[name][1] for name in names))]
        since = [str(outcome.collapsed_in) for outcome in own if outcome.collapsed_in is not None]
        rows.append([entry, *told, f"since epoch {listed(since)}" if since else "no"])
    header = ["entry", *(_HEALTH[name][0] for name in names), "collapsed"]
    return Table("After the last epoch: mean over runs (lowest to highest)", header, rows)


_HEALTH = {  # of what is logged: its name here, digits behind the point
    "projection_spread": ("spread of the projections, 0 (all alike) to 1", 2),
    "feature_spread": ("spread of the features, 0 to 1", 2),
    "rankme": ("effective rank of the features", 0),
}


def _range(values: Sequence[float], places: int) -> str:
    if not values:
        return MISSING
    low, high = (number(end, places) for end in (min(values), max(values)))
    return number(sum(values) / len(values), places) + (f" ({low} to {high})" if low != high else "")


def _with_counts(found: Sequence[Estimate | None], places: int, told: Told, planned: int = 0) -> Iterator[str]:
    """Cells and the row's n, of those planned; a cell that rests on fewer seeds says so itself."""
    most = max((one.n for one in found if one), default=0)
    for one in found:
        yield told(one, places) + (f", n = {one.n}" if one and one.n != most else "")
    yield f"{most} of {planned}" if 0 < most < planned else str(most)


def cost_tables(results: Results) -> list[Table]:
    """What a run took on average, one table for each kind of device: their hours and bytes are not of a kind."""
    devices = sorted({cost.device for entry in results.entries for cost in costs(results, entry)})
    equal = equal_cost_table(results)
    return [*(_cost(results, device) for device in devices), *([equal] if equal else [])]


def equal_cost_table(results: Results) -> Table | None:
    """Accuracies at the largest cost that all rows reached; None where there is no such cost."""
    overs: list[tuple[Over, Callable[[float], str]]] = [
        ("images", lambda cost: f"{cost:,.0f} images"),
        ("device_hours", lambda cost: f"{format_hours(cost)} {_device(results)}-hours"),
    ]
    found = [
        (told, one)
        for kind in curve_kinds(results)
        for over, told in overs
        if (one := at_equal_cost(results, kind, over))
    ]
    if not found:
        return None
    columns = [column for _, (_, column) in found for _ in range(2)]
    header = [name for told, (cost, column) in found for name in (
        f"{column.title}, % at {told(cost)}", f"minus {results.baseline}, points")]  # fmt: skip
    rows = []
    for entry in results.entries:
        cells = [
            format_mean(column.estimate(entry), digits(results)) if i % 2 == 0
            else MISSING if entry == results.baseline
            else format_difference(column.difference(entry, results.baseline), digits(results))
            for i, column in enumerate(columns)
        ]  # fmt: skip
        rows.append([entry, *cells])
    note = (
        "From the curves of the trainings, interpolated between two measurements. A schedule is cut off within it: a "
        "training that is planned for this cost may end higher."
    )
    caption = "At equal cost, the largest that all runs reached: mean over seeds, and differences paired by seed"
    return Table(caption, [_head(results), *header], rows, [*mark_notes(results), note])


def _device(results: Results) -> str:
    return next(cost.device for entry in results.entries for cost in costs(results, entry))


def _cost(results: Results, device: str) -> Table:
    memory = "GPU memory" if device == "GPU" else "main process's memory"
    rows = []
    for entry in results.entries:
        own = [cost for cost in costs(results, entry) if cost.device == device]
        rows.append([entry, *(_cost_cells(own) if own else [MISSING] * 4), str(len(own))])
    return Table(
        "Training cost: mean over runs",
        [_head(results), "images/s", "hours", f"{device}-hours", f"peak of the {memory}, GiB", "n"],
        rows,
        [*mark_notes(results), *_cost_notes(results, device)],
    )


def _cost_cells(own: Sequence[Cost]) -> list[str]:
    def mean(values: Iterable[float]) -> float:
        found = list(values)
        return sum(found) / len(found)

    speed, memory = mean(cost.images_per_second for cost in own), mean(cost.peak_memory for cost in own) / GIB
    hours, device_hours = mean(cost.hours for cost in own), mean(cost.device_hours for cost in own)
    return [f"{speed:,.0f}", format_hours(hours), format_hours(device_hours), f"{memory:.2f}"]


def format_hours(hours: float) -> str:
    """Three digits that count, for minutes and weeks."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 10 else f"{hours:.3f}"


def _cost_notes(results: Results, device: str) -> list[str]:
    all_costs = [cost for entry in results.entries for cost in costs(results, entry) if cost.device == device]
    total = format_hours(sum(cost.device_hours for cost in all_costs))
    runs = "1 finished run" if len(all_costs) == 1 else f"{len(all_costs)} finished runs"
    notes = [
        "Images, not crops, per second, loading included, evaluation left out.",
        f"Together {total} {device}-hours in {runs}, without the tuning.",
    ]
    if results.at_once > 1:
        notes.append(f"{results.at_once} runs at a time shared the machine: alone, each would be faster.")
    return notes


def tuning_table(results: Results) -> Table | None:
    """How often each row was tried, from the worst to the best, and what was chosen; None without a search."""
    if not results.trials:
        return None
    rows = []
    for entry in results.entries:
        own = [trial for trial in results.trials if trial.entry == entry]
        found = sorted(trial.accuracy for trial in own if trial.accuracy is not None)
        chosen = next((trial for trial in own if trial.chosen), None)
        of_recipe = next((trial.accuracy for trial in own if trial.number == 0), None)
        rows.append(
            [
                entry,
                str(len(own)),
                f"{number(found[0], 1)} to {number(found[-1], 1)}" if found else MISSING,
                MISSING if of_recipe is None else number(of_recipe, 1),
                MISSING if chosen is None else _values(chosen),
            ]
        )
    caption = "Search: accuracy (%) on held-out training images"
    head = [_head(results), "trials", "lowest to highest", "trial 0", "chosen"]
    return Table(caption, head, rows, mark_notes(results))


def _values(trial: Trial) -> str:
    return ", ".join(f"{key}={f'{v:g}' if isinstance(v, float) else v}" for key, v in trial.values.items())


def recipe_table(results: Results, differences: Sequence[Difference], caption: str) -> Table:
    """A row per key, a column per entry."""
    rows = [
        [one.key + ("" if one.fair else f" {UNFAIR} unfair"), *(_setting(one, entry) for entry in results.entries)]
        for one in differences
    ]
    marked = frozenset(i for i, one in enumerate(differences) if not one.fair)
    return Table(caption, ["key", *results.entries], rows, marked=marked)


def _setting(difference: Difference, entry: str) -> str:
    value = difference.values.get(entry)
    return MISSING if value is None else str(value)
