"""The one folder that knows solo-learn: which edition is installed, how to mend it, how to build its methods.

Everything else speaks the vocabulary of solo-learn's head edition and takes it from here:

    BaseMethod, BaseMomentumMethod   base classes with the head edition's contract
    METHODS                          solo-learn's registry, with bam and bam_momentum
    build_method(cfg, create)        any registered method from a head-edition cfg, with the backbones of create()
    method_options(name)             the method_kwargs of one of solo-learn's own methods and their defaults
    solo_backbones()                 what builds the backbones of the installed edition, by name
    GaussianBlur                     its augmentation for PIL images
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from solo_bam.toolkit.hook import run_after_import

INSTALL = "pip install --no-deps solo-learn==1.0.2"
MISSING = f"solo-bam needs solo-learn, which is not installed; install it with: {INSTALL}"
HEAD = f"solo-bam does not support this solo-learn (the edition of its GitHub head) yet; install its release: {INSTALL}"

_further_methods: Callable[[], dict[str, type]] = dict
_FACE = frozenset(
    ["BaseMethod", "BaseMomentumMethod", "METHODS", "build_method", "method_options", "solo_backbones", "GaussianBlur"]
)


def edition() -> str | None:
    """Which solo-learn is importable: ``release`` (1.0.2), ``head`` (1.0.6) or None. Imports nothing."""
    spec = importlib.util.find_spec("solo") if "solo" not in sys.modules else sys.modules["solo"].__spec__
    if spec is None or not spec.submodule_search_locations:
        return None
    # The head edition moved its loaders from solo/utils to solo/data.
    folders = [Path(p) for p in spec.submodule_search_locations]
    return "head" if any((folder / "data").is_dir() for folder in folders) else "release"


def install(methods: Callable[[], dict[str, type]]) -> None:
    """Arrange that solo-learn, whenever it is imported, is mended and knows further methods.

    Args:
        methods: gives them by name, once solo-learn is imported and mended.
    """
    global _further_methods
    _further_methods = methods
    if edition() == "release":
        from solo_bam.toolkit.stand_ins import stand_ins

        run_after_import("solo", _complete, around=stand_ins)
    else:
        logging.getLogger("solo_bam").warning(problem())


def problem() -> str | None:
    """Why solo-learn cannot be used, in one line that says what to install; None where it can."""
    return {None: MISSING, "head": HEAD, "release": None}[edition()]


def _complete() -> None:
    """Mend the imported solo-learn and register the further methods with it."""
    module = _module()
    module.mend()
    module.METHODS.update(_further_methods())


def _module() -> Any:
    """The module that speaks for the installed edition."""
    if found := problem():
        raise ImportError(found)
    importlib.import_module("solo")
    return importlib.import_module("solo_bam.toolkit.release")


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(_module(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
