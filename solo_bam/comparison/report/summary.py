"""What is said of a comparison's results, in words and in tables: shared by Markdown, LaTeX and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from solo_bam.comparison.fairness import Difference
from solo_bam.comparison.results import Column, Cost, Results, RunResult, Trial, with_untrained
from solo_bam.comparison.statistics import FEWEST, Estimate
from solo_bam.config.keys import flat
from solo_bam.core.hardware import GIB

MISSING = "—"
UNFAIR = "†"
FEW_SEEDS = range(FEWEST, 5)
_MANY_IMAGES = 5000

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


# ------------------------------------------------------------------------------------------------- words


def listed(words: Iterable[object]) -> str:
    """``a, b and c``."""
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


def number(value: float, digits: int, sign: str = "-") -> str:
    """With a real minus, and no minus before zero; ``sign="+"`` writes a plus too."""
    told = f"{round(value, digits) + 0.0:{sign}.{digits}f}"
    return told.replace("-", "−") if float(told) else f"{0:.{digits}f}"


def format_mean(found: Estimate | None, digits: int) -> str:
    """``97.1 ± 0.8``; of two values ``97.1 (96.9 and 97.3)``, of one ``97.1``."""
    if found is None:
        return MISSING
    spread = _both(found, digits) if found.half_width is None else f" ± {number(found.half_width, digits)}"
    return number(found.mean, digits) + spread


def format_difference(found: Estimate | None, digits: int) -> str:
    """``+1.2 (0.4 to 2.0)``; of two pairs ``+1.2 (1.1 and 1.3)``, of one ``+1.2``."""
    if found is None:
        return MISSING
    told = number(found.mean, digits, "+")
    if found.interval is None:
        return told + _both(found, digits)
    return told + " ({} to {})".format(*(number(end, digits) for end in found.interval))


def _both(found: Estimate, digits: int) -> str:
    """Of two values, which have no interval."""
    return " ({} and {})".format(*(number(end, digits) for end in found.ends)) if found.n > 1 else ""


def format_run(outcome: RunResult) -> str:
    """``byol seed 2 (failed)``."""
    return f"{outcome.entry} seed {outcome.seed} ({format_status(outcome)})"


def format_status(outcome: RunResult) -> str:
    """``finished``, ``failed`` or ``not finished``."""
    return "not finished" if outcome.status == "missing" else outcome.status


# ---------------------------------------------------------------------------------------------- results


def student_columns(results: Results) -> list[Column]:
    """What the main table shows: the offline protocols first."""
    return sorted((c for c in results.columns if c.branch != "teacher"), key=lambda column: column.online)


def teacher_columns(results: Results) -> list[Column]:
    """The momentum teachers' numbers, which stand apart: not every method has one."""
    return sorted((c for c in results.columns if c.branch == "teacher"), key=lambda column: column.online)


def shown_columns(results: Results) -> list[Column]:
    """The student's offline columns, which the pictures show; the online ones where there are no others."""
    columns = student_columns(results)
    return [column for column in columns if not column.online] or columns


def seeds(results: Results) -> list[int]:
    """Planned ones."""
    return sorted({outcome.seed for outcome in results.outcomes})


def test_images(results: Results) -> dict[str, int]:
    """How many images each data set measures on."""
    records = (record for outcome in results.outcomes for record in outcome.records)
    return {record.data: record.images for record in records if record.images}


def digits(results: Results) -> int:
    """Behind the point: what a test image more or less can change."""
    return 2 if max(test_images(results).values(), default=0) >= _MANY_IMAGES else 1


def costs(results: Results, entry: str) -> list[Cost]:
    """Of the entry's finished runs."""
    own = (o for o in results.outcomes if o.entry == entry and o.status == "finished")
    return [outcome.cost for outcome in own if outcome.cost]


def circumstances(results: Results) -> list[tuple[str, dict[str, list[str]]]]:
    """Versions and hardware: ``[(what, {value: runs})]``, what the runs differ in first."""
    found: dict[str, dict[str, list[str]]] = {}
    for outcome in results.outcomes:
        about = {key: outcome.about.get(key) for key in ("python", "versions", "git", "hardware")}
        for key, value in flat({name: part for name, part in about.items() if part}):
            runs = found.setdefault(key, {}).setdefault(str(value), [])
            runs.append(f"{outcome.entry} seed {outcome.seed}")
    return sorted(found.items(), key=lambda pair: len(pair[1]) == 1)


