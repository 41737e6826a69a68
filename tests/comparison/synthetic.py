"""Results of comparisons that never ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from solo_bam.comparison.fairness import Difference
from solo_bam.comparison.results import Column, Cost, Point, Results, RunResult, Trial
from solo_bam.runs.records import Record, wilson_interval

NASTY = "<b>dino&co</b>_100%"
ENTRIES = ("bam", "bam_momentum", "byol", "simclr", NASTY)
_KNN = {"kind": "k-NN", "bank": "train, clean", "k": 20, "temperature": 0.07, "distance": "cosine", "crop": "whole"}
_LINEAR = {"kind": "linear", "probe": "linear", "epochs": 100, "crop": 32}
_COLUMNS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("linear, accuracy", "student", "val", {**_LINEAR, "online": True, "probe": "trained beside the method"}),
    ("k-NN (k 20), accuracy", "student", "val", {**_KNN, "online": False}),
    ("linear, accuracy", "student", "val", {**_LINEAR, "online": False}),
    ("k-NN (k 20), accuracy", "teacher", "val", {**_KNN, "online": False}),
)
_HARDWARE = {"processor": "Some(R) Processor", "cores": 2, "gpus": []}


def accuracy(row: int, seed: int, column: int) -> float:
    """Of a made-up run, in steps of one of 360 images."""
    right = 330 + 6 * row - 4 * column + (7 * row + 5 * seed * (row + 2) + column * (row + seed * seed)) % 7
    return 100 * min(right, 360) / 360


def results(
    folder: Path,
    entries: Sequence[str] = ENTRIES,
    seeds: Sequence[int] = (0, 1, 2),
    failed: Sequence[tuple[str, int]] = (),
    missing: Sequence[tuple[str, int]] = (),
    unfair: bool = False,
    tuned: bool = False,
    name: str = "digits",
    **others: Any,
) -> Results:
    """A comparison of ``entries`` with ``byol``, or the first of them, as baseline.

    Args:
        folder: that the runs would lie in.
        entries: rows.
        seeds: of every row.
        failed: entry and seed of runs that failed.
        missing: of those that have not ended.
        unfair: whether the recipes differ in their epochs.
        tuned: whether there are trials.
        name: of the comparison.
        others: fields to set.
    """
    status = {**dict.fromkeys(failed, "failed"), **dict.fromkeys(missing, "missing")}
    outcomes = [
        _outcome(folder, entry, row, seed, status.get((entry, seed), "finished"))
        for row, entry in enumerate(entries)
        for seed in seeds
    ]
    apart = Difference("max_epochs", {entry: 40 if entry == "simclr" else 20 for entry in entries}, fair=False)
    fields: dict[str, Any] = {
        "name": name,
        "entries": entries,
        "baseline": "byol" if "byol" in entries else entries[0],
        "outcomes": outcomes,
        "trials": _trials(entries) if tuned else [],
        "edges": ["bam: the best optimizer.lr is the largest tried"] if tuned else [],
        "tuning": "3 learning rates for each entry, on 144 held-out training images" if tuned else "",
        "differences": [apart] * unfair + _own(entries),
        "unfair": [apart.told] if unfair else [],
        "columns": [_column(i, outcomes) for i in range(len(_COLUMNS))],
        "stated": {
            "data": "digits, 1,437 images",
            "backbone": "resnet18",
            "crops": "2 x 32 px",
            "epochs": "20",
            "batch": "256",
        },
    }
    return Results(**{**fields, **others})


def _outcome(folder: Path, entry: str, row: int, seed: int, status: Any) -> RunResult:
    done = status == "finished"
    epochs = range(2, 21, 2) if done else range(2, 9, 2) if status == "failed" else ()
    return RunResult(
        entry=entry,
        method=entry.split("-")[0] if entry != NASTY else "dino",
        seed=seed,
        status=status,
        error="optimizer.lr: got nan & <nothing>; lower it" if status == "failed" else None,
        log=folder / "jobs" / f"{row}-{seed}.log" if status == "failed" else None,
        folder=None if status == "missing" else folder / "runs" / f"run {row}" / f"seed{seed}",
        command=("solo-bam", "pretrain", "--config-name", f"digits/{row}", f"seed={seed}", f"name={entry}"),
        records=[_record(i, row, seed) for i in range(len(_COLUMNS)) if _measured(i, entry)] if done else [],
        curves={kind: _curve(row, seed, epochs, i) for i, kind in enumerate(("k-NN", "linear"))} if epochs else {},
        cost=Cost(900 - 80 * row + 9 * seed, 0.05 + 0.004 * row, 0.1 + 0.008 * row, "CPU", (900 + 60 * row) << 20) if done else None,
        about={
            "started": f"2026-11-2{seed + 1}T10:00:00+0000",
            "python": "3.11.2",
            "versions": {"torch": "2.15.0", "timm": "1.0.31"},
            "hardware": _HARDWARE,
            "command": ["/somewhere/else/solo-bam"],
        } if status != "missing" else {},
    )  # fmt: skip


def _measured(column: int, entry: str) -> bool:
    return _COLUMNS[column][1] == "student" or entry in ("bam_momentum", "byol", NASTY)


def _record(column: int, row: int, seed: int) -> Record:
    _, branch, split, protocol = _COLUMNS[column]
    value = accuracy(row, seed, column)
    return Record(
        metric="accuracy", value=value, interval=wilson_interval(value / 100, 360), images=360, data=f"digits {split}",
        protocol=protocol, branch=branch, epoch=20, checkpoint=f"/runs/{row}-{seed}/last.ckpt", made="2026-11-22",
    )  # fmt: skip


def _column(column: int, outcomes: Sequence[RunResult]) -> Column:
    title, branch, _, protocol = _COLUMNS[column]
    values: dict[str, dict[int, float]] = {}
    one = _record(column, 0, 0)
    for outcome in outcomes:
        for record in outcome.records:
            if (record.protocol, record.branch) == (one.protocol, branch):
                values.setdefault(outcome.entry, {})[outcome.seed] = record.value
    return Column(f"{one.protocol_key}-{branch}", title, "%", one.stated, branch, bool(protocol["online"]), values)


def _curve(row: int, seed: int, epochs: Sequence[int], kind: int) -> list[Point]:
    top = accuracy(row, seed, 1 + kind)
    return [Point(e, e * (0.0025 + 0.0002 * row) * (1 + 0.03 * seed), top - 40 / (e + row + seed)) for e in epochs]


def _trials(entries: Sequence[str]) -> list[Trial]:
    found = []
    for row, entry in enumerate(entries):
        for i, factor in enumerate((0.5, 1.0, 2.0)):
            value = None if (row, i) == (3, 2) else 95.0 + row / 2 - (i - row % 3) ** 2
            values: dict[str, object] = {"optimizer.lr": 0.01 * factor * (row + 1)}
            found.append(Trial(entry, i, values, value, i == row % 3))
    return found


def _own(entries: Sequence[str]) -> list[Difference]:
    keys = (
        "method",
        "optimizer.lr",
        *(
            f"method_kwargs.{name}"
            for name in (
                "reg",
                "temperature",
                "proj_output_dim",
                "num_sink_iter",
                "top_k_sink",
                "queue",
                "pred_hidden_dim",
            )
        ),
    )
    return [
        Difference(key, {entry: None if (i + row) % 4 == 3 else f"{entry}" if key == "method" else 0.1 * (i + row) for row, entry in enumerate(entries)}, fair=True)
        for i, key in enumerate(keys)
    ]  # fmt: skip
