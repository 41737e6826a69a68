"""From a checked recipe and the facts of data and machine to the ``cfg`` that methods are built from."""

from __future__ import annotations

from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from solo_bam import solo_learn
from solo_bam.config.schema import Recipe, Scheduler
from solo_bam.core.errors import UserError

SHARDED = "fsdp2"  # the strategy of solo_bam.train.sharding
CIFAR_STEM_UP_TO = 64  # pixels


def resolve(recipe: Recipe, num_classes: int, has_val: bool, world_size: int) -> DictConfig:
    """The recipe in the head edition's form, with everything that follows from it.

    As in solo-learn, ``optimizer.lr`` and, with a validation set, ``optimizer.classifier_lr`` are
    multiplied by the global batch size / 256.

    Args:
        recipe: a checked recipe.
        num_classes: of the dataset.
        has_val: whether there is a validation set.
        world_size: number of processes.

    Raises:
        UserError: keys that do not fit together.
    """
    check(recipe, world_size)
    cfg: dict[str, Any] = recipe.model_dump(mode="json")
    cfg["data"] |= {
        "num_classes": num_classes,
        "num_large_crops": recipe.num_large_crops,
        "num_small_crops": recipe.num_small_crops,
    }
    cfg["backbone"] |= {
        "cifar_stem": cifar_stem_stride(recipe),
        "crop_sizes": recipe.crop_sizes,
        "method": recipe.method,
    }
    scale = recipe.optimizer.batch_size * world_size / 256
    if recipe.scheduler.min_lr > recipe.optimizer.lr * scale:
        raise UserError(
            "scheduler.min_lr",
            f"got {recipe.scheduler.min_lr:g}, must be at most the peak rate {recipe.optimizer.lr * scale:g} "
            f"(optimizer.lr x global batch {recipe.optimizer.batch_size * world_size} / 256)",
            "lower it or raise the batch size",
        )
    cfg["optimizer"]["lr"] *= scale
    if has_val:
        cfg["optimizer"]["classifier_lr"] *= scale
    cfg["knn_eval"]["enabled"] = recipe.knn_eval.enabled and has_val
    return OmegaConf.create(cfg)


def cifar_stem_stride(recipe: Recipe) -> Literal[0, 1, 2]:
    """The stride of a ResNet's stem for small images: as the recipe says, else 1 where large crops are small.

    0: the network has its own stem.
    """
    from solo_bam.backbones import is_resnet

    if not is_resnet(recipe.backbone.name):
        return 0
    asked = recipe.backbone.cifar_stem
    stride = recipe.augmentations[0].crop_size <= CIFAR_STEM_UP_TO if asked is None else asked
    return 2 if stride == 2 else 1 if stride else 0


def describe_stem(recipe: Recipe) -> str:
    """Of the backbone's stem, in words."""
    small = "the stem for small images (3x3, no max-pooling)"
    return ("its own stem", small, small.replace("3x3", "3x3 with stride 2"))[cifar_stem_stride(recipe)]


def check(recipe: Recipe, world_size: int) -> None:
    """Keys that must fit together, whatever the data.

    Raises:
        UserError: the first that do not.
    """
    _check_crops(recipe)
    _check_epochs(recipe)
    _check_stem(recipe)
    _check_contrastive_crop(recipe)
    if recipe.performance.chunked_batch and not solo_learn.by_row(recipe.method):
        problem = f"got {recipe.performance.chunked_batch}, the networks of {recipe.method} take whole batches"
        raise UserError("performance.chunked_batch", problem, "set it to null")
    if recipe.performance.compile and recipe.strategy == SHARDED:
        raise UserError("performance.compile", f"got True, strategy={SHARDED} cannot", "set it to False")
    solo_learn.check_method(recipe, recipe.optimizer.batch_size * world_size)
    if recipe.momentum.base_tau > recipe.momentum.final_tau:
        raise UserError(
            "momentum.base_tau",
            f"got {recipe.momentum.base_tau}, must be at most momentum.final_tau ({recipe.momentum.final_tau})",
            "lower it",
        )


def _check_crops(recipe: Recipe) -> None:
    large, small = recipe.num_large_crops, recipe.num_small_crops
    for i, a in enumerate(recipe.augmentations):
        if a.rrc.crop_min_scale > a.rrc.crop_max_scale:
            raise UserError(
                f"augmentations.{i}.rrc.crop_min_scale",
                f"got {a.rrc.crop_min_scale}, must be at most crop_max_scale ({a.rrc.crop_max_scale})",
                "lower it",
            )
    rule = solo_learn.crop_rule(recipe.method)
    if small and not rule.small:
        those = ", ".join(name for name in solo_learn.method_names() if solo_learn.crop_rule(name).small)
        raise UserError(
            "augmentations",
            f"{recipe.method} takes no small crops (got {small} of another size than the first pipeline's), "
            f"allowed with: {those}",
            "use crops of one size",
        )
    if large + small < rule.least:
        problem = f"got {large + small} crop, {recipe.method} takes at least {rule.least}"
        raise UserError("augmentations", problem, "raise num_crops")
    if rule.large is not None and large != rule.large:
        raise UserError(
            "augmentations",
            f"got {large} large crops, {recipe.method} takes {rule.large}",
            f"set num_crops so that they add up to {rule.large}",
        )


def _check_stem(recipe: Recipe) -> None:
    from solo_bam.backbones import is_resnet

    if recipe.backbone.cifar_stem and not is_resnet(recipe.backbone.name):
        raise UserError("backbone.cifar_stem", f"got True, {recipe.backbone.name} is no ResNet", "remove it")


def _check_contrastive_crop(recipe: Recipe) -> None:
    key = "data.contrastive_crop.enabled"
    if not recipe.data.contrastive_crop.enabled:
        return
    if recipe.data.format in ("dali", "tensor"):
        problem = f"got True, data.format={recipe.data.format} crops without boxes"
        raise UserError(key, problem, "use data.format=image_folder")
    if not any(a.rrc.enabled for a in recipe.augmentations):
        raise UserError(key, "got True, no pipeline crops", "set augmentations.*.rrc.enabled=True")


def check_schedule(scheduler: Scheduler, max_epochs: int) -> None:
    """A schedule against the length of the training.

    Raises:
        UserError: they do not fit.
    """
    if scheduler.name == "warmup_cosine" and scheduler.warmup_epochs >= max_epochs:
        raise UserError(
            "scheduler.warmup_epochs",
            f"got {scheduler.warmup_epochs:g}, must be below max_epochs ({max_epochs})",
            "lower it or train longer",
        )
    if scheduler.name == "step" and not scheduler.lr_decay_steps:
        raise UserError("scheduler.lr_decay_steps", "is missing, scheduler.name=step needs it", "give a list of epochs")


def _check_epochs(recipe: Recipe) -> None:
    check_schedule(recipe.scheduler, recipe.max_epochs)
    if recipe.optimizer.weight_decay_end is not None and recipe.optimizer.weight_decay == 0:
        raise UserError(
            "optimizer.weight_decay", "got 0, must be above 0 with optimizer.weight_decay_end", "give where it starts"
        )
    key = "warmup_teacher_temperature_epochs"
    warmup = recipe.method_kwargs.get(key, 0)
    if warmup > recipe.max_epochs:
        problem = f"got {warmup}, must be at most max_epochs ({recipe.max_epochs})"
        raise UserError(f"method_kwargs.{key}", problem, "lower it")
