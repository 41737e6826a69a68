"""The weights that a pretraining begins with: whether they are there, and which they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from solo_bam.config.schema import Backbone
from solo_bam.core.errors import UserError, nearest
from solo_bam.core.files import expanded, sha256

KEY = "backbone.pretrained"
LAST = "checkpoints/last.ckpt"  # of a run's folder


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Of a file as it is now: a comparison checks the recipes of all its runs and trials."""
    return sha256(path)[:16]


def check_start(section: Backbone) -> None:
    """Fill in the hash of a file or of a run's newest checkpoint, by which another start makes another recipe.

    Raises:
        UserError: it is not there, is no name of timm's with weights, or has another hash than the recipe's.
    """
    if section.pretrained is None:
        return
    path = expanded(section.pretrained)
    if path.is_dir():
        path = path / LAST
    if path.is_file():
        about = path.stat()
        found = _digest(path.resolve(), about.st_size, about.st_mtime_ns)
        if section.pretrained_sha256 not in (None, found):
            problem = f"got {section.pretrained_sha256}, {path} has {found}: it is another file now"
            raise UserError(f"{KEY}_sha256", problem, "give the file of that time, or remove this key")
        section.pretrained_sha256 = found
        return
    import timm

    if not timm.is_model_pretrained(section.pretrained):
        close = nearest(section.pretrained, timm.list_pretrained())
        problem = f"got {section.pretrained!r}, neither a file, a run nor one of timm.list_pretrained(){close}"
        raise UserError(KEY, problem, "correct it")
