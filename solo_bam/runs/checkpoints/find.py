"""Where a checkpoint's file lies; light, so that a wrong path is told at once."""

from __future__ import annotations

from pathlib import Path

from solo_bam.core.errors import UserError, nearest
from solo_bam.core.files import expanded


def find_checkpoint(path: Path, key: str) -> Path:
    """A checkpoint's file; a run's folder means its newest.

    Raises:
        UserError: there is none, naming ``key``.
    """
    path = expanded(path)
    newest = path / "checkpoints" / "last.ckpt"
    if path.is_dir() and not newest.exists():
        raise UserError(key, f"there is no checkpoint in {path}", "give a run's folder or a checkpoint")
    if not path.exists():
        runs = [str(run.parent) for run in Path().glob("*/*/*/run.json")]
        beside = [str(other) for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(
            key, f"there is no file {path}{nearest(str(path), [*runs, *beside])}", "give a run's folder or a checkpoint"
        )
    return newest if path.is_dir() else path


def pictures_folder(checkpoint: Path) -> Path:
    """``plots/`` of a checkpoint's run, or beside a file that lies in no run."""
    run = checkpoint.absolute().parent.parent
    return (run if (run / "run.json").exists() else checkpoint.absolute().parent) / "plots"
