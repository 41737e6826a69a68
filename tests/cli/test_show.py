"""``solo-bam show``: the same recipe, and where each value comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from solo_bam.cli import main
from solo_bam.config import load_recipe, recipe_folders
from solo_bam.config.comparison import load_comparison
from solo_bam.config.find import recipe_names
from solo_bam.config.keys import flat
from solo_bam.config.linear import LinearRecipe
from solo_bam.config.recipe import compose_recipe, parse_run
from solo_bam.config.schema import Recipe
from solo_bam.config.show import find_origins, show

TRAINING = [(kind, name) for kind in ("pretrain", "linear") for name in recipe_names(recipe_folders(kind))]


def _resolved(kind: str, name: str, place: str | None = None) -> dict[str, Any]:
    raw = compose_recipe(name, [], place, kind)
    return parse_run(raw, Recipe if kind == "pretrain" else LinearRecipe).model_dump()


@pytest.mark.parametrize(("kind", "name"), TRAINING)
def test_what_is_shown_is_the_same_recipe(kind: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(show(kind, name))
    assert _resolved(kind, "shown", str(tmp_path)) == _resolved(kind, name)


def test_pretrain_takes_it_as_the_same_recipe(tmp_path: Path, capsys: Any) -> None:
    """The method's part, too, and through the command lines themselves."""
    assert main(["show", "digits/bam_momentum", "optimizer.lr=3e-5", "data.name='1e-3'"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    changed = load_recipe("digits/bam_momentum", ["optimizer.lr=3e-5", "data.name='1e-3'"])
    assert load_recipe("mine", [], str(tmp_path)) == changed


@pytest.mark.parametrize("name", recipe_names(recipe_folders("compare")))
def test_a_comparison_is_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(show("compare", name))
    assert load_comparison("shown", [], str(tmp_path)) == load_comparison(name)


@pytest.mark.parametrize(("kind", "name"), TRAINING)
def test_every_given_value_has_the_place_that_gives_it(kind: Any, name: str) -> None:
    """No key of the composed recipe is left out, none is more, and each has the value of the file that is named."""
    composed = dict(flat(compose_recipe(name, [], None, kind)))
    origins = find_origins(kind, name, [], None)
    given = {key: value for key, (_, value) in origins.items() if not key.startswith(("hydra", "defaults"))}
    assert given == composed
    root = recipe_folders(kind).parents[1]
    contents = {place: (root / place).read_text() for place, _ in origins.values()}
    assert all(key.split(".")[-1] in contents[place] for key, (place, _) in origins.items() if not key[-1].isdigit())


def test_the_places_of_a_recipe() -> None:
    shown = show("pretrain", "digits/bam", ["seed=1", "augmentations.0.crop_size=16", "method_kwargs={reg: 0.1}"])
    places = {line.split(":")[0].strip(" -"): line.rpartition("# ")[2] for line in shown.splitlines()}
    assert {key: places[key] for key in ("proj_hidden_dim", "num_sink_iter", "cifar_stem", "degrees")} == {
        "proj_hidden_dim": "scripts/pretrain/digits/bam.yaml",  # given in methods/bam.yaml before
        "num_sink_iter": "scripts/pretrain/methods/bam.yaml",
        "cifar_stem": "scripts/pretrain/digits/base.yaml",
        "degrees": "scripts/pretrain/digits/augmentations/digits.yaml",
    }
    assert {places[key] for key in ("seed", "crop_size", "reg")} == {"override"}
    assert {places[key] for key in ("devices", "hue", "interval")} == {"default"}
    assert yaml.safe_load(shown)["augmentations"][0]["crop_size"] == 16


def test_places_of_own_recipes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults:\n  - digits/base@_global_\n  - methods/byol@_global_\n  - _self_\n"
                                        "augmentations: [{crop_size: 32, num_crops: 2}]\nmax_epochs: 3\n")  # fmt: skip
    shown = show("pretrain", "mine", [], str(tmp_path))
    assert "max_epochs: 3 " in shown
    lines = {line.split(":")[0].strip(" -"): line.split("# ")[-1] for line in shown.splitlines()}
    assert lines["max_epochs"] == lines["num_crops"] == "mine.yaml"
    assert lines["batch_size"] == "scripts/pretrain/digits/base.yaml"


def test_a_chosen_file_of_a_group_is_the_place() -> None:
    shown = show("pretrain", "cifar/bam", ["augmentations=asymmetric"])
    assert "scripts/pretrain/cifar/augmentations/asymmetric.yaml" in shown
    assert "override" not in shown


def test_a_long_text_has_its_place_at_its_end() -> None:
    name = "a long name " * 12
    shown = show("pretrain", "digits/bam", [f"name='{name}'"])
    assert yaml.safe_load(shown)["name"] == name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits/bma"], ["digits/bma", "did you mean digits/bam?"]),
        (["qick"], ["did you mean quick?"]),
        (["digits/bam", "optimzer.lr=1"], ["optimzer", "did you mean optimizer?"]),
        (["digits/bam", "optimizer.lr=-1"], ["optimizer.lr", "-1"]),
        (["digits/bam", "--kind", "linear"], ["digits/bam"]),
        (["mine", "--config-path", "nowhere"], ["--config-path", "nowhere"]),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: list[str], capsys: Any) -> None:
    assert main(["show", *words]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert len(out.err.splitlines()) == 1
    assert all(word in out.err for word in told)


def test_a_name_of_two_kinds(capsys: Any) -> None:
    assert main(["show", "imagenet/bam_vit_base"]) == 0
    assert "scripts/pretrain/" in capsys.readouterr().out
    assert main(["show", "imagenet/bam_vit_base", "--kind", "linear"]) == 0
    assert "scripts/linear/" in capsys.readouterr().out
