"""What makes a comparison unfair is found before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from solo_bam import solo_learn
from solo_bam.cli import main
from solo_bam.comparison.fairness import Difference, describe_crops, is_own, notes
from solo_bam.comparison.plan import Plan, make_plan
from solo_bam.config import load_recipe
from solo_bam.config.comparison import parse_comparison
from solo_bam.config.overrides import override_lines
from solo_bam.core.errors import UserError
from tests.recipes import METHODS

VARIANT = "other"


def plan(tmp_path: Path, keys: dict[str, Any] | None = None, methods: list[Any] | None = None, **more: Any) -> Plan:
    """BAM on the digits and a variant of it with some ``keys``."""
    rows = methods or ["bam", {"name": VARIANT, "recipe": "bam", "keys": keys or {}}]
    raw = {"name": "test", "recipes": "digits", "methods": rows, "seeds": [0, 1], "output": tmp_path / "out", **more}
    return make_plan(parse_comparison(raw))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"linear": "digits/liner"}, r"linear: --config-name: there is no recipe .* \(did you mean digits/linear\?\)"),
        ({"shared": {"data": {"fraction": 0.001}}}, r"methods.bam: data.fraction: got 0.001, which does not fit"),
        ({"shared": {"data": {"fraction": 0.05}}}, r"methods.bam: optimizer.batch_size: got \d+ .* only 71 images"),
        ({"knn": None}, "knn: got null, and so is linear: nothing would be measured"),
    ],
)
def test_what_the_runs_will_need_is_checked_before(keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        plan(tmp_path, **keys)


@pytest.mark.parametrize("trials", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_method_stands_in_a_comparison_and_has_a_space(trials: int, tmp_path: Path) -> None:
    names = [name for name in METHODS if name not in ("mae", "supcon", "bam_momentum", "bam")]
    found = plan(tmp_path, methods=names, tune={"trials": trials})
    assert found.unfair == []
    assert list(found.spaces) == (names if trials else [])
    assert "nnclr takes its targets from 512 images of earlier batches" in notes(found.recipes)
    assert "simclr" not in " ".join(notes(found.recipes))


def test_labels_in_the_loss_are_unfair(tmp_path: Path) -> None:
    ceiling = (
        "supcon"
        if solo_learn.edition() == "head"
        else {"name": "supcon", "recipe": "simclr", "keys": {"method_kwargs": {"supervised": True}}}
    )
    with pytest.raises(
        UserError, match=r"labels: the comparison would be unfair: labels: - \(simclr\), in the loss \(supcon\)"
    ):
        plan(tmp_path, methods=["simclr", ceiling])


AUGMENTATION = load_recipe("digits/bam").augmentations[0].model_dump(mode="json")
UNFAIR: dict[str, dict[str, Any]] = {
    "backbone.stem": {"backbone": {"cifar_stem": True}},
    "backbone.name": {"backbone": {"name": "resnet34"}},
    "crops": {"augmentations": [{**AUGMENTATION, "num_crops": 3}]},
    "crops ": {"augmentations": [{**AUGMENTATION, "crop_size": 28}]},
    "max_epochs": {"max_epochs": 21},
    "optimizer.batch_size": {"optimizer": {"batch_size": 64}},
    "optimizer.classifier_lr": {"optimizer": {"classifier_lr": 0.1}},  # the online probe
    "knn_eval.k": {"knn_eval": {"k": 5}},
    "knn_eval.train_fraction": {"knn_eval": {"train_fraction": 0.5}},
    "data.fraction": {"data": {"fraction": 0.5}},
    "precision": {"precision": "bf16-mixed"},
    "accumulate_grad_batches": {"accumulate_grad_batches": 2},
    "sync_batchnorm": {"sync_batchnorm": True},
    "limit_train_batches": {"limit_train_batches": 5},
    "devices": {"devices": 2},
}


@pytest.mark.parametrize("case", UNFAIR)
def test_each_forbidden_difference_is_refused_and_named(case: str, tmp_path: Path) -> None:
    key = case.strip()
    with pytest.raises(
        UserError, match=rf"^{key}: the comparison would be unfair: {key}: .*\(bam\), .*\({VARIANT}\)"
    ) as e:
        plan(tmp_path, UNFAIR[case])
    assert "allow_differences=True" in e.value.remedy
    assert not (tmp_path / "out").exists()


def test_what_is_refused_can_be_allowed_and_is_marked(tmp_path: Path) -> None:
    made = plan(tmp_path, {"max_epochs": 21, "precision": "bf16-mixed"}, allow_differences=True)
    assert [line.split(":")[0] for line in made.unfair] == ["max_epochs", "precision"]
    assert "max_epochs: 20 (bam), 21 (other)" in made.unfair


OWN: dict[str, dict[str, Any]] = {
    "method_kwargs.reg": {"method_kwargs": {"reg": 0.03}},
    "optimizer.weight_decay": {"optimizer": {"weight_decay": 0.1}},
    "scheduler.warmup_epochs": {"scheduler": {"warmup_epochs": 1}},
    "gradient_clip_val": {"gradient_clip_val": 0.3},
    "augmentations.1.solarization.prob": {
        "augmentations": [
            {**AUGMENTATION, "num_crops": 1},
            {**AUGMENTATION, "num_crops": 1, "solarization": {"prob": 0.2}},
        ]
    },
}


@pytest.mark.parametrize("key", OWN)
def test_the_methods_own_part_may_differ_and_is_listed(key: str, tmp_path: Path) -> None:
    made = plan(tmp_path, OWN[key])
    assert [(one.key, one.fair) for one in made.differences] == [(key, True)]
    assert not made.unfair


def test_the_same_stem_said_in_two_ways_is_no_difference(tmp_path: Path) -> None:
    made = plan(tmp_path, {"backbone": {"cifar_stem": False}, "name": "another", "seed": 7, "data": {"num_workers": 1}})
    assert made.differences == []


def test_keys_that_belong_to_all() -> None:
    assert is_own("optimizer.lr")
    assert is_own("method_kwargs.proj_hidden_dim")
    assert not is_own("optimizer.batch_size")
    assert not is_own("optimizer_x")
    assert describe_crops(load_recipe("imagenet-100-multicrop/bam")) == "2 x 224 px, 6 x 96 px"


# ------------------------------------------------------------------------------------------------ tuning


def test_a_tuned_method_beside_an_untuned_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^tune.trials: .*settings of bam were chosen on this data, those of byol were not"
    ):
        plan(tmp_path, methods=["bam", "byol"])
    assert plan(tmp_path, methods=["bam", "byol"], tune={"trials": 2}).unfair == []
    marked = plan(tmp_path, methods=["bam", "byol"], allow_differences=True)
    assert "those of byol were not" in marked.unfair[0]


def test_settings_given_to_one_method_alone_are_tuning(tmp_path: Path) -> None:
    chosen = {"name": "byol", "keys": {"optimizer": {"lr": 0.01}}}
    with pytest.raises(UserError, match="settings of byol were chosen on this data, those of simclr were not"):
        plan(tmp_path, methods=[chosen, "simclr"])
    assert plan(tmp_path, methods=["byol", "simclr"]).unfair == []
    plan(
        tmp_path, methods=[{"name": "byol", "keys": {"data": {"num_workers": 1}}}, "simclr"]
    )  # no setting of the method


def test_variants_of_one_method_are_no_competition(tmp_path: Path) -> None:
    rows = ["simclr", {"name": "cold", "recipe": "simclr", "keys": {"method_kwargs": {"temperature": 0.1}}}]
    assert plan(tmp_path, methods=rows).unfair == []


# ------------------------------------------------------------------------------------------------- plans


def test_a_mistake_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^methods.other: optimizer.lr: got -1"):
        plan(tmp_path, {"optimizer": {"lr": -1}})
    with pytest.raises(UserError, match=r"^methods.moco: there is no recipe 'digits/moco'"):
        plan(tmp_path, methods=["moco"])
    with pytest.raises(UserError, match=r"^methods.bam: optimizer.batch_size: got 5000"):
        plan(tmp_path, methods=["bam"], shared={"optimizer": {"batch_size": 5000}})


def test_the_command_that_is_told_makes_the_recipe_that_is_planned(tmp_path: Path) -> None:
    keys = {"name": 'it\'s "odd" {x}', "backbone": {"kwargs": {}}, "scheduler": {"lr_decay_steps": [1, 2]}}
    made = plan(tmp_path, keys)
    run = next(run for run in made.runs if run.entry == VARIANT)
    assert run.recipe.name == 'it\'s "odd" {x}'
    assert run.recipe.scheduler.lr_decay_steps == [1, 2]
    words = run.arguments
    again = load_recipe(words[words.index("--config-name") + 1], words[words.index("--config-name") + 2 :])
    assert again == run.recipe
    assert Plan.model_validate_json(made.model_dump_json()) == made


@pytest.fixture
def _methods_as_before() -> Iterator[None]:
    before = dict(solo_learn.METHODS)
    yield
    solo_learn.METHODS.clear()
    solo_learn.METHODS.update(before)


@pytest.mark.usefixtures("_methods_as_before")
def test_a_method_and_recipes_of_ones_own(tmp_path: Path, monkeypatch: Any) -> None:
    """As docs/adding-a-method.md and docs/compare.md tell; the recipe lies beside the user."""
    monkeypatch.delitem(sys.modules, "tests.example_method", raising=False)
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - digits/base@_global_\n  - digits/augmentations@augmentations: digits\n  - _self_\nmethod: alignment\n"
    )
    line = ["compare", "digits", "--import", "tests.example_method", "--dry-run", f"output={tmp_path / 'out'}"]
    rows = f"methods=[bam,{{name: alignment, recipe: {tmp_path / 'mine.yaml'}}}]"
    assert main([*line, rows]) == 0
    methods = ["bam", {"name": "alignment", "recipe": str(tmp_path / "mine.yaml")}]
    raw = {"recipes": "digits", "methods": methods, "seeds": [0], "output": tmp_path / "out", "tune": {"trials": 1}}
    made = make_plan(parse_comparison(raw), ["tests.example_method"])
    trial = made.trial("alignment", 0, {})
    assert trial.arguments[:4] == ["--import", "tests.example_method", "--config-path", str(tmp_path)]
    assert trial.recipe.method == "alignment"
    folder = parse_comparison({**raw, "recipes": str(tmp_path), "methods": ["mine"]})
    assert make_plan(folder).trial("mine", 0, {}).recipe == trial.recipe


def test_nested_keys_become_hydras_lines() -> None:
    keys = {"a": {"b": [1, {"c": "x y"}], "d": None}, "e": True, "f": "1e-3", "g": "null", "h": {}}
    lines = override_lines(keys)
    assert lines == ["a.b=[1,{c:'x y'}]", "a.d=null", "e=true", "f='1e-3'", "g='null'", "h={}"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"a": 1, "b": 2, "c": 1}, "k: 1 (a, c), 2 (b)"),
        ({"a": None, "b": None, "c": 1, "d": None, "e": None}, "k: 1 (c), - (the others)"),
        ({"a": 1, "b": 2, "c": 1, "d": 2, "e": 1, "f": 3}, "k: 1 (a, c, e), 2 (b, d), 3 (f)"),
    ],
)
def test_a_value_that_most_have_does_not_name_them(values: dict[str, Any], told: str) -> None:
    assert Difference("k", values, fair=True).told == told
