"""The log of a run's starts: one JSON object a line, only ever added to, so that a kill cannot lose earlier rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def starts(folder: Path) -> list[Path]:
    """The files of all starts, in their order."""
    return sorted(folder.glob("start_*.jsonl"), key=lambda path: int(path.stem.split("_")[1]))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file; what a kill or a full disk has cut off is left out, and so is a missing file."""
    if not path.exists():
        return
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                with suppress(ValueError):
                    yield json.loads(line)


def metrics(path: Path) -> Iterator[dict[str, float]]:
    """The rows of one start."""
    for row in rows(path):
        yield {key: float(value) for key, value in row.items()}
