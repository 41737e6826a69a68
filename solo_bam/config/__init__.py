"""Recipes: found, composed, parsed once, every key checked."""

from solo_bam.config.recipe import load_recipe, recipe_folders
from solo_bam.config.schema import Recipe

__all__ = ["Recipe", "load_recipe", "recipe_folders"]
