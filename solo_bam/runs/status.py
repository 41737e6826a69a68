"""What the runs below a folder are at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from solo_bam.runs.folder import RunFolder

SHOWN = ("knn_acc1", "val_knn_acc1", "val_acc1", "accuracy")  # metrics (%) that a run is shown with
_OWN = {
    "checkpoints",
    "logs",
    "tensorboard",
    "plots",
    "boxes",
    "evaluation",
}  # a run's folders, which hold no other run


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


UNREADABLE = "unreadable"  # the status of a run whose files are none of ours


class Look(NamedTuple):
    """A run as a look at its folder finds it.

    Attributes:
        status: in words.
        record: of ``run.json``.
        metrics: the last value of each.
        data: the data set of its recipe; empty where that cannot be read.
        done: epochs.
        seconds: to its end; None where it does not run.
    """

    status: Status
    record: dict[str, Any]
    metrics: dict[str, Any]
    data: str
    done: int
    seconds: float | None


def statuses(root: Path) -> Iterator[Status]:
    """Of all runs below a folder, those that were touched last first."""
    for folder in run_folders(root):
        name = str(folder.path.relative_to(root))
        try:
            yield look(folder, name).status
        except Exception:  # files that something else has written, in whatever way: no run hides the others
            yield Status(name, UNREADABLE, "", "", "")


def run_folders(root: Path) -> list[RunFolder]:
    """The runs below a folder, those that were touched last first."""
    return [RunFolder(path.parent) for path in newest_first(root, "run.json")]


def newest_first(root: Path, name: str) -> list[Path]:
    """The files of a name below a folder, but within a run; no link to a folder is followed."""
    found = {}
    for place, folders, files in os.walk(root):
        if name in files:
            with suppress(OSError):  # it has just been taken away
                found[Path(place, name)] = os.stat(os.path.join(place, name)).st_mtime
        if "run.json" in files:
            folders[:] = [folder for folder in folders if folder not in _OWN]
    return sorted(found, key=lambda path: found[path], reverse=True)


def look(folder: RunFolder, name: str) -> Look:
    """Read what a run has written; of a finished one, not its log, which takes longer."""
    record, status, done = folder.record(), folder.status, _epochs_done(folder)
    data, all_epochs = _asked(folder)
    if status == "finished":
        all_epochs, metrics = done, record.get("results") or {}
    else:
        metrics = {name: value for row in folder.metrics() for name, value in row.items()}
    all_epochs = all_epochs or done
    seconds = None
    if status == "running" and done:
        seconds = sum(row["seconds"] for row in folder.costs()) / done * (all_epochs - done)
    left = "" if seconds is None else str(timedelta(seconds=round(seconds)))
    if (epoch := record.get("collapsed_in")) is not None:
        status += f", collapsed in epoch {epoch}"
    epochs = f"{done} of {all_epochs}" if done or status == "running" else ""  # classifiers do not count theirs
    return Look(Status(name, status, epochs, left, _told(metrics)), record, metrics, data, done, seconds)


def _epochs_done(folder: RunFolder) -> int:
    """As many as have their cost told; counted without parsing the rest, since a thousand runs have many."""
    try:
        text = (folder.logs / "cost.jsonl").read_text()
    except (OSError, ValueError):
        return 0
    return len({*re.findall(r'"epoch": (\d+),.*\n', text)})


def _asked(folder: RunFolder) -> tuple[str, int]:
    """Data set and epochs of a run's recipe, from its two lines: parsing it all takes 20 ms."""
    try:
        text = (folder.path / "recipe.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "", 0
    data = re.search(r"^data:\n(?: .*\n)*?  dataset: (.+)$", text, re.MULTILINE)
    epochs = re.search(r"^max_epochs: (\d+)$", text, re.MULTILINE)
    return data[1].strip("'\"") if data else "", int(epochs[1]) if epochs else 0


def _told(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics)
