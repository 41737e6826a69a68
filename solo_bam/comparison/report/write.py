"""The files that a comparison's results are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from solo_bam.comparison.report.formats import markdown, write_csv, write_json
from solo_bam.comparison.report.page import page
from solo_bam.comparison.results import Results
from solo_bam.core.files import written_whole


def write_report(results: Sequence[Results], folder: Path, now: str = "") -> Path:
    """Write ``results.csv``, ``results.json``, ``results.md`` and ``report.html``, each whole or not at all.

    The same results give the same bytes.

    Args:
        results: of one or several comparisons.
        folder: created where it is missing.
        now: what runs; the page then says so and loads itself anew.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", results)
    write_json(folder / "results.json", results)
    _write(folder / "results.md", markdown(results))
    _write(folder / "report.html", page(results, folder, now))
    return folder / "report.html"


def _write(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
