"""Recipes of ``solo-bam linear``: solo-learn's head-edition schema and ours beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from solo_bam.config.options import lacks_val
from solo_bam.config.recipe import compose_recipe, parse_run
from solo_bam.config.resolve import check_schedule
from solo_bam.config.schema import (
    Backbone,
    Chance,
    Count,
    Data,
    ImageData,
    Network,
    NonNegative,
    Positive,
    RandomResizedCrop,
    Recipe,
    Run,
    Scheduler,
)
from solo_bam.config.section import Section, listed
from solo_bam.core.errors import UserError

CHECKPOINT = "pretrained_feature_extractor"
# The recipe for a run that is given alone, by the data set that it was pretrained on.
_RECIPES = {
    "digits": "digits/linear",
    "cifar10": "cifar/linear",
    "cifar100": "cifar/linear",
    "imagenet100": "imagenet-100/linear",
    "imagenet": "imagenet/linear",
    "custom": "imagenet-100/linear",
}


def _different(rates: list[float]) -> list[float]:
    if len(set(rates)) < len(rates):
        raise ValueError("must be different rates")
    return rates


Rates = Annotated[
    list[Positive],
    Field(min_length=1),
    AfterValidator(_different),
    BeforeValidator(listed),
]


class LinearAugmentation(Section):
    """One crop per image. ``crop_size``, ``mean`` and ``std``: null for those of the pretraining."""

    crop_size: Count | None = None
    rrc: RandomResizedCrop = RandomResizedCrop()
    horizontal_flip: Chance = Chance(prob=0.5)
    mean: list[float] | None = None
    std: list[Positive] | None = None


class LinearData(ImageData):
    """Labelled images.

    ``label_fraction``: use the labels of this share only, as many of each class, fixed by ``seed``.
    ``tune_fraction``: the share of those that is held out of the training to choose the learning rate on; 0: it is
    chosen on the validation images.
    ``val_fraction``: without validation images, the share of the training images that the pretraining held out
    (its ``data.tune_fraction``), which takes their place.
    """

    label_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    tune_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentations: LinearAugmentation = LinearAugmentation()

    @property
    def source(self) -> Data:
        """The section ``data`` of a pretraining on the same images."""
        return Data(**self.model_dump(include=set(ImageData.model_fields)), tune_fraction=self.val_fraction)


class LinearOptimizer(Section):
    """``lr``, one rate or a list of them, is multiplied by the global batch size / 256.

    ``layer_decay``: with ``finetune``, a layer's rate is that of the next one times this; 0: one rate for all.
    """

    name: Literal["sgd", "lars", "adam", "adamw"]
    batch_size: Count
    lr: Rates
    weight_decay: NonNegative = 0.0
    exclude_bias_n_norm_wd: bool = False
    layer_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    kwargs: dict[str, Any] = {}


class Probe(Section):
    """What the linear layer sees.

    ``blocks``: the [CLS] tokens of a ViT's last blocks, side by side. ``avgpool``: and the mean of its last patch
    tokens. ``batch_norm``: normalised over the batch, without affine parameters.
    """

    blocks: Count = 1
    avgpool: bool = False
    batch_norm: bool = False


class LinearRecipe(Run):
    """A linear probe on frozen features, or with ``finetune`` a fine-tuning of the whole network."""

    method: Literal["linear"] = "linear"
    pretrained_feature_extractor: Path | None = None
    branch: Network = "student"
    pretrain_method: str | None = None
    backbone: Backbone | None = None
    data: LinearData
    probe: Probe = Probe()
    optimizer: LinearOptimizer
    scheduler: Scheduler
    finetune: bool = False
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auto_augment: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_words_for_nothing(cls, raw: Any) -> Any:
        return _none_for_words(raw)


def _none_for_words(raw: Any) -> Any:
    """solo-learn's recipes write ``None``, which YAML reads as a word."""
    if isinstance(raw, dict):
        return {key: _none_for_words(value) for key, value in raw.items()}
    return None if raw == "None" else raw


