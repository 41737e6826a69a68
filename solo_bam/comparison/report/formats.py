"""A comparison's results as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from solo_bam.comparison.report.answer import answer
from solo_bam.comparison.report.summary import UNFAIR
from solo_bam.comparison.report.tables import Table, result_tables, tuning_table
from solo_bam.comparison.results import Column, Results, RunResult
from solo_bam.core.files import written_whole
from solo_bam.evaluate.statistics import Estimate

_FIELDS = (
    "comparison", "entry", "method", "seed", "status", "metric", "branch", "online", "unit", "value", "protocol",
    "protocol_stated", "images_per_second", "hours", "device_hours", "device", "peak_memory_bytes", "folder", "unfair",
)  # fmt: skip


def place(path: Path | str, folder: Path) -> str:
    """A path as it is reached from a folder, so that both may move together."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return str(path)


# ------------------------------------------------------------------------------------------------- CSV


def write_csv(path: Path, results: Sequence[Results]) -> None:
    """Write a row per run and number, and one without a number for each run that has none.

    Args:
        path: of the file, which is there whole or not at all; runs' folders are told from its place.
        results: of one or several comparisons.
    """
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, _FIELDS, lineterminator="\n")
        table.writeheader()
        for one in results:
            table.writerows(row for outcome in one.outcomes for row in _rows(one, outcome, path.parent))
            table.writerows(_untrained_rows(one))


def _rows(results: Results, outcome: RunResult, folder: Path) -> Iterator[dict[str, object]]:
    cost = outcome.cost
    run = {
        "comparison": results.name,
        "entry": outcome.entry,
        "method": outcome.method,
        "seed": outcome.seed,
        "status": outcome.status,
        "images_per_second": cost and cost.images_per_second,
        "hours": cost and cost.hours,
        "device_hours": cost and cost.device_hours,
        "device": cost and cost.device,
        "peak_memory_bytes": cost and cost.peak_memory,
        "folder": outcome.folder and place(outcome.folder, folder),
        "unfair": "; ".join(results.unfair),
    }
    numbers = [(c, c.values[outcome.entry][outcome.seed]) for c in results.columns if _has(c, outcome)]
    for column, value in numbers:
        yield {**run, **_cells(column, value)}
    if not numbers:
        yield run


def _untrained_rows(results: Results) -> Iterator[dict[str, object]]:
    for column in results.columns:
        for seed, value in column.values.get(column.start, {}).items():
            run = {"comparison": results.name, "entry": column.start, "seed": seed, "unfair": "; ".join(results.unfair)}
            yield {**run, **_cells(column, value)}


def _cells(column: Column, value: float) -> dict[str, object]:
    return {
        "metric": column.title,
        "branch": column.branch,
        "online": column.online,
        "unit": column.unit,
        "value": value,
        "protocol": column.key,
        "protocol_stated": column.stated,
    }


def _has(column: Column, outcome: RunResult) -> bool:
    return outcome.seed in column.values.get(outcome.entry, {})


_RESULT = ("comparison", "entry", "method", "branch", "metric", "seed", "value", "unit", "online", "protocol")


def write_results(path: Path, results: Sequence[Results]) -> None:
    """Write the numbers alone, each with its protocol in words: a small file, to be kept with a paper.

    Args:
        path: of the CSV file, which is there whole or not at all.
        results: of one or several comparisons.
    """
    rows = [row for one in results for outcome in one.outcomes for row in _rows(one, outcome, path.parent)]
    rows += [row for one in results for row in _untrained_rows(one)]
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, _RESULT, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        for row in rows:
            if "value" in row:
                table.writerow({**row, "value": f"{row['value']:.6g}", "protocol": row["protocol_stated"]})


# ------------------------------------------------------------------------------------------------ JSON


def write_json(path: Path, results: Sequence[Results]) -> None:
    """Write everything: numbers, means, differences, runs, protocols, versions.

    Args:
        path: of the file, which is there whole or not at all; runs' folders are told from its place.
        results: of one or several comparisons.
    """
    content = [_comparison(one, path.parent) for one in results]
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n", encoding="utf-8")


def _comparison(results: Results, folder: Path) -> dict[str, Any]:
    return {
        "name": results.name,
        "entries": list(results.entries),
        "baseline": results.baseline,
        "stated": results.stated,
        "tuning": results.tuning,
        "runs_at_once": results.at_once,
        "unfair": list(results.unfair),
        "differences": [asdict(one) for one in results.differences],
        "columns": [_column(column, results) for column in results.columns],
        "trials": [trial._asdict() for trial in results.trials],
        "runs": [_run(outcome, folder) for outcome in results.outcomes],
    }


def _column(column: Column, results: Results) -> dict[str, Any]:
    others = [entry for entry in results.entries if entry != results.baseline]
    return {
        **column._asdict(),
        "means": {entry: _estimate(column.estimate(entry)) for entry in results.entries},
        "differences": {entry: _estimate(column.difference(entry, results.baseline)) for entry in others},
    }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else {"mean": found.mean, "interval": found.interval, "n": found.n}


def _run(outcome: RunResult, folder: Path) -> dict[str, Any]:
    records = [record.model_dump(mode="json") for record in outcome.records]
    for record in records:
        record["checkpoint"] = record["checkpoint"] and place(record["checkpoint"], folder)
    return {
        "entry": outcome.entry,
        "method": outcome.method,
        "seed": outcome.seed,
        "status": outcome.status,
        "error": outcome.error,
        "folder": None if outcome.folder is None else place(outcome.folder, folder),
        "command": shlex.join(outcome.command),
        "cost": None if outcome.cost is None else asdict(outcome.cost),
        "records": records,
        "curves": {name: [point._asdict() for point in points] for name, points in outcome.curves.items()},
        "about": {key: outcome.about[key] for key in _ABOUT if key in outcome.about},
    }


_ABOUT = ("started", "python", "versions", "git", "hardware")  # not the words that it was started with: other paths


# -------------------------------------------------------------------------------------------- Markdown


def markdown(results: Sequence[Results]) -> str:
    """Tables for a README, with their notes under them.

    Args:
        results: of one or several comparisons.
    """
    parts = []
    for one in results:
        mark = f" {UNFAIR}" if one.unfair else ""
        parts.append(f"## {_md(one.name)}{mark}")
        parts += [_md(told)] if (told := answer(one)) else []
        parts += [_markdown_table(table) for table in _tables(one)]
    return "\n\n".join(parts) + "\n"


def _tables(results: Results) -> list[Table]:
    tuning = tuning_table(results)
    return [*result_tables(results), *([tuning] if tuning else [])]


def _markdown_table(table: Table) -> str:
    head = [f"| {' | '.join(map(_md, cells))} |" for cells in (table.header,)]
    rule = f"|{'|'.join(['---', *['---:'] * (len(table.header) - 1)])}|"
    rows = [f"| {' | '.join(map(_md, row))} |" for row in table.rows]
    lines = [f"**{_md(table.caption)}**", "", *head, rule, *rows]
    return "\n".join([*lines, "", *(f"- {_md(note)}" for note in table.notes)]).rstrip("\n")


def _md(text: str) -> str:
    """Without a character that Markdown obeys; ``_`` within a word is not one."""
    text = re.sub(r"([\\`*\[\]<>|#&~$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
