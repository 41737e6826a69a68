"""Recipes: found, composed, filled in, resolved."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from solo_bam import solo_learn
from solo_bam.config import load_recipe
from solo_bam.config.recipe import parse_recipe
from solo_bam.config.resolve import cifar_stem_stride, resolve
from solo_bam.core.errors import UserError
from tests.recipes import METHODS, shipped

SHIPPED = shipped()
shipped_recipe = functools.cache(load_recipe)
SMALL = ("bam", "bam_momentum", "byol", "simclr", "dino")
TEN = (*SMALL, "barlow_twins", "mocov2plus", "simsiam", "swav", "vicreg")
MULTI_CROP = ("bam", "bam_momentum", "byol", "simclr")


def test_recipes_are_shipped() -> None:
    assert {f"{folder}/{m}" for folder in ("digits", "quick", "cifar") for m in METHODS} <= set(SHIPPED)
    assert {f"cifar-small/{m}" for m in SMALL} | {f"imagenet-100/{m}" for m in TEN} <= set(SHIPPED)
    assert {f"imagenet-100-multicrop/{m}" for m in MULTI_CROP} <= set(SHIPPED)
    assert {"imagenet/bam_vit_small", "imagenet/bam_vit_base", "imagenet/bam_caformer_m36"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_is_valid(name: str) -> None:
    recipe = shipped_recipe(name)
    assert recipe.method in solo_learn.METHODS
    resolve(recipe, num_classes=10, has_val=True, world_size=16)


@pytest.mark.parametrize(
    ("folder", "methods"),
    [
        ("digits", METHODS),
        ("quick", METHODS),
        ("cifar-small", SMALL),
        ("cifar", METHODS),
        ("imagenet-100", TEN),
        ("imagenet-100-multicrop", MULTI_CROP),
    ],
)
def test_recipes_of_one_folder_differ_in_the_method_alone(folder: str, methods: tuple[str, ...]) -> None:
    """The method's own part is its settings and, but for cifar-small, its optimizer; the batch is shared."""
    own = {"name", "method", "method_kwargs", "momentum", "tuned"}
    recipes = [shipped_recipe(f"{folder}/{name}") for name in methods if name != "mae"]  # for ViTs alone
    for recipe in recipes:
        assert recipe.optimizer.batch_size == recipes[0].optimizer.batch_size
        assert recipe.optimizer.classifier_lr == recipes[0].optimizer.classifier_lr
    if folder != "cifar-small":
        own |= {"optimizer"}
    shared = [recipe.model_dump(exclude=own) for recipe in recipes]
    assert all(part == shared[0] for part in shared)


def test_recipes_say_where_they_were_tuned() -> None:
    """As the recipes' README says: solo-learn's rates on its own data, BAM's on the digits alone."""
    tuned = {name: shipped_recipe(name).tuned for name in SHIPPED}
    of_ours = {name for name in METHODS if solo_learn.METHODS[name].__module__.startswith("solo_bam.")} - {"mocov3"}
    solo = {f"cifar/{m}": "cifar100" if m == "all4one" else "cifar10" for m in {*METHODS} - of_ours}
    expected = solo | {f"imagenet-100/{m}": "imagenet100" for m in TEN if "bam" not in m}
    expected |= {f"imagenet-100-multicrop/{method}": "imagenet100" for method in ("byol", "simclr")}
    assert {name: where for name, where in tuned.items() if where} == {
        **expected,
        "digits/bam": "digits",
        "digits/bam_momentum": "digits",
    }


def test_the_published_rate_floor_is_refused_where_it_is_a_ceiling() -> None:
    """min_lr 1e-3 is below the peak at the published global batch of 4,096, and above it at 256."""
    recipe = load_recipe("imagenet/bam_vit_base")
    assert resolve(recipe, 1000, True, 16).optimizer.lr == pytest.approx(4.8e-3)
    with pytest.raises(ValueError, match=r"scheduler.min_lr: got 0.001, must be at most the peak rate 0.0003"):
        resolve(recipe, 1000, True, 1)


@pytest.mark.skipif(solo_learn.edition() == "head", reason="the head edition has it")
def test_a_method_of_the_other_edition_says_so() -> None:
    with pytest.raises(UserError, match=r"^method: got 'supcon', which solo-learn's head edition has, .* PYTHONPATH"):
        load_recipe("quick/supcon")


