"""The one sentence says no more than the seeds do."""

from __future__ import annotations

from pathlib import Path

import pytest

from solo_bam.comparison.report.answer import answer
from solo_bam.comparison.results import Column
from solo_bam.runs.protocols import KNN, Logistic
from tests.comparison.synthetic import results

AHEAD = {"a": [60.0, 61.0, 62.0], "b": [58.0, 59.1, 60.1], "c": [50.0, 51.2, 52.0]}
LEVEL = {"a": [60.0, 61.0, 62.0], "b": [61.0, 59.1, 60.1], "c": [50.0, 51.2, 52.0]}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (AHEAD, "k-NN: a is ahead of b by 1.9 ± 0.1 points (n = 3)."),
        (LEVEL, "k-NN: no difference between a and b (n = 3)."),
        ({"a": [60.0, 61.0], "b": [58.0, 59.0]}, "k-NN: a 60.5 and b 58.5, of too few seeds to tell from chance (n = 2)."),
        (
            {"a": [64.0], "b": [58.0, 59.0, 60.0], "c": [50.0, 51.2, 52.0]},
            "k-NN: b is ahead of c by 7.9 ± 0.3 points (a: too few seeds) (n = 1 to 3).",
        ),
        (
            {"a": [64.0], "b": [63.0], "c": [62.0], "d": [61.0]},
            "k-NN: a 64.0, b 63.0 and c 62.0 first, of too few seeds to tell from chance (n = 1).",
        ),
        (
            {**LEVEL, "untrained": [62.0, 63.0, 64.1]},
            "k-NN: no difference between a and b, none ahead of the untrained network (n = 3).",
        ),
        ({**AHEAD, "untrained": [40.0, 41.0, 42.1]}, "k-NN: a is ahead of b by 1.9 ± 0.1 points (n = 3)."),
        ({"a": [60.0, 61.0, 62.0]}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_the_answer(values: dict[str, list[float]], told: str, tmp_path: Path) -> None:
    by_seed = {entry: dict(enumerate(found)) for entry, found in values.items()}
    column = Column("key", "k-NN", "%", "stated", "student", False, by_seed)
    assert answer(results(tmp_path, entries=["d", "c", "b", "a"], columns=[column])) == told


def test_an_unfair_comparison_says_so(tmp_path: Path) -> None:
    assert answer(results(tmp_path, unfair=True)).endswith("; the comparison is not fair.")


def test_measures_of_transfer_are_left_to_the_table(tmp_path: Path) -> None:
    protocols = {"k-NN": KNN, "logistic, all labels": Logistic}
    by_seed = {entry: dict(enumerate(found)) for entry, found in AHEAD.items()}
    columns = [
        Column(title, title, "%", "stated", "student", False, by_seed, protocol.headline)
        for title, protocol in protocols.items()
    ]
    found = answer(results(tmp_path, entries=["c", "b", "a"], columns=columns))
    assert found == "k-NN: a is ahead of b by 1.9 ± 0.1 points (n = 3)."
