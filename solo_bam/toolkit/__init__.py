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
from pathlib import Path
from typing import Any

from solo_bam.toolkit.hook import run_after_import

INSTALL = "pip install --no-deps solo-learn==1.0.2"
MISSING = f"solo-bam needs solo-learn, which is not installed; install it with: {INSTALL}"

_FACE = {"BaseMethod", "BaseMomentumMethod", "METHODS", "build_method", "method_options", "solo_backbones"} | {
    "GaussianBlur"
}


def edition() -> str | None:
    """Which solo-learn is importable: ``release`` (1.0.2), ``head`` (1.0.6) or None. Imports nothing."""
    spec = importlib.util.find_spec("solo") if "solo" not in sys.modules else sys.modules["solo"].__spec__
    if spec is None or not spec.submodule_search_locations:
        return None
    # The head edition moved its loaders from solo/utils to solo/data.
    folders = [Path(p) for p in spec.submodule_search_locations]
    return "head" if any((folder / "data").is_dir() for folder in folders) else "release"


def install() -> None:
    """Arrange that solo-learn, whenever it is imported, is mended and knows BAM."""
    found = edition()
    if found is None:
        logging.getLogger("solo_bam").warning(MISSING)
    elif found == "release":
        from solo_bam.toolkit.stand_ins import stand_ins

        run_after_import("solo", _complete, around=stand_ins)
    else:
        run_after_import("solo", _complete)


def _complete() -> None:
    """Mend the imported solo-learn and register BAM with it."""
    module = _module()
    module.mend()
    methods = importlib.import_module("solo_bam.methods")
    module.METHODS.update(bam=methods.BAM, bam_momentum=methods.BAMMomentum)


def _module() -> Any:
    """The module that speaks for the installed edition."""
    found = edition()
    if found is None:
        raise ImportError(MISSING)
    if found == "head":
        raise ImportError("solo-bam does not support solo-learn's head edition yet; " + INSTALL)
    importlib.import_module("solo")
    return importlib.import_module("solo_bam.toolkit.release")


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(_module(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
