"""BAM (Balanced Self-Attention Matching, ECCV 2024) for solo-learn.

``pretrain`` trains from a recipe, ``load`` takes a run from disk, ``compare`` compares methods; each gives an object
that a notebook shows. What goes wrong is a ``UserError`` of one line.

After ``import solo_bam``, solo-learn imports on today's torch and Lightning, its known faults are mended,
and ``solo.methods.METHODS`` holds ``bam`` and ``bam_momentum``. The import itself is light: torch and
solo-learn are loaded when they are first used.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from solo_bam import solo_learn
from solo_bam.core.errors import UserError

if TYPE_CHECKING:
    from solo_bam.api.comparison import Comparison, compare
    from solo_bam.api.run import Run, load, pretrain

__all__ = ["Comparison", "Run", "UserError", "compare", "load", "pretrain"]
__version__ = "0.2.0"

_PLACES = {"Comparison": "comparison", "compare": "comparison", "Run": "run", "load": "run", "pretrain": "run"}


def __getattr__(name: str) -> Any:
    """Import what is asked for; Hydra and pydantic, which it needs, take a while."""
    if name not in _PLACES:
        raise AttributeError(f"module 'solo_bam' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"solo_bam.api.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _facts(name: str, edition: str) -> Any:
    from solo_bam.methods.solo_learn import own_method

    return own_method(name, edition)


# A file beside the classes: to import their folder would import torch.
_CLASSES = json.loads(Path(__file__).with_name("methods").joinpath("classes.json").read_text())
solo_learn.install({name: partial(resolve_name, f"solo_bam.methods.{at}") for name, at in _CLASSES.items()}, _facts)
