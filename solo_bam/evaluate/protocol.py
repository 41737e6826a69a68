"""The records of a classifier: its accuracies with everything that would change them."""

from __future__ import annotations

from typing import Any

from solo_bam.config.linear import LinearRecipe
from solo_bam.config.options import transferred_from
from solo_bam.config.schema import Recipe
from solo_bam.core.hardware import find_devices, precision_as_run
from solo_bam.data.datasets.sources import told
from solo_bam.data.labelled import LabelledData
from solo_bam.evaluate.tally import TOP, Tally
from solo_bam.runs.records import Plain, Record, wilson_interval


def classifier_records(
    recipe: LinearRecipe,
    data: LabelledData,
    tally: Tally,
    best: int,
    about: dict[str, Any],
    trained_by: Recipe | None,
    world_size: int,
) -> list[Record]:
    """Accuracies on the validation images, and the learning rate where one was chosen.

    Args:
        recipe: a completed recipe.
        data: what it was trained and tested on.
        tally, best: of the validation images, and the head that is reported.
        about: fields that say which weights were measured.
        trained_by: the pretraining's recipe, None where nothing says it.
        world_size: processes.
    """
    protocol = classifier_protocol(recipe, data, trained_by, world_size)
    place = told(recipe.data, data.val_split, recipe.data.source.val_name)
    measured = [("accuracy", tally.accuracies[best])]
    if data.num_classes > TOP:
        measured.append((f"accuracy@{TOP}", tally.top_accuracies[best]))
    records = [
        Record(
            metric=metric,
            value=value,
            interval=wilson_interval(value / 100, tally.images),
            images=tally.images,
            data=place,
            protocol=protocol,
            **about,
        )
        for metric, value in measured
    ]
    if len(recipe.optimizer.lr) > 1:
        rate = recipe.optimizer.lr[best]
        records.append(Record(metric="learning rate", value=rate, unit="", data=place, protocol=protocol, **about))
    return records


def classifier_protocol(
    recipe: LinearRecipe, data: LabelledData, trained_by: Recipe | None, world_size: int
) -> dict[str, Plain]:
    """Everything that would change the accuracy of the same weights."""
    options, crop = recipe.optimizer, recipe.data.augmentations
    devices = find_devices(recipe.accelerator, recipe.devices)
    rates = ", ".join(f"{rate:g}" for rate in options.lr)
    settings: dict[str, Plain] = {
        "kind": "finetune" if recipe.finetune else "linear",
        "online": False,
        "probe": "batch norm and linear" if recipe.probe.batch_norm else "linear",
        "blocks": recipe.probe.blocks,
        "avgpool": recipe.probe.avgpool,
        "epochs": recipe.max_epochs,
        "optimizer": options.name,
        "learning rate": f"{rates} (x batch / 256)",
        "chosen on": _chosen_on(recipe, data),
        "layer decay": options.layer_decay or None,
        "weight decay": options.weight_decay,
        "scheduler": recipe.scheduler.name,
        "batch": options.batch_size * world_size,
        "crop": crop.crop_size,
        "augmentation": _augmentation(recipe),
        "mixup": recipe.mixup or None,
        "cutmix": recipe.cutmix or None,
        "label smoothing": recipe.label_smoothing or None,
        "loader": "torchvision",
        "training images": told(recipe.data, data.train_split, str(len(data.train_split)), contents=False),
        "label fraction": recipe.data.label_fraction,
        "precision": precision_as_run(recipe.precision, devices.accelerator),
        "seed": recipe.seed,
    }
    if trained_by is not None and (origin := transferred_from(trained_by.data, recipe.data)):
        settings["pretrained on"] = origin
    return settings


def _chosen_on(recipe: LinearRecipe, data: LabelledData) -> str | None:
    if len(recipe.optimizer.lr) == 1:
        return None
    return "the validation images" if data.tune_split is None else f"{len(data.tune_split)} held-out training images"


def _augmentation(recipe: LinearRecipe) -> str:
    if recipe.auto_augment:
        return "RandAugment and random erasing"
    crop = recipe.data.augmentations
    names = [f"random crop {crop.rrc.crop_min_scale:g} to {crop.rrc.crop_max_scale:g}"] if crop.rrc.enabled else []
    names += [f"flip {crop.horizontal_flip.prob:g}"] if crop.horizontal_flip.prob else []
    return " and ".join(names) or "none"
