"""What the page shows of the runs: read once, and again where a run has changed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from solo_bam.core.hardware import GIB
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.status import SHOWN, UNREADABLE, Look, look, run_folders

ALIKE = (
    0.5  # spread of projections below which any method has collapsed: `OnlineHeads.alike_below`, whose room takes torch
)
COLUMNS = ("run", "method", "data", "status", "epochs", "left", "last metrics", "health", "disk", "started")
Fingerprint = tuple[tuple[str, int, int], ...]


class Cell(NamedTuple):
    """A text, and what the column is sorted by where that is something else."""

    text: str
    sort: float | str | None = None


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        run: its folder, from the root.
        cells: as :data:`COLUMNS`.
        spread: of its projections, 0 to 1; None where it is not logged.
        collapsed: whether it has.
        running: whether it is.
        size: bytes of its folder.
        seen: of its files.
        version: of the store, when it was read.
    """

    run: str
    cells: tuple[Cell, ...]
    spread: float | None
    collapsed: bool
    running: bool
    size: int
    seen: Fingerprint
    version: int


class Store:
    """The runs below a folder.

    Args:
        root: the folder.

    Attributes:
        rows: by the run's folder, those that were touched last first.
        gone: runs that have been taken away, with the version since which they are.
        version: goes up with every change.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.rows: dict[str, Row] = {}
        self.gone: dict[str, int] = {}
        self.version = 0

    def refresh(self) -> bool:
        """Read what is new; whether there was anything."""
        rows, version = {}, self.version + 1
        for folder in run_folders(self.root):
            name = folder.path.relative_to(self.root).as_posix()
            seen = fingerprint(_files(folder.path), self.root)
            if seen is None:
                continue
            old = self.rows.get(name)
            killed = old is not None and old.running and folder.status != "running"  # which changes no file
            rows[name] = old if old and old.seen == seen and not killed else _row(folder, name, seen, version)
        new = any(row.version == version for row in rows.values())
        gone = dict.fromkeys(self.rows.keys() - rows.keys(), version)
        if new or gone:
            self.gone = {run: at for run, at in {**self.gone, **gone}.items() if run not in rows}
            self.rows, self.version = rows, version
        return bool(new or gone)

    def folder(self, run: str) -> RunFolder:
        """The folder of a run.

        Raises:
            KeyError: there is none of this name.
        """
        return RunFolder(self.root / self.rows[run].run)


def fingerprint(paths: Iterable[str], root: Path) -> Fingerprint | None:
    """Size and time of each file or folder that is there; None where one leads out of the root, or is neither."""
    found = []
    for path in paths:
        with suppress(OSError):
            if os.path.islink(path) and not Path(path).resolve().is_relative_to(root):
                return None
            told = os.stat(path)
            if not (stat.S_ISREG(told.st_mode) or stat.S_ISDIR(told.st_mode)):
                return None
            found.append((path, told.st_size, told.st_mtime_ns))
    return tuple(found)


def _files(folder: Path) -> Iterator[str]:
    """What is read of a run."""
    yield from (os.path.join(folder, name) for name in ("run.json", "recipe.yaml"))
    for name in ("logs", "evaluation"):
        place = os.path.join(folder, name)
        yield place
        with suppress(OSError):
            yield from sorted(entry.path for entry in os.scandir(place) if entry.name.endswith((".jsonl", ".json")))


def _row(folder: RunFolder, name: str, seen: Fingerprint, version: int) -> Row:
    size = sum(_sizes(folder.path))
    try:
        return _told(folder, look(folder, name), size, seen, version)
    except Exception:  # files that something else has written, in whatever way: no run hides the others
        cells = [Cell("")] * len(COLUMNS)
        cells[0], cells[3] = Cell(name), Cell(UNREADABLE)
        return Row(name, tuple(cells), None, False, False, size, seen, version)


def _told(folder: RunFolder, found: Look, size: int, seen: Fingerprint, version: int) -> Row:
    run, status, epochs, left, metrics = found.status
    spread = found.metrics.get("projection_spread")
    collapsed = found.record.get("collapsed_in") is not None
    collapsed = collapsed or (spread is not None and float(spread) < ALIKE and found.done > 1)
    first = next((found.metrics[name] for name in SHOWN if name in found.metrics), None)
    started = str(found.record.get("started") or found.record.get("imported") or "")
    cells = (
        Cell(run),
        Cell(str(found.record.get("method", ""))),
        Cell(found.data),
        Cell(status),
        Cell(epochs, found.done),
        Cell(left, found.seconds),
        Cell(metrics, first),
        Cell(", ".join(_health(folder, found.metrics, collapsed)), spread),
        Cell(format_size(size), size),
        Cell(started[:16].replace("T", " "), started),
    )
    return Row(run, cells, spread, collapsed, status.startswith("running"), size, seen, version)


def _health(folder: RunFolder, metrics: dict[str, Any], collapsed: bool) -> Iterator[str]:
    """What training has logged of it, and what ``solo-bam health`` has measured."""
    if collapsed:
        yield "collapsed"
    for name, told in (("projection_spread", "spread"), ("rankme", "RankMe")):
        if name in metrics:
            yield f"{told} {metrics[name]:.3g}"
    for path in sorted((folder.path / "evaluation").glob("health*.json")):
        for record in json.loads(path.read_text()):
            yield f"{record['metric']} {record['value']:.3g} (measured)"


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                yield os.lstat(os.path.join(place, name)).st_size


def format_size(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"
