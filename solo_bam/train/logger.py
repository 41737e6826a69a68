"""Lightning's logger for a run's own log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from solo_bam.runs.log import starts


class LineLogger(Logger):
    """Writes metrics to ``folder/start_<number>.jsonl``; each start of a run has a file of its own.

    Args:
        folder: created when the first row is written.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._path: Path | None = None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def version(self) -> str:
        """None: the files are numbered."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's folder has its recipe already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row."""
        if self._path is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._path = self.folder / f"start_{len(starts(self.folder))}.jsonl"
        row = {**{key: float(value) for key, value in metrics.items()}, "step": step}
        with self._path.open("a") as out:
            out.write(json.dumps(row) + "\n")
