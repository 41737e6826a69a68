"""What may stand where the cursor is: recipes, runs, keys and their values. Torch is not needed for any of it."""

from __future__ import annotations

import glob
import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import argcomplete
from argcomplete.completers import FilesCompleter

from solo_bam.config.find import KINDS, Kind, recipe_folders, recipe_names
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded

_KINDS: dict[str, tuple[Kind, ...]] = {"linear": ("linear",), "compare": ("compare",), "show": KINDS}
_SETTINGS = {
    "knn": "options.KNNOptions", "export": "options.ExportOptions", "davis": "options.DavisOptions",
    "import-official": "options.ImportOptions", "plot": "plotting.PlotOptions", "health": "plotting.NetworkOptions",
    "explore": "plotting.ExploreOptions", "transfer": "options.TransferOptions", "board": "options.BoardOptions",
}  # fmt: skip
_RECIPE = ("config_name", "recipe", "name", "data", "loaders")  # what names one, or comes before its keys
_RUNS = ("checkpoint", "arguments", "of", "folders")
_KEYS = ("overrides", "settings", "words", "arguments", "of")


def complete(parser: ArgumentParser) -> None:
    """Write the completions of the line that a shell asks about, and exit."""
    command = parser.prog.split()[-1]
    for action in parser._actions:
        if action.dest in (*_RECIPE, *_RUNS, *_KEYS):

            def words(prefix: str, parsed_args: Namespace, dest: str = action.dest, **_: object) -> list[str]:
                return [word for word in _words(command, dest, prefix, parsed_args) if word.startswith(prefix)]

            action.completer = words  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _words(command: str, dest: str, prefix: str, asked: Namespace) -> Iterator[str]:
    if (dest in _RECIPE and command != "zoo") or (dest == "words" and not _recipe(asked)):
        for kind in _KINDS.get(command, ("pretrain",)):
            yield from recipe_names(expanded(asked.config_path) if _own(asked) else recipe_folders(kind))
    if dest in _RUNS and "=" not in prefix:
        for depth in range(4):
            yield from (str(Path(found).parent) for found in glob.glob(f"{prefix}*{'/*' * depth}/run.json"))
        yield from FilesCompleter()(prefix)
    if dest in _KEYS:
        yield from _keys(command, prefix, asked)


def _keys(command: str, prefix: str, asked: Namespace) -> Iterable[str]:
    from solo_bam.config import keys

    if command in _SETTINGS:
        module, name = _SETTINGS[command].split(".")
        return keys.completions(prefix, getattr(importlib.import_module(f"solo_bam.config.{module}"), name))
    from solo_bam.config.show import MODELS, resolved

    for kind in _KINDS.get(command, ("pretrain",)):
        try:
            given = resolved(kind, _recipe(asked) or "", [], getattr(asked, "config_path", None))
            return keys.completions(prefix, MODELS[kind], given)
        except UserError:  # no such recipe
            continue
    return keys.completions(prefix, MODELS[_KINDS.get(command, ("pretrain",))[0]])


def _recipe(asked: Namespace) -> str | None:
    """The recipe that is on the line already."""
    first = next(iter(getattr(asked, "words", None) or []), None)
    return next((name for name in (*(getattr(asked, dest, None) for dest in _RECIPE), first) if name), None)


def _own(asked: Namespace) -> bool:
    return getattr(asked, "config_path", None) is not None
