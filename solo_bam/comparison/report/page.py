"""A comparison's results as one page that opens without a network."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from solo_bam.comparison.report.answer import answer
from solo_bam.comparison.report.facts import facts, sentence
from solo_bam.comparison.report.summary import (
    MISSING,
    UNFAIR,
    Table,
    circumstances,
    format_status,
    lettered,
    listed,
    recipe_table,
    result_tables,
    tuning_table,
)
from solo_bam.comparison.report.tables import place
from solo_bam.comparison.results import Results, RunResult

if TYPE_CHECKING:  # matplotlib need not be installed
    from solo_bam.comparison.report.gallery import Picture

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN_DIFFERENCES = 8  # more of them are folded


class Run(NamedTuple):
    """A line of the list of runs."""

    entry: str
    seed: int
    status: str
    error: str | None
    link: str | None
    folder: str
    started: str
    command: str


@dataclass(frozen=True)
class Part:
    """One comparison, ready for the template."""

    results: Results
    answer: str
    sentence: str
    facts: Sequence[str]
    tables: Sequence[Table]
    shown: Sequence[Picture]
    pictures: Sequence[tuple[str, Sequence[Picture]]]
    tuning: Table | None
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
    return template.render(parts=parts, names=listed(one.name for one in results), now=now, UNFAIR=UNFAIR) + "\n"


def _part(results: Results, folder: Path, prefix: str) -> Part:
    unfair = [one for one in results.differences if not one.fair]
    fair = [one for one in results.differences if one.fair]
    differing, alike = _circumstances(results)
    (_, shown), *pictures = _pictures(results, prefix) or [("", [])]
    return Part(
        results=results,
        answer=answer(results),
        sentence=sentence(results),
        facts=facts(results),
        tables=result_tables(results),
        shown=shown,
        pictures=pictures,
        tuning=tuning_table(results),
        unfair_differences=recipe_table(results, unfair, "What makes the comparison unfair") if unfair else None,
        differences=recipe_table(results, fair, "The methods' own part") if fair else None,
        folded=len(fair) > _SHOWN_DIFFERENCES,
        protocols=_protocols(results),
        differing=differing,
        alike=alike,
        runs=[_run(outcome, folder) for outcome in results.outcomes],
    )


def _run(outcome: RunResult, folder: Path) -> Run:
    there = None if outcome.folder is None else place(outcome.folder, folder)
    return Run(
        outcome.entry,
        outcome.seed,
        format_status(outcome),
        outcome.error,
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
    rows = [
        [letter, f"{one.title}, {one.unit}", one.branch, "during" if one.online else "after", one.stated, one.key]
        for letter, one in lettered(results)
    ]
    header = ["letter", "number", "branch", "measured in or after training", "protocol", "key"]
    return Table("Protocols of the columns", header, rows)


def _pictures(results: Results, prefix: str) -> Sequence[tuple[str, Sequence[Picture]]]:
    """Groups of pictures with their titles; none where matplotlib is not installed."""
    try:
        from solo_bam.comparison.report.gallery import pictures
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        return []
    return pictures(results, prefix)
