"""Names and files of recipes; light, so that listings and completion answer at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args

from solo_bam.core.errors import UserError, nearest

Kind = Literal["pretrain", "linear", "compare"]
KINDS = get_args(Kind)


def recipe_folders(kind: str) -> Path:
    """Folder of the shipped recipes of a kind (``pretrain``, ``linear``): beside the package, or in it if installed."""
    package = Path(__file__).parents[1]
    for folder in (package / "scripts" / kind, package.parent / "scripts" / kind):
        if folder.is_dir():
            return folder
    raise UserError("--config-name", "the shipped recipes are not installed", "install solo-bam again")


def recipe_names(folder: Path) -> list[str]:
    """Names of the recipes in a folder, sorted; the parts that they share are left out."""
    parts = {"augmentations", "methods", "protocols", "wandb"}
    paths = [p.relative_to(folder).with_suffix("") for p in folder.glob("**/*.yaml")]
    return sorted(str(p) for p in paths if p.name != "base" and not parts & set(p.parts[:-1]))


def kind_of(name: str) -> Kind:
    """The first kind that ships a recipe of this name.

    Raises:
        UserError: none does.
    """
    known = {kind: recipe_names(recipe_folders(kind)) for kind in KINDS}
    if (found := next((kind for kind in KINDS if name.removesuffix(".yaml") in known[kind]), None)) is not None:
        return found
    close = nearest(name, [name for names in known.values() for name in names])
    raise UserError("RECIPE", f"there is no recipe {name!r}{close}", "solo-bam list recipes names them")


def find_recipe(config_name: str, config_path: str | None, kind: str) -> Path:
    """A recipe's file.

    Args:
        config_name: ``digits/bam`` or ``digits/bam.yaml``.
        config_path: folder of the recipe, relative to where the user stands; None: the shipped ones of the kind.
        kind: ``pretrain``, ``linear``, ``compare`` or ``spaces``.

    Raises:
        UserError: there is no such file or folder.
    """
    root = recipe_folders(kind) if config_path is None else Path(os.path.abspath(os.path.expanduser(config_path)))
    if not os.path.isdir(root):  # unlike Path's, it says no to names that no system allows
        raise UserError("--config-path", f"there is no folder {root}", "give the folder that holds the recipe")
    name = config_name.removesuffix(".yaml")
    path = root / f"{name}.yaml"
    if os.path.isfile(path):
        return path
    if os.path.isfile(root / f"{name.removesuffix('.yml')}.yml"):  # False for any name, however odd
        raise UserError("--config-name", f"got {config_name!r}, Hydra reads files that end in .yaml alone", "rename it")
    known = recipe_names(root)
    beside = [one for one in known if one.startswith(f"{name.rpartition('/')[0]}/")] or known
    shown = ", ".join(beside[:20]) + (", …" if len(beside) > 20 else "")
    raise UserError(
        "--config-name",
        f"there is no recipe {config_name!r} in {root}{nearest(name, known)}",
        f"use one of: {shown or 'none there'}",
    )


def first_sentence(folder: Path, name: str) -> str:
    """The first sentence of a recipe's first comment line; empty without one."""
    with (folder / f"{name}.yaml").open(encoding="utf-8") as lines:
        first = next(lines, "")
    return re.split(r"[.:;]?$|[.:;] ", first.lstrip("# "))[0] if first.startswith("#") else ""