def load_linear_recipe(config_name: str, overrides: Sequence[str] = (), config_path: str | None = None) -> LinearRecipe:
    """A checked recipe; see :func:`solo_bam.config.load_recipe`."""
    return parse_linear(compose_recipe(config_name, overrides, config_path, "linear"))


def recipe_of_run(
    checkpoint: Path, trained_by: Recipe, config_name: str | None, overrides: Sequence[str] = ()
) -> LinearRecipe:
    """A shipped recipe for a run: on its own data, unless the overrides name a data set.

    Args:
        checkpoint: of the run.
        trained_by: the run's recipe.
        config_name: of the recipe; None: the one for the data set.
        overrides: ``key=value``.

    Raises:
        UserError: no recipe is shipped for the data set, or a key is at fault.
    """
    named = named_keys(overrides)
    dataset = named.get("data.dataset", trained_by.data.dataset)
    if config_name is None and dataset not in _RECIPES:
        problem = f"is missing, no recipe is the usual one for {dataset}"
        raise UserError("--config-name", problem, f"give one, e.g. {_RECIPES['imagenet100']}")
    raw = compose_recipe(config_name or _RECIPES[dataset], overrides, None, "linear")
    if "data.dataset" not in named:
        theirs = trained_by.data.model_dump(mode="json", include=set(ImageData.model_fields) - {"fraction"})
        if lacks_val(trained_by.data) and "data.val_path" not in named:
            theirs["val_fraction"] = trained_by.data.tune_fraction
        raw["data"] = {**raw["data"], **{k: v for k, v in theirs.items() if f"data.{k}" not in named}}
    if config_name is None and dataset == "custom" and "optimizer.batch_size" not in named:
        # ImageNet's may be more images than there are.
        raw["optimizer"]["batch_size"] = min(raw["optimizer"]["batch_size"], trained_by.optimizer.batch_size)
    return parse_linear({**raw, CHECKPOINT: str(checkpoint)})


def named_keys(overrides: Sequence[str]) -> dict[str, str]:
    """Keys and values of a command line's ``key=value``."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def parse_linear(raw: dict[str, Any]) -> LinearRecipe:
    """Check every key, and that they fit together.

    Raises:
        UserError: the first key at fault.
    """
    from solo_bam import backbones

    recipe = parse_run(raw, LinearRecipe)
    if recipe.backbone is not None:
        backbones.check_backbone_name(recipe.backbone.name)
    check_schedule(recipe.scheduler, recipe.max_epochs)
    _check_rates(recipe)
    _check_augmentations(recipe)
    if recipe.optimizer.layer_decay and not recipe.finetune:
        problem = f"got {recipe.optimizer.layer_decay}, the backbone is frozen"
        raise UserError("optimizer.layer_decay", problem, "set finetune=True or remove it")
    return recipe


def _check_rates(recipe: LinearRecipe) -> None:
    """Several rates make heads that must not know of one another."""
    rates = recipe.optimizer.lr
    if len(rates) > 1 and recipe.finetune:
        problem = f"got {len(rates)} rates, a backbone is fine-tuned with one"
        raise UserError("optimizer.lr", problem, "give one, or set finetune=False")
    if len(rates) > 1 and recipe.trainer_arguments.get("gradient_clip_val"):
        problem = "clips the heads of all learning rates together"
        raise UserError("gradient_clip_val", problem, "remove it or give one optimizer.lr")


def _check_augmentations(recipe: LinearRecipe) -> None:
    rrc = recipe.data.augmentations.rrc
    if rrc.crop_min_scale > rrc.crop_max_scale:
        problem = f"got {rrc.crop_min_scale}, must be at most crop_max_scale ({rrc.crop_max_scale})"
        raise UserError("data.augmentations.rrc.crop_min_scale", problem, "lower it")
    if (recipe.mixup or recipe.cutmix) and recipe.optimizer.batch_size % 2:
        problem = f"got {recipe.optimizer.batch_size}, mixup and cutmix mix pairs of images"
        raise UserError("optimizer.batch_size", problem, "give an even number")
