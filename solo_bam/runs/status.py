"""What the runs below a folder are at."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from solo_bam.runs.folder import RunFolder

SHOWN = ("knn_acc1", "val_knn_acc1", "val_acc1", "accuracy")  # metrics (%) that a run is shown with


class Status(NamedTuple):
    """A run in words.

    Attributes:
        run: its folder.
        status: ``running``, ``finished``, ``stopped``, ``broken off``, with the mark of a collapse.
        epochs: done, of all that there are to be.
        left: time to its end at the pace of its epochs; empty where it does not run.
        metrics: its last headline metrics.
    """

    run: str
    status: str
    epochs: str
    left: str
    metrics: str


def statuses(root: Path) -> Iterator[Status]:
    """Of all runs below a folder, those that were touched last first."""
    paths = sorted(root.rglob("run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        yield _status(RunFolder(path.parent), str(path.parent.relative_to(root)))


def _status(folder: RunFolder, name: str) -> Status:
    record, costs, status = folder.record(), folder.costs(), folder.status
    if status == "finished":
        all_epochs, metrics = len(costs), record.get("results") or {}
    else:  # only these need their files read, which takes longer
        all_epochs = int((folder.recipe() or {}).get("max_epochs") or len(costs))
        metrics = {name: value for row in folder.metrics() for name, value in row.items()}
    left = ""
    if status == "running" and costs:
        seconds = sum(row["seconds"] for row in costs) / len(costs) * (all_epochs - len(costs))
        left = str(timedelta(seconds=round(seconds)))
    if (epoch := record.get("collapsed_in")) is not None:
        status += f", collapsed in epoch {epoch}"
    epochs = f"{len(costs)} of {all_epochs}" if costs or status == "running" else ""  # classifiers do not count theirs
    return Status(name, status, epochs, left, _told(metrics))


def _told(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics)
