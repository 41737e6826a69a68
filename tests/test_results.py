"""The tables of the pages are those of the files of numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from solo_bam.comparison.report.summary import format_mean
from solo_bam.evaluate.statistics import estimate
from tests import house

RESULTS = house.ROOT / "docs" / "results"
METRICS = ("k-NN (k = 20)", "linear")
# A page, and the files of its tables of these two metrics in their order.
TABLES = {
    "README.md": ["quick"],
    "docs/results.md": ["quick", "quick-50", "infonce", "field", "cifar10-jpeg-small", "digits"],
    "docs/method.md": ["ablations", "controls"],
}


def _expected(path: Path) -> dict[str, list[str]]:
    values: dict[tuple[str, str], list[float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["metric"] in METRICS and row["online"] == "False":
                values.setdefault((row["entry"], row["metric"]), []).append(float(row["value"]))
    table: dict[str, list[str]] = {}
    for (entry, _), seeds in values.items():
        table.setdefault(entry, []).append(format_mean(estimate(seeds), digits=1))
    return table


def _tables(page: Path) -> list[dict[str, list[str]]]:
    """Of each table whose second and third column are the two metrics: row -> cells."""
    tables: list[dict[str, list[str]]] = []
    inside = False
    for line in page.read_text().splitlines():
        cells = [cell.strip().replace("`", "").removesuffix(", %") for cell in line.strip("|").split("|")]
        if line.startswith("|") and tuple(cells[1:3]) == METRICS:
            inside = True
            tables.append({})
        elif not line.startswith("|"):
            inside = False
        elif inside and not cells[0].startswith("---"):
            tables[-1][cells[0]] = cells[1:3]
    return tables


@pytest.mark.parametrize("page", TABLES)
def test_a_table_is_its_files(page: str) -> None:
    tables = _tables(house.ROOT / page)
    assert len(tables) == len(TABLES[page])
    for name, table in zip(TABLES[page], tables):
        assert table == _expected(RESULTS / f"{name}.csv"), name
