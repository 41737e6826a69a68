"""Find a recipe, compose it with Hydra and parse it; every mistake is one line."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from solo_bam import solo_learn
from solo_bam.config.find import find_recipe, recipe_folders
from solo_bam.config.known import check_option_names, kept_options
from solo_bam.config.overrides import parse_overrides
from solo_bam.config.schema import Recipe, Run
from solo_bam.config.start import check_start
from solo_bam.core.errors import UserError, nearest

_CALLS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
_OURS = ("callbacks", "logger", "default_root_dir", "plugins", "profiler", "use_distributed_sampler")
AnyRun = TypeVar("AnyRun", bound=Run)
ON_COMMAND_LINE = "correct it in the recipe or on the command line (key=value)"


def load_recipe(
    config_name: str, overrides: Sequence[str] = (), config_path: str | None = None, kind: str = "pretrain"
) -> Recipe:
    """A checked recipe.

    Args:
        config_name: ``digits/bam`` or ``digits/bam.yaml``.
        overrides: Hydra's ``key=value``; keys that the recipe does not name may be given without ``+``.
        config_path: folder of the recipe, relative to where the user stands; default: the shipped recipes.
        kind: which of the shipped recipes.

    Raises:
        UserError: no such recipe, a key or value that is not allowed.
    """
    recipe = parse_recipe(compose_recipe(config_name, overrides, config_path, kind))
    if shorten_warmup(recipe, overrides):
        _say_once(f"scheduler.warmup_epochs: {recipe.scheduler.warmup_epochs:g}, a tenth of {recipe.max_epochs} epochs")
    return recipe


def shorten_warmup(recipe: Recipe, overrides: Sequence[str]) -> bool:
    """Where ``max_epochs`` alone is overridden, as for a first try, warm up in a tenth of it if it leaves no room.

    Returns:
        Whether the recipe was changed.
    """
    scheduler = recipe.scheduler
    if scheduler.name != "warmup_cosine" or scheduler.warmup_epochs < recipe.max_epochs:
        return False
    given = {change.key_or_group for change in parse_overrides(overrides)}
    if "max_epochs" not in given or given & {"scheduler", "scheduler.warmup_epochs"}:
        return False
    scheduler.warmup_epochs = recipe.max_epochs / 10
    return True


def compose_recipe(config_name: str, overrides: Sequence[str], config_path: str | None, kind: str) -> dict[str, Any]:
    """The recipe as Hydra composes it, unchecked."""
    path = find_recipe(config_name, config_path, kind)
    GlobalHydra.instance().clear()
    try:
        changes = parse_overrides(overrides)
        _refuse_hydra(changes)
        # Hydra chooses files of a group by name only; a group's content given in place is set afterwards.
        direct = {
            c.key_or_group: c.value()
            for c in changes
            if _is_group(c, path.parent) and not chooses_files(c, path.parent)
        }
        lines = [_addable(c, path.parent) for c in changes if c.key_or_group not in direct]
        with initialize_config_dir(config_dir=str(path.parent), version_base="1.2"):
            # Any recipe may use the shipped parts, e.g. `methods/byol@_global_` in its defaults.
            shared = f"hydra.searchpath=[file://{recipe_folders(kind)}]"
            cfg = compose(config_name=path.stem, overrides=[*lines, shared])
        OmegaConf.set_struct(cfg, False)
        for key, value in direct.items():
            OmegaConf.update(cfg, key, value, merge=False)
        raw = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        problem = str(error).partition("\n")[0]
        raise UserError(error.full_key or f"--config-name {config_name}", problem, ON_COMMAND_LINE) from None
    except HydraException as error:
        problem = " ".join(str(error).split())
        raise UserError(f"--config-name {config_name}", problem, ON_COMMAND_LINE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"is no recipe ({error})", "give a YAML file of keys and values") from None
    except RecursionError:
        problem = "the file or a value holds an alias of itself (&name … *name) or is nested too deeply"
        raise UserError(f"--config-name {config_name}", problem, "write the values out") from None
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            problem = "is not valid YAML: " + " ".join(str(error).split())
            raise UserError(str(path), problem, "correct the file") from None
        raise
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


def _refuse_hydra(changes: Sequence[Any]) -> None:
    """Hydra only composes: its own settings would do nothing, but that a search path is imported."""
    for change in changes:
        if re.split("[./]", change.key_or_group)[0] == "hydra":
            problem = "Hydra only composes the recipe, its own settings have no effect"
            raise UserError(change.key_or_group, problem, "remove it")


def _is_group(override: Any, folder: Path) -> bool:
    return (folder / override.key_or_group).is_dir()


def chooses_files(override: Any, folder: Path) -> bool:
    """Whether it names files of a group in the recipe's folder (``augmentations=asymmetric``)."""
    value = override.value()
    names = isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    return names and _is_group(override, folder)


def _addable(override: Any, folder: Path) -> str:
    """An override in Hydra's words; plain ``key=value`` also adds keys that the recipe leaves to the defaults."""
    line: str = override.input_line
    special = override.is_add() or override.is_force_add() or override.is_delete()
    return line if special or _is_group(override, folder) else f"++{line}"


def parse_recipe(raw: dict[str, Any]) -> Recipe:
    """Check types, ranges and names of every key of a pretraining recipe; fill in the defaults.

    Raises:
        UserError: the first key at fault.
    """
    recipe = parse_run(raw, Recipe)
    _check_method(recipe)
    return recipe


def parse_run(raw: dict[str, Any], model: type[AnyRun]) -> AnyRun:
    """The same for any kind of run.

    Raises:
        UserError: the first key at fault.
    """
    _refuse_calls(raw)
    try:
        recipe = model.model_validate(raw)
    except ValidationError as error:
        raise user_error(error, model) from None
    _check_top_level(recipe)
    return recipe


