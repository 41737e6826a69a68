"""A comparison's results as one page that opens without a network."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from solo_bam.comparison.report.answer import answer
from solo_bam.comparison.report.facts import facts, sentence
from solo_bam.comparison.report.formats import place
from solo_bam.comparison.report.run_pictures import RunPicture, run_pictures
from solo_bam.comparison.report.summary import MISSING, UNFAIR, circumstances, format_status, listed
from solo_bam.comparison.report.tables import (
    Table,
    accuracy_tables,
    cost_tables,
    difference_table,
    health_table,
    lettered,
    recipe_table,
    students,
    tuning_table,
)
from solo_bam.comparison.results import Results, RunResult
from solo_bam.evaluate.statistics import Estimate

if TYPE_CHECKING:  # matplotlib need not be installed
    from solo_bam.comparison.report.gallery import Picture

_TEMPLATE = Path(__file__).with_name("page.html")
RELOAD = Markup(  # a box to stop it, since a page that changes by itself is hard to read
    "document.querySelector('.reload').hidden = false;"
    "setInterval(() => document.getElementById('reload').checked && location.reload(), 20000);"
)
RELOAD_HASH = f"sha256-{b64encode(sha256(RELOAD.encode()).digest()).decode()}"
_SHOWN_DIFFERENCES = 8  # more of them are folded


class Run(NamedTuple):
    """A line of the list of runs."""

    entry: str
    seed: int
    status: str
    error: str | None
    log: str | None
    link: str | None
    folder: str
    started: str
    command: str


class Differences(NamedTuple):
    """Of all other rows to one: the table, and a drawn interval for each of its numbers."""

    baseline: str
    table: Table
    bars: Sequence[Sequence[Markup]]


@dataclass(frozen=True)
class Part:
    """One comparison, ready for the template."""

    results: Results
    answer: str
    shared: str
    sentence: str
    facts: Sequence[str]
    accuracies: Sequence[Table]
    pictures: Mapping[str, Sequence[Picture]]
    differences_to: Sequence[Differences]
    costs: Sequence[Table]
    tuning: Table | None
    health: Table | None
    run_pictures: Mapping[str, Sequence[RunPicture]]
    unfair_differences: Table | None
    differences: Table | None
    folded: bool
    protocols: Table
    differing: Table | None
    alike: Table | None
    runs: Sequence[Run]


def page(results: Sequence[Results], folder: Path, now: str = "") -> str:
    """The page's text, the same for the same results.

    Args:
        results: of one or several comparisons.
        folder: where the page is to lie; links to the runs start there.
        now: what runs; the page then loads itself anew.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    parts = [_part(one, folder, f"f{i}") for i, one in enumerate(results)]
    names = listed(one.name for one in results)
    told = template.render(
        parts=parts, names=names, now=now, UNFAIR=UNFAIR, reload=RELOAD, reload_hash=RELOAD_HASH
    )  # fmt: skip
    return told + "\n"


def _part(results: Results, folder: Path, prefix: str) -> Part:
    unfair = [one for one in results.differences if not one.fair]
    fair = [one for one in results.differences if one.fair]
    differing, alike = _circumstances(results)
    return Part(
        results=results,
        answer=answer(results),
        shared=listed(results.stated),
        sentence=sentence(results),
        facts=facts(results),
        accuracies=accuracy_tables(results),
        pictures=_pictures(results, prefix),
        differences_to=list(_differences(results)),
        costs=cost_tables(results),
        tuning=tuning_table(results),
        health=health_table(results),
        run_pictures=run_pictures(results),
        unfair_differences=recipe_table(results, unfair, "What makes the comparison unfair") if unfair else None,
        differences=recipe_table(results, fair, "The methods' own part") if fair else None,
        folded=len(fair) > _SHOWN_DIFFERENCES,
        protocols=_protocols(results),
        differing=differing,
        alike=alike,
        runs=[_run(outcome, folder) for outcome in results.outcomes],
    )


def _differences(results: Results) -> Iterator[Differences]:
    """To every row, the baseline first."""
    columns = [column for _, column in students(results)]
    for baseline in sorted(results.entries, key=lambda entry: entry != results.baseline):
        if table := difference_table(results, baseline):
            others = [entry for entry in results.entries if entry != baseline]
            found = [[column.difference(entry, baseline) for column in columns] for entry in others]
            reach = [max((_reach(one) for one in column if one), default=0) or 1.0 for column in zip(*found)]
            yield Differences(baseline, table, [[*map(_bar, row, reach)] for row in found])


def _bar(found: Estimate | None, reach: float) -> Markup:
    """A mean and its interval beside a line at zero, which is ``reach`` from either end; filled: zero is left out."""
    if found is None:
        return Markup("")
    low, mean, high = (round(60 + 54 * value / reach, 1) for value in _three(found))
    kind = "clear" if found.clear_of_zero else "open"
    return Markup(
        '<svg class="bar {}" viewBox="0 0 120 12" aria-hidden="true"><path class="zero" d="M60 0V12"/>'
        '<path class="span" d="M{} 6H{}"/><circle cx="{}" cy="6" r="3.5"/></svg>'
    ).format(kind, low, high, mean)


def _three(found: Estimate) -> tuple[float, float, float]:
    low, high = found.interval or (found.mean, found.mean)
    return low, found.mean, high


def _reach(found: Estimate) -> float:
    return max(map(abs, _three(found)))


def _run(outcome: RunResult, folder: Path) -> Run:
    there = None if outcome.folder is None else place(outcome.folder, folder)
    log = None if outcome.log is None else place(outcome.log, folder)
    return Run(
        outcome.entry,
        outcome.seed,
        format_status(outcome),
        outcome.error,
        log,
        None if there is None else f"./{quote(there)}/",
        MISSING if there is None else there,
        str(outcome.about.get("started", MISSING)),
        shlex.join(outcome.command),
    )


def _circumstances(results: Results) -> tuple[Table | None, Table | None]:
    """What the runs differ in, with the runs; and what is the same for all."""
    found = circumstances(results)
    differing = [
        [what, value, ", ".join(runs)] for what, values in found if len(values) > 1 for value, runs in values.items()
    ]
    alike = [[what, value] for what, values in found if len(values) == 1 for value in values]
    return (
        Table("The runs differ in", ["what", "value", "runs"], differing) if differing else None,
        Table("The same for all runs", ["what", "value"], alike) if alike else None,
    )


def _protocols(results: Results) -> Table:
    """Of every column; without a letter, of those that would only repeat one."""
    shown = lettered(results)
    keys = {column.key for _, column in shown}
    rows = [
        [letter, f"{one.title}, {one.unit}", one.branch, "during" if one.online else "after", one.stated, one.key]
        for letter, one in [*shown, *((MISSING, column) for column in results.columns if column.key not in keys)]
    ]
    header = ["letter", "number", "branch", "measured in or after training", "protocol", "key"]
    return Table("Protocols of the columns", header, rows)


def _pictures(results: Results, prefix: str) -> Mapping[str, Sequence[Picture]]:
    """Pictures by their group; none where matplotlib is not installed."""
    try:
        from solo_bam.comparison.report.gallery import pictures
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        return {}
    return pictures(results, prefix)
