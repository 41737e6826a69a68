"""The one folder that knows solo-learn: which edition is installed, how to mend it, how to build its methods.

Everything else speaks the vocabulary of solo-learn's head edition and takes it from here:

    BaseMethod, BaseMomentumMethod   base classes with the head edition's contract
    METHODS                          solo-learn's registry, with those of this package that it lacks
    build_method(cfg, create)        any registered method from a head-edition cfg, with the backbones of create()
    method_names()                   the methods that a recipe may name
    options_model(name)              the pydantic model of a method's method_kwargs, where its class has one
    version()                        which solo-learn it is, for the record of a run
    own_options(name)                the method_kwargs of one of solo-learn's own methods and their defaults
    own_method(name)                 further facts about one of solo-learn's own methods
    UNREAD_KEYS                      keys of solo-learn's recipes that nothing reads
    crop_rule(name)                  which crops a method takes
    note(name, options)              what it has that others have not, in words
    by_row(name)                     whether a method's networks may forward a batch in chunks
    solo_backbones(method)           what builds the backbones of the installed edition, by name
    GaussianBlur                     its augmentation for PIL images
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from solo_bam.solo_learn.hook import run_after_import
from solo_bam.solo_learn.rules import UNREAD_KEYS as UNREAD_KEYS
from solo_bam.solo_learn.rules import CropRule as CropRule
from solo_bam.solo_learn.rules import OwnMethod
from solo_bam.solo_learn.rules import Panel as Panel

INSTALL = "pip install --no-deps solo-learn==1.0.2"
MISSING = f"solo-bam needs solo-learn, which is not installed; install it with: {INSTALL}"

_further_methods: Mapping[str, Callable[[], type]] = {}
_facts: Callable[[str, str], OwnMethod] | None = None
_FACE = frozenset(
    ["BaseMethod", "BaseMomentumMethod", "METHODS", "build_method", "own_options", "solo_backbones", "GaussianBlur"]
)


def edition() -> str | None:
    """Which solo-learn is importable: ``release`` (1.0.2), ``head`` (1.0.6) or None. Imports nothing."""
    spec = importlib.util.find_spec("solo") if "solo" not in sys.modules else sys.modules["solo"].__spec__
    if spec is None or not spec.submodule_search_locations:
        return None
    # The head edition moved its loaders from solo/utils to solo/data.
    folders = [Path(p) for p in spec.submodule_search_locations]
    return "head" if any((folder / "data").is_dir() for folder in folders) else "release"


def version() -> dict[str, str]:
    """``{"solo-learn": …}``: the release's number, or «head» and the commit of its checkout; empty without one.

    The head edition is often on the path beside an installed release, so the installed number says nothing of it.
    """
    if edition() != "head":
        return {}
    spec = importlib.util.find_spec("solo")
    folder = next(iter(spec.submodule_search_locations or ())) if spec else "."
    try:
        asked = subprocess.run(["git", "-C", folder, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    except OSError:  # no git
        return {"solo-learn": "head"}
    return {"solo-learn": f"head {asked.stdout.strip()}".strip()}


def install(methods: Mapping[str, Callable[[], type]], facts: Callable[[str, str], OwnMethod]) -> None:
    """Arrange that solo-learn, whenever it is imported, is mended and knows further methods.

    Args:
        methods: name -> what gives its class, called once solo-learn is imported and mended.
        facts: about one of solo-learn's own methods, by name and edition.
    """
    global _further_methods, _facts
    _further_methods, _facts = methods, facts
    if edition() is None:
        logging.getLogger("solo_bam").warning(problem())
        return
    from solo_bam.solo_learn import stand_ins

    run_after_import("solo", _complete, around=stand_ins.stand_ins if edition() == "release" else stand_ins.quiet)


def problem() -> str | None:
    """Why solo-learn cannot be used, in one line that says what to install; None where it can."""
    return MISSING if edition() is None else None


def _complete() -> None:
    """Mend the imported solo-learn and register the further methods with it."""
    module = _module()
    module.mend()
    further = {name: load() for name, load in _further_methods.items() if name not in module.METHODS}
    module.METHODS.update(further)


def _module() -> Any:
    """The module that speaks for the installed edition."""
    if found := problem():
        raise ImportError(found)
    importlib.import_module("solo")
    return importlib.import_module(f"solo_bam.solo_learn.{edition()}")


def method_names() -> list[str]:
    """The methods that a recipe may name, sorted. Imports nothing, where nothing of one's own can be registered yet."""
    return known_names() if "solo" not in sys.modules else _recipe_names(_module().METHODS)


def known_names() -> list[str]:
    """The same without what was registered since: solo-learn's and those of this package."""
    return _recipe_names(_names_in_source() or _module().METHODS)


def _recipe_names(names: Iterable[str]) -> list[str]:
    return sorted({*names, *_further_methods} - {"base", "linear"})


def _names_in_source() -> list[str]:
    """The keys of solo-learn's registry, read from its file: importing it takes seconds; none where it is not there."""
    spec = importlib.util.find_spec("solo")
    for folder in (spec and spec.submodule_search_locations) or ():
        for node in ast.parse(Path(folder, "methods", "__init__.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "METHODS":
                return [ast.literal_eval(key) for key in getattr(node.value, "keys", ()) if key]
    return []


def options_model(name: str) -> Any:
    """The pydantic model of a method's ``method_kwargs``, its class's attribute ``Options``; None without one."""
    return getattr(_module().METHODS[name], "Options", None)


def own_method(name: str) -> OwnMethod:
    """The facts about one of solo-learn's own methods in the installed edition."""
    assert _facts is not None  # `import solo_bam` has installed them
    return _facts(name, edition() or "release")


def crop_rule(name: str) -> CropRule:
    """Which crops a method takes: its class's attribute ``crops``, or what is known of solo-learn's own."""
    rule: CropRule = getattr(_module().METHODS[name], "crops", None) or own_method(name).crops
    return rule


def note(name: str, options: Mapping[str, Any]) -> str:
    """What a method has that others have not, in words: its class's ``note``, or what is known of solo-learn's own."""
    if said := getattr(_module().METHODS[name], "note", None):
        return said(options)
    own = own_method(name)
    options = own.defaults | dict(options)
    return own.note.format(**options) if options.get("queue_size") != 0 else ""


def by_row(name: str) -> bool:
    """Whether a batch may be chunked: the class's attribute ``by_row``, or what is known of solo-learn's own."""
    said: bool = getattr(_module().METHODS[name], "by_row", own_method(name).by_row)
    return said


def check_method(recipe: Any, global_batch: int) -> None:
    """What a method's class checks of a whole recipe, its ``check``, where it has one.

    Raises:
        UserError: keys that do not fit together.
    """
    if check := getattr(_module().METHODS[recipe.method], "check", None):
        check(recipe, global_batch)


def panels(name: str) -> tuple[Panel, ...]:
    """What a method's class wants to see among a run's curves; nothing for a method that is not registered here."""
    return () if problem() else tuple(getattr(_module().METHODS.get(name), "panels", ()))


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(_module(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
