"""What is said of a comparison's results, in words: shared by Markdown, LaTeX and the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from solo_bam.comparison.results import Column, Cost, Results, RunResult
from solo_bam.config.keys import flat
from solo_bam.evaluate.statistics import FEWEST, Estimate

MISSING = "—"
UNFAIR = "†"
FEW_SEEDS = range(FEWEST, 5)
_MANY_IMAGES = 5000

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
    """What the main table shows: the offline protocols first, and no online column that repeats one of them."""
    return _offline_first([column for column in results.columns if column.branch != "teacher"])


def teacher_columns(results: Results) -> list[Column]:
    """The momentum teachers' numbers, which stand apart: not every method has one."""
    return _offline_first([column for column in results.columns if column.branch == "teacher"])


def _offline_first(columns: Sequence[Column]) -> list[Column]:
    return sorted((c for c in columns if not _repeated(c, columns)), key=lambda column: column.online)


def _repeated(column: Column, columns: Sequence[Column]) -> bool:
    """Whether all of an online column's numbers stand in an offline one, too."""
    offline = [other.values for other in columns if not other.online]
    return column.online and any(
        all(values == other.get(entry) for entry, values in column.values.items()) for other in offline
    )


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
    if any(outcome.status == "missing" for outcome in results.outcomes):
        notes.append("A row with n = 1 of 3 or the like is provisional: runs of it have not ended.")
    if few := [count for count in counts if count in FEW_SEEDS]:
        told = listed(f"n = {count}" for count in few)
        notes.append(f"With {told} the interval rests on few seeds: it is wide, and assumes normal scatter.")
    return notes


def unfair_notes(results: Results) -> list[str]:
    """Why the comparison is unfair; empty where it is fair."""
    return [f"{UNFAIR} Not a fair comparison: {reason}." for reason in results.unfair]


def mark_notes(results: Results) -> list[str]:
    """For the tables after the first, which gives the reasons."""
    return [f"{UNFAIR} Not a fair comparison: see the reasons under the first table."] if results.unfair else []


def gaps(results: Results) -> list[str]:
    """Runs without a number."""
    return [f"Without a number: {listed(map(format_run, results.failed))}."] if results.failed else []
