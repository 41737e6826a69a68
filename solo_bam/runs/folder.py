"""A run's folder: what was asked for, on what, and what came out.

recipe.yaml          the resolved recipe
run.json             versions, seed, git state, hardware, command, status
checkpoints/         epoch=….ckpt, and last.ckpt, a link to the newest; epoch=…-step=….ckpt where it was stopped
logs/, tensorboard/  every metric, per start of the run; logs/cost.jsonl: time and memory of the epochs
metrics.csv          the logs of all starts in one table, written at the end
curves.png, plots/, boxes/   pictures, where matplotlib is installed
evaluation/          numbers with their protocols
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from solo_bam.config.schema import Run
from solo_bam.core.errors import UserError
from solo_bam.core.files import PART, expanded, locked, written_whole
from solo_bam.core.hardware import describe
from solo_bam.runs import log, versions
from solo_bam.runs.identity import changes, recipe_hash

_LOCK = "running.lock"  # held by the process that trains
# A process that Lightning starts beside the first one finds the first one's folder here.
_ENVIRONMENT_KEY = "SOLO_BAM_RUN"
_ALIAS = re.compile(r"[:-]\s+(?:[\[{]\s*)?[*&]\w")  # of YAML, or an anchor


class RunFolder:
    """One run on disk.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def new(cls, recipe: Run) -> RunFolder:
        """A folder for a new run, ``<checkpoint.dir>/<method>/<name>-<hash>``, numbered where it exists."""
        if shared := os.environ.get(_ENVIRONMENT_KEY):
            return cls(Path(shared))
        stem = f"{recipe.name or recipe.method}-{recipe_hash(recipe)}"
        parent = expanded(recipe.checkpoint.dir).resolve() / recipe.method
        number, path = 1, parent / stem
        while path.exists():
            number += 1
            path = parent / f"{stem}-{number}"
        return cls(path)

    @classmethod
    def unfinished(cls, recipe: Run) -> RunFolder | None:
        """The newest unfinished run of the same recipe that has a checkpoint, no older than ``max_hours``."""
        if shared := os.environ.get(_ENVIRONMENT_KEY):
            return cls(Path(shared))
        alike = [folder for folder in cls._resumable(recipe) if folder.is_of(recipe)]
        return max(alike, key=lambda folder: folder.saved()[0].stat().st_mtime) if alike else None

    @classmethod
    def alike(cls, recipe: Run) -> list[RunFolder]:
        """The runs of the same recipe in its place, the newest first."""
        found = [folder for folder in cls._all(recipe) if folder.is_of(recipe)]
        return sorted(found, key=lambda folder: (folder.path / "run.json").stat().st_mtime, reverse=True)

    def is_of(self, recipe: Run) -> bool:
        """Whether it is a run of the recipe, but for :data:`solo_bam.runs.identity.MAY_CHANGE`."""
        before = self.recipe()
        return before is not None and not changes(before, recipe)

    @classmethod
    def nearest_unfinished(cls, recipe: Run) -> tuple[RunFolder, dict[str, tuple[Any, Any]]] | None:
        """Of the unfinished runs in the same place, the one that differs in the fewest keys, and these keys."""
        resumable = cls._resumable(recipe)
        found = [(folder, changes(before, recipe)) for folder in resumable if (before := folder.recipe()) is not None]
        return min(found, key=lambda pair: len(pair[1])) if found else None

    @classmethod
    def _resumable(cls, recipe: Run) -> list[RunFolder]:
        """Unfinished runs of the method that have a checkpoint, no older than ``max_hours``."""
        oldest = time.time() - 3600 * recipe.auto_resume.max_hours
        return [
            folder
            for folder in cls._all(recipe)
            if folder.record().get("status") != "finished"
            and (saved := folder.saved())
            and saved[0].stat().st_mtime >= oldest
        ]

    @classmethod
    def _all(cls, recipe: Run) -> list[RunFolder]:
        runs = (expanded(recipe.checkpoint.dir).resolve() / recipe.method).glob("*/run.json")
        return [cls(record.parent) for record in runs]

    def recipe(self) -> dict[str, Any] | None:
        """The resolved recipe that is written down here; None where it cannot be read."""
        try:
            text = (self.path / "recipe.yaml").read_text(encoding="utf-8")
            if _ALIAS.search(text):  # none was written; a few lines of them may stand for gigabytes
                return None
            content = OmegaConf.to_container(OmegaConf.create(text))
        except Exception:  # missing or broken, in whatever way
            return None
        return content if isinstance(content, dict) else None  # type: ignore[return-value]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """A link to the newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    def saved(self) -> list[Path]:
        """The checkpoints, the newest first."""
        places = {path: place for path in self.checkpoints.glob("epoch=*.ckpt") if (place := _place(path))}
        return sorted(places, key=lambda path: places[path], reverse=True)

    def link_last(self, path: Path) -> None:
        """Let ``last.ckpt`` mean ``path``, in one step."""
        with written_whole(self.last_checkpoint) as part:
            part.unlink(missing_ok=True)
            try:
                part.symlink_to(path.name)
            except OSError:  # a file system without links
                shutil.copyfile(path, part)

    def remove_older(self, keep: int, keep_epochs: bool) -> None:
        """Remove all checkpoints but the newest ``keep`` and, with ``keep_epochs``, those of an epoch's end."""
        for path in self.saved()[keep:]:
            if not (keep_epochs and "-step=" not in path.name):
                path.unlink()

    def set_aside_newer(self, path: Path) -> None:
        """Rename checkpoints newer than ``path``, which could not be read, so that they count no more."""
        newest_first = self.saved()
        if path in newest_first:
            for broken in newest_first[: newest_first.index(path)]:
                broken.replace(broken.with_name(f"{broken.name}.broken"))

    def remove_parts(self) -> None:
        """Remove checkpoints whose writing was broken off."""
        for path in self.checkpoints.glob(f"*{PART}"):
            path.unlink()

    @contextmanager
    def running(self, recipe: Run, accelerator: str) -> Iterator[None]:
        """Create the folder and write down what runs now; however it ends before :meth:`finish`, that is written, too.

        A new folder that Lightning has refused to train in is taken away again.
        """
        new = not self.path.exists()
        self.start(recipe, describe(recipe.precision, accelerator))
        self.clear_failures()
        with (self.path / _LOCK).open("a") as lock:
            end = time.monotonic() + 1
            while not locked(lock) and time.monotonic() < end:  # somebody looks whether it runs, which takes no time
                time.sleep(0.01)
            try:
                yield
            except BaseException as error:
                if new and isinstance(error, UserError) and error.key == "Trainer" and not self.saved():
                    shutil.rmtree(self.path, ignore_errors=True)
                elif self.record().get("status") == "running":
                    with suppress(OSError):  # of a full disk, which is what the error tells
                        self.abandon(str(error) or type(error).__name__)
                raise
            finally:
                (self.path / _LOCK).unlink(missing_ok=True)

    @property
    def is_running(self) -> bool:
        """Whether another run's process trains it now; not for a process beside the first one of the run."""
        if _ENVIRONMENT_KEY in os.environ:
            return False
        try:
            with (self.path / _LOCK).open("a" if (self.path / _LOCK).exists() else "r") as lock:
                return not locked(lock)
        except OSError:
            return False

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``stopped``, or ``broken off`` where nobody could write down its end."""
        told = str(self.record().get("status", "unreadable"))
        return "broken off" if told == "running" and not self.is_running else told

    def start(self, recipe: Run, hardware: Mapping[str, object]) -> None:
        """Create the folder and write down what is about to run."""
        self._write_recipe(recipe)
        about = {
            "method": recipe.method,
            "recipe_hash": recipe_hash(recipe),
            "seed": recipe.seed,
            "status": "running",
            "command": sys.argv,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "python": platform.python_version(),
            "versions": versions.versions(),
            "git": versions.git_state(),
            "hardware": dict(hardware),
        }
        self._write(about)

    def adopt(self, recipe: Run, source: Mapping[str, object]) -> None:
        """Create the folder of a run that was trained elsewhere, from a ``source`` that is written down."""
        self._write_recipe(recipe)
        about = {"method": recipe.method, "recipe_hash": recipe_hash(recipe), "status": "finished"}
        self._write({**about, "imported": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "imported_from": dict(source)})

    def _write_recipe(self, recipe: Run) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path / "recipe.yaml") as part:  # cut off, it would not be found again
            OmegaConf.save(OmegaConf.create(recipe.model_dump(mode="json")), part)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let the processes that are started meanwhile use this folder."""
        os.environ[_ENVIRONMENT_KEY] = str(self.path)
        try:
            yield
        finally:
            os.environ.pop(_ENVIRONMENT_KEY, None)

    def finish(self, results: Mapping[str, object], collapsed_in: int | None = None) -> None:
        """Mark the run as finished, with its results and the epoch since which it has been collapsed, if it has."""
        collapsed = {} if collapsed_in is None else {"collapsed_in": collapsed_in}
        self._write({**self.record(), "status": "finished", **collapsed, "results": dict(results)})

    def abandon(self, reason: str) -> None:
        """Mark the run as stopped before its end; it can be resumed."""
        if self.path.is_dir():
            self._write({**self.record(), "status": "stopped", "reason": reason})

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where it is missing or unreadable."""
        try:
            content = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, about: Mapping[str, object]) -> None:
        with written_whole(self.path / "run.json") as part:
            part.write_text(json.dumps(about, indent=2, default=str) + "\n")

    def tell_failure(self, rank: int, error: Mapping[str, str]) -> None:
        """Leave word for the other processes why this one fails."""
        with written_whole(self.path / f"failure_{rank}.json") as part:
            part.write_text(json.dumps(error))

    def failures(self) -> dict[int, dict[str, str]]:
        """What processes have left word of, by rank."""
        paths = sorted(self.path.glob("failure_*.json"))
        return {int(path.stem.split("_")[1]): json.loads(path.read_text()) for path in paths}

    def clear_failures(self) -> None:
        """Take the words away, which says that they have been read."""
        for path in self.path.glob("failure_*.json*"):
            path.unlink(missing_ok=True)

    @property
    def logs(self) -> Path:
        """Folder of the logs of all starts."""
        return self.path / "logs"

    def metrics(self) -> list[dict[str, float]]:
        """Logged metrics of all starts, in order of the steps; of a step logged twice, the later start's."""
        rows: dict[tuple[float, bool, tuple[str, ...]], dict[str, float]] = {}
        for path in log.starts(self.logs):
            for row in log.metrics(path):
                kind = tuple(sorted(row))
                rows[(row.get("step", -1.0), "epoch" in row, kind)] = row
        return [rows[key] for key in sorted(rows, key=lambda k: k[0])]

    def add_cost(self, row: Mapping[str, Any]) -> None:
        """Write down what an epoch took (:class:`solo_bam.train.callbacks.CostMeter`)."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / "cost.jsonl").open("a") as out:
            out.write(json.dumps(row) + "\n")

    def costs(self) -> list[dict[str, Any]]:
        """What each epoch took, in order; of an epoch trained twice, the later one."""
        rows = {row["epoch"]: row for row in log.rows(self.logs / "cost.jsonl")}
        return [rows[epoch] for epoch in sorted(rows)]

    def write_metrics(self) -> None:
        """Write ``metrics.csv``: the logs of all starts in one table."""
        rows = self.metrics()
        names = sorted({name for row in rows for name in row} - {"epoch", "step"})
        with written_whole(self.path / "metrics.csv") as part, part.open("w", newline="", encoding="utf-8") as out:
            table = csv.DictWriter(out, ["epoch", "step", *names])
            table.writeheader()
            table.writerows(rows)


def _place(path: Path) -> tuple[int, int] | None:
    """Whole epochs and steps into the next that a checkpoint's name tells; None for another file's name."""
    told = re.fullmatch(r"epoch=(\d+)(?:-step=(\d+))?\.ckpt", path.name)
    if told is None:
        return None
    return (int(told[1]) + 1, 0) if told[2] is None else (int(told[1]), int(told[2]))
