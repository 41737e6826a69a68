"""Names that only torch, timm and solo-learn can tell, kept between commands: importing these takes seconds.

They are kept in the user's cache folder until a version changes; the first listing and the first training find them.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from solo_bam import solo_learn
from solo_bam.core.errors import UserError, nearest
from solo_bam.core.files import cache_folder, written_whole


class Known(TypedDict):
    """What may be named, each with a few words; ``options``: each method's own keys."""

    methods: dict[str, str]
    options: dict[str, list[str]]
    metrics: dict[str, str]
    backbones: dict[str, str]


def known() -> Known:
    """What there is; found, which takes seconds, where it is not kept yet."""
    there = kept()
    if there is None:
        there = Known(methods=_methods(), options=_options(), metrics=_metrics(), backbones=_backbones())
        path = _path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as file:
                file.write_text(json.dumps(there))
        except OSError:
            pass  # a cache that cannot be written only costs the time again
    return there


def kept() -> Known | None:
    """What there is, where it has been found before."""
    try:
        there: Known = json.loads(_path().read_text())
    except (OSError, ValueError):
        return None
    return there


def kept_options(method: str) -> list[str] | None:
    """A method's own keys, where they have been found before; None once solo-learn is imported, which knows better."""
    there = None if "solo" in sys.modules else kept()
    return there["options"].get(method) if there else None


def check_option_names(method: str, options: Mapping[str, object], allowed: Sequence[str]) -> None:
    """Refuse a key that a method does not have.

    Args:
        method: its name.
        options: of a recipe.
        allowed: the method's own keys.

    Raises:
        UserError: the first such key.
    """
    for key, value in options.items():
        if key not in allowed:
            close = nearest(key, allowed)
            problem = f"unknown key for {method} (value {value!r}){close}, allowed: {', '.join(allowed)}"
            raise UserError(f"method_kwargs.{key}", problem, "remove it or correct its name")


def _path() -> Path:
    """Of this installation's file: what its name holds changes with what may be named."""
    solo = find_spec("solo")
    sources = [Path(__file__), *Path(__file__).parents[1].glob("methods/*.py")]
    sources += [Path(folder) / "methods" / "__init__.py" for folder in (solo and solo.submodule_search_locations) or ()]
    changed = max(int(os.stat(source).st_mtime) for source in sources)
    return cache_folder() / f"names-{solo_learn.edition()}-timm-{version('timm')}-{changed:x}.json"


def _methods() -> dict[str, str]:
    classes = {name: solo_learn.METHODS[name] for name in solo_learn.known_names()}
    # solo-learn's say it there
    return {name: _first_line(cls.__dict__.get("__doc__") or cls.__init__.__doc__) for name, cls in classes.items()}


def _options() -> dict[str, list[str]]:
    models = {name: solo_learn.options_model(name) for name in solo_learn.known_names()}
    return {
        name: list(model.model_fields)
        if model
        else [*solo_learn.own_options(name), *solo_learn.own_method(name).unread_options]
        for name, model in models.items()
    }


def _metrics() -> dict[str, str]:
    own: dict[str, list[str]] = {}
    for method in solo_learn.known_names():
        for panel in solo_learn.panels(method):
            for key, text in panel.lines.items():
                told = f"{panel.title}, {text}, {panel.label}"
                own.setdefault(key.removesuffix("_step"), [f"{told}; method={method}"]).append(method)
    return {key: ", ".join([told, *methods[1:]]) for key, (told, *methods) in own.items()}


def _backbones() -> dict[str, str]:
    """solo-learn's, and all of timm's that do not share a name with one of them."""
    import timm

    own = list(solo_learn.solo_backbones())
    made = {name: timm.model_entrypoint(name) for name in timm.list_models(exclude_filters=own)}
    its = {name: _first_line(each.__doc__) or f"timm's, of {each.__module__}" for name, each in made.items()}
    return {**dict.fromkeys(own, "solo-learn's"), **its}


def _first_line(text: str | None) -> str:
    return inspect.cleandoc(text or "").partition("\n")[0].rstrip(".")
