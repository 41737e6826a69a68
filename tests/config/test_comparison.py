"""Comparisons as they are asked for: what is allowed, and what is said of the rest."""

from __future__ import annotations

import pytest

from solo_bam.config import load_recipe, recipe_folders
from solo_bam.config.comparison import load_comparison, parse_comparison
from solo_bam.config.find import recipe_names
from solo_bam.core.errors import UserError


@pytest.mark.parametrize("name", recipe_names(recipe_folders("compare")))
def test_every_shipped_comparison_names_recipes_that_are_there(name: str) -> None:
    comparison = load_comparison(name)
    assert {"bam", "bam_momentum", "byol", "simclr", "dino"} <= {entry.name for entry in comparison.methods}
    for entry in comparison.methods:
        method = load_recipe(comparison.place(entry)[1]).method
        assert method == entry.name or entry.name == "bam + positives"
    assert len(comparison.seeds) >= 3
    assert comparison.tune.trials, "the recipes were not tuned alike"


def test_the_command_line_of_the_readme() -> None:
    line = ["methods=[bam,{name: sharper, recipe: bam, keys: {method_kwargs: {reg: 0.03}}}]", "seeds=[4,5]", "epochs=7"]
    comparison = load_comparison("digits", line)
    assert [comparison.place(entry) for entry in comparison.methods] == [(None, "digits/bam")] * 2
    assert comparison.methods[1].keys == {"method_kwargs": {"reg": 0.03}}
    assert (comparison.seeds, comparison.epochs, comparison.reference) == ([4, 5], 7, "bam")
    assert str(comparison.folder) == "comparisons/digits"
    assert load_comparison("digits", ["seeds=3"]).seeds == [3]


MISTAKES = {
    "NAME: there is no recipe 'digit' .*did you mean digits": ("digit", []),
    r"seed: unknown key .*allowed: .*seeds": ("digits", ["seed=1"]),
    r"seeds: got \[1, 1\], .*different": ("digits", ["seeds=[1,1]"]),
    "methods: got bam more than once": ("digits", ["methods=[bam,bam]"]),
    r"methods.0.recip: unknown key .*recipe": ("digits", ["methods=[{name: a, recip: bam}]"]),
    "baseline: got 'simclr', allowed: bam, byol": ("digits", ["methods=[bam,byol]", "baseline=simclr"]),
    "tune.trials: got -1, must be greater than or equal to 0": ("digits", ["tune.trials=-1"]),
    "tune.fraction: got 1, must be less than 1": ("digits", ["tune.fraction=1"]),
    "knn.kk: unknown key": ("digits", ["knn={kk: 3}"]),
    "knn: has several settings": ("digits", ["knn={k: [1, 20]}"]),
    "epochs: got 0, must be greater than or equal to 1": ("digits", ["epochs=0"]),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(message: str) -> None:
    name, overrides = MISTAKES[message]
    with pytest.raises(UserError, match=f"^{message}") as caught:
        load_comparison(name, overrides)
    assert "\n" not in str(caught.value)


def test_an_own_folder_of_comparisons(tmp_path: object) -> None:
    folder = str(tmp_path)
    with open(f"{folder}/mine.yaml", "w") as out:
        out.write("recipes: digits\nmethods: [bam]\n")
    comparison = load_comparison("mine", [], folder)
    assert (comparison.name, comparison.seeds) == ("mine", [0, 1, 2])
    assert parse_comparison(comparison.model_dump()) == comparison