@pytest.mark.parametrize("value", ["${", "\udcff"])
def test_text_that_no_recipe_can_hold(value: str) -> None:
    raw = load_recipe("digits/bam").model_dump(mode="json")
    for kwargs in ({"a": value}, {value: 1}):
        with pytest.raises(UserError, match=r"^backbone.kwargs.*which a recipe cannot hold"):
            parse_recipe({**raw, "backbone": {**raw["backbone"], "kwargs": kwargs}})


def test_own_recipes_can_use_the_shipped_parts(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - digits/base@_global_\n  - methods/byol@_global_\n  - _self_\n"
                                        "augmentations: [{crop_size: 32, num_crops: 2}]\n")  # fmt: skip
    assert load_recipe("mine", config_path=str(tmp_path)).method_kwargs["pred_hidden_dim"] == 4096


def test_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("digits/bam").method == "bam"
    assert load_recipe("digits/bam.yaml").method == "bam"


def test_a_relative_path_is_relative_to_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine" / "recipes"
    folder.mkdir(parents=True)
    raw = load_recipe("digits/bam").model_dump(mode="json") | {"name": "mine"}
    (folder / "own.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path / "mine")
    assert load_recipe("own", config_path="recipes").name == "mine"
    monkeypatch.chdir(folder)
    assert load_recipe("own.yaml", config_path=".").name == "mine"


def test_a_saved_recipe_is_a_recipe_again() -> None:
    recipe = load_recipe("digits/bam", ["optimizer.kwargs.betas=[0.9,0.95]", "gradient_clip_val=0.3"])
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_overrides_reach_keys_that_the_recipe_leaves_out() -> None:
    recipe = load_recipe(
        "digits/bam", ["momentum.base_tau=0.5", "gradient_clip_val=0.3", "+seed=7", "method_kwargs.reg=0.1"]
    )
    assert recipe.momentum.base_tau == 0.5
    assert recipe.trainer_arguments == {"gradient_clip_val": 0.3}
    assert recipe.seed == 7
    assert recipe.method_kwargs["reg"] == 0.1


SOLO_STYLE = """
defaults:
  - _self_
  - augmentations: mine.yaml
  - wandb: private.yaml
  - override hydra/hydra_logging: disabled
  - override hydra/job_logging: disabled
hydra:
  output_subdir: null
  run:
    dir: .
name: "byol-cifar10"
method: "byol"
backbone:
  name: "resnet18"
method_kwargs:
  proj_hidden_dim: 4096
  proj_output_dim: 256
  pred_hidden_dim: 4096
momentum:
  base_tau: 0.99
  final_tau: 1.0
data:
  dataset: cifar10
  train_path: "./datasets"
  val_path: "./datasets"
  format: "image_folder"
  num_workers: 4
optimizer:
  name: "lars"
  batch_size: 256
  lr: 1.0
  classifier_lr: 0.1
  weight_decay: 1e-5
  kwargs:
    clip_lr: True
    eta: 0.02
    exclude_bias_n_norm: True
scheduler:
  name: "warmup_cosine"
checkpoint:
  enabled: True
  dir: "trained_models"
  frequency: 1
auto_resume:
  enabled: True
max_epochs: 1000
devices: [0]
sync_batchnorm: True
accelerator: "gpu"
strategy: "ddp"
precision: 16-mixed
"""
AUGMENTATION = {
    "crop_size": 32,
    "num_crops": 1,
    "rrc": {"enabled": True, "crop_min_scale": 0.08, "crop_max_scale": 1.0},
}


def _solo_style(folder: Path) -> None:
    (folder / "augmentations").mkdir()
    (folder / "wandb").mkdir()
    (folder / "byol.yaml").write_text(SOLO_STYLE)
    (folder / "augmentations" / "mine.yaml").write_text(yaml.safe_dump([AUGMENTATION, AUGMENTATION]))
    (folder / "augmentations" / "other.yaml").write_text(yaml.safe_dump([{**AUGMENTATION, "num_crops": 2}]))
    (folder / "wandb" / "private.yaml").write_text("enabled: True\nentity: None\nproject: solo-learn\n")


def test_a_recipe_in_solo_learns_layout(tmp_path: Path) -> None:
    _solo_style(tmp_path)
    recipe = load_recipe("byol.yaml", ["augmentations=other", "wandb.enabled=False", "devices=1"], str(tmp_path))
    assert recipe.optimizer.weight_decay == 1e-5
    assert len(recipe.augmentations) == 1
    assert recipe.num_large_crops == 2
    cfg = resolve(recipe, num_classes=10, has_val=True, world_size=4)
    assert cfg.optimizer.lr == pytest.approx(4.0)
    assert cfg.optimizer.classifier_lr == pytest.approx(0.4)
    assert cfg.backbone.cifar_stem
    assert cfg.data.num_classes == 10
    assert cfg.scheduler.warmup_start_lr == 3e-5


def test_the_classifier_rate_is_scaled_only_with_a_validation_set() -> None:
    recipe = load_recipe("digits/bam", ["optimizer.batch_size=512"])
    assert resolve(recipe, 10, False, 1).optimizer.classifier_lr == recipe.optimizer.classifier_lr
    assert not resolve(recipe, 10, False, 1).knn_eval.enabled


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["augmentations.0.crop_size=64"], True),
        (["augmentations.0.crop_size=65"], False),
        (["augmentations.0.crop_size=32", "backbone.cifar_stem=False"], False),
        (["augmentations.0.crop_size=224", "backbone.cifar_stem=True"], True),
        (["augmentations.0.crop_size=32", "backbone.name=vit_tiny"], False),
        (["augmentations.0.crop_size=32", "backbone.name=wide_resnet50_2"], True),
        (["augmentations.0.crop_size=32", "backbone.name=resnetv2_50"], False),
    ],
)
def test_cifar_stem(overrides: list[str], expected: bool) -> None:
    recipe = load_recipe("digits/bam", ["backbone.cifar_stem=null", *overrides])
    assert cifar_stem_stride(recipe) == expected