def _refuse_calls(value: Any, place: str = "") -> None:
    """Hydra's words for «import and call this», also where any key is allowed (``optimizer.kwargs``)."""
    # What OmegaConf would look up again, and half a letter, which no file can hold
    if isinstance(value, str) and ("${" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise UserError(place.rstrip("."), f"got {value!r}, which a recipe cannot hold", "correct it")
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        if key in _CALLS:
            problem = f"unknown key (value {member!r}); a recipe holds plain values, nothing that it names is called"
            raise UserError(f"{place}{key}", problem, "remove it")
        _refuse_calls(key, place)
        _refuse_calls(member, f"{place}{key}.")


def _check_top_level(recipe: Run) -> None:
    for key in solo_learn.UNREAD_KEYS:
        if (recipe.__pydantic_extra__ or {}).pop(key, None) is not None:
            _say(f"{key}: solo-learn does not read it")
    allowed = [*type(recipe).model_fields, *_trainer_arguments()]
    for key, value in recipe.trainer_arguments.items():
        if key in _OURS:
            raise UserError(key, "is set by solo-bam itself", "remove it")
        if key not in allowed:
            raise UserError(
                key, f"unknown key (value {value!r}){nearest(key, allowed)}", "remove it or correct its name"
            )


@functools.cache
def _trainer_arguments() -> list[str]:
    """Of Lightning's Trainer, read from its source: importing it takes seconds, which a misspelt key should not."""
    spec = importlib.util.find_spec("lightning")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).with_name("pytorch").joinpath("trainer", "trainer.py").read_text())
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    made = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return [argument.arg for argument in (*made.args.args[1:], *made.args.kwonlyargs)]


def _say(text: str) -> None:
    """On the first process."""
    from lightning.pytorch.utilities import rank_zero_info

    rank_zero_info(text)


@functools.cache
def _say_once(text: str) -> None:
    """A comparison loads a recipe many times."""
    _say(text)


def _check_method(recipe: Recipe) -> None:
    """Method, its own keys and the backbone against what the installed solo-learn has."""
    names = solo_learn.method_names()
    if recipe.method not in names and (recipe_folders("pretrain") / "methods" / f"{recipe.method}.yaml").is_file():
        problem = f"got {recipe.method!r}, which solo-learn's head edition has, and the installed release has not"
        raise UserError("method", problem, "put a clone of solo-learn on PYTHONPATH (docs/from-solo-learn.md)")
    _check_choice("method", recipe.method, names)
    if (early := kept_options(recipe.method)) is not None:  # before the imports below, which take seconds
        check_option_names(recipe.method, recipe.method_kwargs, early)
    from solo_bam import backbones  # with torch

    backbones.check_backbone_name(recipe.backbone.name)
    check_start(recipe.backbone)
    model = solo_learn.options_model(recipe.method)
    if model is not None:
        check_option_names(recipe.method, recipe.method_kwargs, list(model.model_fields))
        try:
            recipe.method_kwargs = model.model_validate(recipe.method_kwargs).model_dump()
        except ValidationError as error:
            raise user_error(error, model, "method_kwargs.") from None
        return
    options = solo_learn.own_options(recipe.method)
    for key in solo_learn.own_method(recipe.method).unread_options:
        if recipe.method_kwargs.pop(key, None) is not None:
            _say(f"method_kwargs.{key}: solo-learn's {recipe.method} does not read it")
    check_option_names(recipe.method, recipe.method_kwargs, list(options))
    for key, default in options.items():
        if default is inspect.Parameter.empty and key not in recipe.method_kwargs:
            raise UserError(f"method_kwargs.{key}", f"is missing, {recipe.method} needs it", "add it to the recipe")


def _check_choice(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(key, f"got {value!r}{nearest(value, allowed)}, allowed: {', '.join(allowed)}", ON_COMMAND_LINE)


def user_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> UserError:
    """The first of pydantic's findings in our one-line form."""
    found = error.errors()[0]
    place = [str(part) for part in found["loc"]]
    if place and isinstance(found["loc"][-1], int):  # of a list that may have been given as its only value
        place.pop()
    key = prefix + ".".join(part for part in place if not _is_union_branch(part))
    value = found.get("input")
    if found["type"] == "extra_forbidden":
        siblings = list(_model_at(model, place[:-1]).model_fields)
        problem = f"unknown key (value {value!r}){nearest(place[-1], siblings)}, allowed: {', '.join(siblings)}"
        return UserError(key, problem, "remove it or correct its name")
    if found["type"] == "missing":
        return UserError(key, "is missing", "add it to the recipe or on the command line (key=value)")
    close = nearest(str(value), re.findall(r"'([^']*)'", found["msg"])) if found["type"] == "literal_error" else ""
    rule = found["msg"].replace("Input should be", "must be").replace("'", "")
    if found["type"] == "string_pattern_mismatch":  # there is only one pattern, of names
        rule = "must be without /, \\ and control characters, since folders are named by it"
    return UserError(key, f"got {value!r}{close}, {rule}", ON_COMMAND_LINE)


def _is_union_branch(part: str) -> bool:
    """Pydantic names the tried alternative (``int``, ``constrained-str``) as a last step of the place."""
    return part in {"int", "str", "float"} or "[" in part


def _model_at(model: type[BaseModel], place: Sequence[str]) -> type[BaseModel]:
    """The section that a place within a recipe lies in."""
    for part in place:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        candidates = get_args(annotation) or (annotation,)
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return model
