"""What solo-learn 1.0.2 imports and today's world no longer has, while it is being imported.

It wants ``pytorch_lightning`` to be the Lightning whose Trainer will run it, one class of
``lightning-bolts`` (which itself no longer imports), and ``distutils`` (gone in Python 3.12). What it imports where it
can, and what costs a second, is left out until somebody asks for it. Afterwards ``sys.modules`` is put back, so a
program's own ``pytorch_lightning`` is left alone.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


def _module(name: str, **attributes: object) -> ModuleType:
    module = ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    return module


def _strtobool(value: str) -> bool:
    return value.strip().lower() in {"y", "yes", "t", "true", "on", "1"}


def _replacements() -> dict[str, ModuleType | None]:
    import lightning.pytorch as pl
    import lightning.pytorch.callbacks

    from solo_bam.solo_learn.schedule import LinearWarmupCosineAnnealingLR

    scheduler = _module("lr_scheduler", LinearWarmupCosineAnnealingLR=LinearWarmupCosineAnnealingLR)
    modules: dict[str, ModuleType | None] = {
        "solo.utils.dali_dataloader": None,  # with DALI
        "solo.methods.dali": None,
        "pytorch_lightning": pl,
        "pytorch_lightning.callbacks": lightning.pytorch.callbacks,
        "pl_bolts": _module("pl_bolts"),
        "pl_bolts.optimizers": _module("optimizers"),
        "pl_bolts.optimizers.lr_scheduler": scheduler,
    }
    if find_spec("umap") is None:
        modules["solo.utils.auto_umap"] = None  # imports pandas before it finds that out
    try:
        importlib.import_module("distutils.util")
    except ImportError:
        util = _module("util", strtobool=_strtobool)
        modules |= {"distutils": _module("distutils", util=util), "distutils.util": util}
    return modules


@contextmanager
def quiet() -> Iterator[None]:
    """Let solo-learn's head edition be imported: its and its dependencies' deprecation warnings are kept quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let solo-learn 1.0.2 be imported; its and its dependencies' deprecation warnings are kept quiet."""
    replacements = _replacements()
    before = {name: sys.modules.get(name) for name in replacements}
    sys.modules.update(replacements)  # type: ignore[arg-type]  # None: «is not there»
    try:
        with quiet():
            yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
