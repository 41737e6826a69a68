"""Recipes: found, composed, parsed once, every key checked."""

from solo_bam.config.recipe import load_recipe, recipe_folders
from solo_bam.config.schema import BAMOptions, Recipe

__all__ = ["BAMOptions", "Recipe", "load_recipe", "recipe_folders"]
