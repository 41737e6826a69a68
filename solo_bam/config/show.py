"""A recipe as it is resolved, each value with the file that it comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from pydantic import BaseModel

from solo_bam.config.comparison import Comparison, parse_comparison
from solo_bam.config.find import Kind, find_recipe, recipe_folders
from solo_bam.config.keys import flat
from solo_bam.config.linear import LinearRecipe
from solo_bam.config.overrides import parse_overrides
from solo_bam.config.recipe import chooses_files, compose_recipe, parse_run, shorten_warmup
from solo_bam.config.schema import Recipe

Origins = dict[str, tuple[str, Any]]  # dotted key -> where it is given, and the value there
MODELS: dict[Kind, type[BaseModel]] = {"pretrain": Recipe, "linear": LinearRecipe, "compare": Comparison}
_COLUMN = 44  # of the origins


def show(kind: Kind, name: str, overrides: Sequence[str] = (), config_path: str | None = None) -> str:
    """YAML that is the same recipe, a comment behind each value: its file, ``override`` or ``default``.

    Nothing heavy is imported: a method's own options are as the recipe gives them, unchecked.

    Args:
        kind: of the recipe.
        name: ``digits/bam``.
        overrides: ``key=value``.
        config_path: folder of the recipe; None: the shipped ones.

    Raises:
        UserError: no such recipe, a key or value that is not allowed.
    """
    recipe = resolved(kind, name, overrides, config_path)  # first: it says what is wrong
    origins = find_origins(kind, name, overrides, config_path)
    lines = [
        line if key is None else f"{line:<{_COLUMN}}  # {_origin(origins, key, value)}"
        for line, key, value in _lines(recipe)
    ]
    if kind == "pretrain":
        lines.append("# method_kwargs that do not stand here have the method's own defaults")
    return "\n".join(lines)


def resolved(kind: Kind, name: str, overrides: Sequence[str], config_path: str | None) -> dict[str, Any]:
    """The recipe with its schema's defaults, in plain types; arguments and errors as :func:`show`."""
    raw = compose_recipe(name, overrides, config_path, kind)
    if kind == "compare":
        return parse_comparison({"name": Path(name).stem, **raw}).model_dump(mode="json")
    if kind == "linear":
        return parse_run(raw, LinearRecipe).model_dump(mode="json")
    recipe = parse_run(raw, Recipe)
    shorten_warmup(recipe, overrides)
    return recipe.model_dump(mode="json")


def find_origins(kind: Kind, name: str, overrides: Sequence[str], config_path: str | None) -> Origins:
    """Where each key is given, the last place of several: the files of Hydra's defaults list, then the command line."""
    path = find_recipe(name, config_path, kind)
    changes = parse_overrides(overrides)
    groups = [change for change in changes if chooses_files(change, path.parent)]
    shared = f"hydra.searchpath=[file://{recipe_folders(kind)}]"
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(path.parent), version_base="1.2"):
        loader = GlobalHydra.instance().config_loader()
        lines = [*(change.input_line for change in groups), shared]
        defaults = loader.compute_defaults_list(path.stem, lines, RunMode.RUN).defaults
    found: Origins = {}
    for default in defaults:
        files = (folder / f"{default.config_path}.yaml" for folder in (path.parent, recipe_folders(kind)))
        if (file := next((file for file in files if file.is_file()), None)) is not None:
            package = (default.package or "").removeprefix("_global_").strip(".")
            _give(found, package, OmegaConf.to_container(OmegaConf.load(file)), _told(file, kind))
    for change in changes:
        if not change.is_delete() and change not in groups:
            _give(found, change.key_or_group, change.value(), "override")
    return found


def _give(found: Origins, key: str, value: Any, place: str) -> None:
    """Mappings are merged; anything else takes the place of what there was."""
    found.pop(key, None)
    if isinstance(value, dict) and value:
        for name, child in value.items():
            _give(found, f"{key}.{name}".lstrip("."), child, place)
        return
    if not isinstance(value, dict):
        for old in [old for old in found if old.startswith(f"{key}.")]:
            del found[old]
    for leaf, given in flat(value, f"{key}."):
        found[leaf] = (place, given)


def _origin(origins: Origins, key: str, value: Any) -> str:
    place, _ = origins.get(key, ("default", None))
    # What stands for more, such as `methods: [a]` for `methods: [{name: a}]` and `k: 20` for `k: [20]`.
    short, given = origins.get(key.rpartition(".")[0], (place, None))
    return short if given is not None and given == value else place


def _told(file: Path, kind: str) -> str:
    """A shipped file's place in the repository; another one's from where the user stands."""
    shipped = recipe_folders(kind).parents[1]
    return str(file.relative_to(shipped) if file.is_relative_to(shipped) else os.path.relpath(file))


def _lines(node: Any, key: str = "") -> Iterator[tuple[str, str | None, Any]]:
    """Lines of YAML, each with the dotted key and the value that it gives; None where it opens a section."""
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        place = f"{key}.{name}".lstrip(".")
        if not (isinstance(child, dict | list) and child):
            # Of a long text YAML makes several lines: the value is given at the last.
            *text, last = OmegaConf.to_yaml({name: child} if isinstance(node, dict) else [child]).splitlines()
            yield from ((line, None, None) for line in text)
            yield last, place, child
        elif isinstance(node, dict):
            yield OmegaConf.to_yaml({name: None}).removesuffix(" null\n"), None, None
            yield from ((f"  {line}", *given) for line, *given in _lines(child, place))
        else:
            yield from (
                (f"{'  ' if i else '- '}{line}", *given) for i, (line, *given) in enumerate(_lines(child, place))
            )