# ----------------------------------------------------------------------------------------------- tables


def lettered(results: Results) -> list[tuple[str, Column]]:
    """Every column with the letter of its protocol."""
    columns = [*student_columns(results), *teacher_columns(results)]
    return [("abcdefghijklmnopqrstuvwxyz"[i % 26] * (i // 26 + 1), column) for i, column in enumerate(columns)]


def result_tables(results: Results) -> list[Table]:
    """Accuracies, differences to the baseline, and cost, each where there is something to show."""
    pairs = lettered(results)
    student = [(letter, column) for letter, column in pairs if column.branch != "teacher"]
    teacher = [(letter, column) for letter, column in pairs if column.branch == "teacher"]
    notes = [*unfair_notes(results), *seeds_notes(results), *_gaps(results)]
    tables = [_accuracies(results, student, "Results", notes)]
    if teacher:
        tables.append(_accuracies(results, teacher, "Results of the momentum teacher", _mark_notes(results)))
    if len(results.entries) > 1 and student:
        tables.append(_differences(results, student))
    return [*tables, *cost_tables(results)]


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
        [_marked(results, entry), *_with_counts(of, digits(results), format_mean)] for entry, of in estimates.items()
    ]
    return Table(
        f"{caption}: mean ± half of the 95 % interval over seeds",
        [_head(results), *(_name(letter, column) for letter, column in pairs), "n"],
        rows,
        [*notes, *_collapses(results), *protocols],
    )


def _differences(results: Results, pairs: Sequence[tuple[str, Column]]) -> Table:
    others = [entry for entry in results.entries if entry != results.baseline]
    found = {entry: [column.difference(entry, results.baseline) for _, column in pairs] for entry in others}
    return Table(
        f"Differences to {results.baseline}, paired by seed: mean (95 % interval)",
        [_head(results), *(_name(letter, column).replace("%", "points") for letter, column in pairs), "n"],
        [[entry, *_with_counts(own, digits(results), format_difference)] for entry, own in found.items()],
        [
            *_mark_notes(results),
            "An interval on both sides of zero shows no difference. n: seeds that both rows have.",
        ],
    )


def _with_counts(found: Sequence[Estimate | None], places: int, told: Told) -> Iterator[str]:
    """Cells and the row's n; a cell that rests on fewer seeds says so itself."""
    most = max((one.n for one in found if one), default=0)
    for one in found:
        yield told(one, places) + (f", n = {one.n}" if one and one.n != most else "")
    yield str(most)


def cost_tables(results: Results) -> list[Table]:
    """What a run took on average, one table for each kind of device: their hours and bytes are not of a kind."""
    devices = sorted({cost.device for entry in results.entries for cost in costs(results, entry)})
    return [_cost(results, device) for device in devices]


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
        [*_mark_notes(results), *_cost_notes(results, device)],
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
    return Table(caption, head, rows, _mark_notes(results))


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


# ------------------------------------------------------------------------------------------------ notes


def seeds_notes(results: Results) -> list[str]:
    """How many seeds the numbers rest on, and what follows from it."""
    found = [column.estimate(entry) for column in results.columns for entry in results.entries]
    counts = sorted({one.n for one in found if one})
    if not counts:
        return ["No run has a number yet."]
    planned = listed(seeds(results))
    notes = [f"±: half of the 95 % confidence interval of the mean (Student's t); n: seeds, of {planned}."]
    if counts[0] == 1:
        notes.append("Where n = 1 there is no interval: one seed does not say how far off another would be.")
    if 2 in counts:
        notes.append("Where n = 2 the two values stand in place of an interval, which two seeds cannot give.")
    if few := [count for count in counts if count in FEW_SEEDS]:
        told = listed(f"n = {count}" for count in few)
        notes.append(f"With {told} the interval rests on few seeds: it is wide, and assumes normal scatter.")
    return notes


def unfair_notes(results: Results) -> list[str]:
    """Why the comparison is unfair; empty where it is fair."""
    return [f"{UNFAIR} Not a fair comparison: {reason}." for reason in results.unfair]


def _mark_notes(results: Results) -> list[str]:
    """For the tables after the first, which gives the reasons."""
    return [f"{UNFAIR} Not a fair comparison: see the reasons under the first table."] if results.unfair else []


def _gaps(results: Results) -> list[str]:
    return [f"Without a number: {listed(map(format_run, results.failed))}."] if results.failed else []
