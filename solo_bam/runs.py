"""A run's folder: what was asked for, on what, and what came out.

recipe.yaml          the resolved recipe
run.json             versions, seed, git state, hardware, command, status
checkpoints/         epoch=….ckpt, and last.ckpt, a link to the newest
logs/, tensorboard/  every metric, per start of the run
metrics.csv          the logs of all starts in one table, written at the end
curves.png, boxes/   where matplotlib is installed
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from solo_bam import toolkit
from solo_bam.config.schema import Recipe

# A process that Lightning starts beside the first one finds the first one's folder here.
_ENVIRONMENT_KEY = "SOLO_BAM_RUN"
_PACKAGES = (
    "solo-bam", "solo-learn", "torch", "torchvision", "lightning", "timm", "torchmetrics", "omegaconf", "hydra-core",
    "pydantic", "numpy", "nvidia-dali-cuda120",
)  # fmt: skip


def recipe_hash(recipe: Recipe) -> str:
    """Eight hexadecimal digits of everything that the recipe asks for, the seed included.

    How it is resumed and where it is reported (``auto_resume``, ``resume_from_checkpoint``, ``wandb``) does
    not count.
    """
    asked = recipe.model_dump(mode="json", exclude={"auto_resume", "resume_from_checkpoint", "wandb"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


class RunFolder:
    """One run on disk.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def new(cls, recipe: Recipe) -> RunFolder:
        """A folder for a new run, ``<checkpoint.dir>/<method>/<name>-<hash>``, numbered where it exists."""
        if shared := os.environ.get(_ENVIRONMENT_KEY):
            return cls(Path(shared))
        stem = f"{recipe.name or recipe.method}-{recipe_hash(recipe)}"
        parent = recipe.checkpoint.dir.expanduser().resolve() / recipe.method
        number, path = 1, parent / stem
        while path.exists():
            number += 1
            path = parent / f"{stem}-{number}"
        return cls(path)

    @classmethod
    def unfinished(cls, recipe: Recipe) -> RunFolder | None:
        """The newest unfinished run of the same recipe that has a checkpoint, no older than ``max_hours``."""
        if shared := os.environ.get(_ENVIRONMENT_KEY):
            return cls(Path(shared))
        parent = recipe.checkpoint.dir.expanduser().resolve() / recipe.method
        oldest = time.time() - 3600 * recipe.auto_resume.max_hours
        found = []
        for record in parent.glob("*/run.json"):
            folder = cls(record.parent)
            about = folder.record()
            if about.get("recipe_hash") != recipe_hash(recipe) or about.get("status") == "finished":
                continue
            if folder.last_checkpoint.exists() and (age := folder.last_checkpoint.stat().st_mtime) >= oldest:
                found.append((age, folder))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    def start(self, recipe: Recipe, hardware: Mapping[str, object]) -> None:
        """Create the folder and write down what is about to run."""
        self.path.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(recipe.model_dump(mode="json")), self.path / "recipe.yaml")
        about = {
            "method": recipe.method,
            "recipe_hash": recipe_hash(recipe),
            "seed": recipe.seed,
            "status": "running",
            "command": sys.argv,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "python": platform.python_version(),
            "versions": _versions(),
            "git": _git_state(),
            "hardware": dict(hardware),
        }
        self._write(about)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let the processes that are started meanwhile use this folder."""
        os.environ[_ENVIRONMENT_KEY] = str(self.path)
        try:
            yield
        finally:
            os.environ.pop(_ENVIRONMENT_KEY, None)

    def finish(self, **results: object) -> None:
        """Mark the run as finished, with its results."""
        self._write({**self.record(), "status": "finished", "results": results})

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
        scratch = self.path / "run.json.part"
        scratch.write_text(json.dumps(about, indent=2, default=str) + "\n")
        scratch.replace(self.path / "run.json")  # whole or not at all

    def metrics(self) -> list[dict[str, float]]:
        """Logged metrics of all starts, in order of the steps; of a step logged twice, the later start's."""
        rows: dict[tuple[float, bool, tuple[str, ...]], dict[str, float]] = {}
        starts = sorted(self.path.glob("logs/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
        for path in starts:
            with path.open(newline="") as lines:
                for line in csv.DictReader(lines):
                    row = {key: float(value) for key, value in line.items() if key and value}
                    kind = tuple(sorted(row))
                    rows[(row.get("step", -1.0), "epoch" in row, kind)] = row
        return [rows[key] for key in sorted(rows, key=lambda k: k[0])]

    def write_metrics(self) -> None:
        """Write ``metrics.csv``: the logs of all starts in one table."""
        rows = self.metrics()
        names = sorted({name for row in rows for name in row} - {"epoch", "step"})
        with (self.path / "metrics.csv").open("w", newline="") as out:
            table = csv.DictWriter(out, ["epoch", "step", *names])
            table.writeheader()
            table.writerows(rows)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | toolkit.version()


def _git_state() -> dict[str, object] | None:
    """Commit and cleanliness of the checkout that solo-bam runs from; None where it is no checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        answer = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return None  # installed inside some other project's checkout
        return {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
    except (OSError, subprocess.CalledProcessError):
        return None
