"""Recipes: found, composed, parsed once, every key checked. What names them alone (:mod:`.find`) is light."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_bam.config.find import recipe_folders
    from solo_bam.config.recipe import load_recipe
    from solo_bam.config.schema import Recipe

__all__ = ["Recipe", "load_recipe", "recipe_folders"]
_PLACES = {"Recipe": "schema", "load_recipe": "recipe", "recipe_folders": "find"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