def test_bam_defaults_are_the_published_ones() -> None:
    raw: dict[str, Any] = load_recipe("digits/bam").model_dump(mode="json")
    options = parse_recipe({**raw, "method_kwargs": {}}).method_kwargs
    assert options == {
        "proj_hidden_dim": 4096, "proj_output_dim": 4096, "proj_num_layers": 3, "proj_use_bn": True,
        "proj_last_bn": True, "proj_act": "gelu", "reg": 0.05, "reg_final": None, "reg_warmup_epochs": 30,
        "temperature": 0.1, "num_sink_iter": 3, "top_k_sink": 0, "positive_masking": True,
        "positive_weight": 0.0, "target_crops_number": None,
    }  # fmt: skip


def test_a_file_that_hydra_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("method: bam\n")
    for name in ("mine", "mine.yml"):
        with pytest.raises(UserError, match=r"--config-name: got 'mine.*end in \.yaml alone"):
            load_recipe(name, config_path=str(tmp_path))


def test_what_solo_learns_recipes_hold_and_nothing_reads() -> None:
    """Some name ``enabled`` beside ``prob``, or settings of other methods."""
    recipe = load_recipe("digits/simclr", ["augmentations.0.grayscale={enabled: True, prob: 0.2}"])
    assert recipe.augmentations[0].grayscale.model_dump() == {"prob": 0.2}
    with pytest.raises(UserError, match="enabled=False needs prob=0"):
        load_recipe("digits/simclr", ["augmentations.0.grayscale={enabled: False, prob: 0.2}"])
    recipe = load_recipe("cifar/simsiam", ["method_kwargs.temperature=0.2"])
    assert "temperature" not in recipe.method_kwargs
    assert load_recipe("cifar/simsiam", ["+augmentations_cfg=weak.yaml"]).trainer_arguments == recipe.trainer_arguments


@pytest.mark.parametrize(
    ("overrides", "warmup"),
    [
        (["max_epochs=1"], 0.1),
        (["max_epochs=5"], 2),  # as the recipe has it
        (["max_epochs=4", "scheduler.warmup_epochs=3"], 3),
    ],
)
def test_a_first_try_warms_up_in_a_tenth_of_its_epochs(overrides: list[str], warmup: float) -> None:
    assert load_recipe("digits/bam", overrides).scheduler.warmup_epochs == warmup
