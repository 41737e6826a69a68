"""A pretraining recipe for a folder of images, from a look at some of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from solo_bam.config.recipe import load_recipe
from solo_bam.config.schema import Augmentation, Recipe
from solo_bam.core.errors import UserError
from solo_bam.data.datasets.inspection import inspect_split
from solo_bam.data.datasets.sources import Source, find_source

LOOKED_AT = 500  # images
CROPS = (32, 64, 128, 224)  # px; a crop is no larger than the images' shorter sides
_SEEN = 4_000_000  # images in all epochs, at most: ResNet-18 at 224 px sees as many in an hour or two on a GPU
_SIZES = ((256, 10), (128, 10), (64, 10), (32, 10), (16, 2), (8, 2), (4, 2))  # a batch, and how many there should be
_BASE = "custom"
_VAL = ("val", "validation", "valid", "test")


@dataclass(frozen=True)
class Suggestion:
    """What was found and what follows from it.

    Attributes:
        found: a line for people.
        recipe: the YAML file's text.
    """

    found: str
    recipe: str


def suggest(folder: Path) -> Suggestion:
    """Look at a folder of images: class folders, loose images, or ``train/`` and ``val/`` (or ``test/``) of either.

    Raises:
        UserError: there are no images, or none can be read.
    """
    recipe = _first_guess(folder)
    source = find_source(recipe.data)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(source.train), min(LOOKED_AT, len(source.train)), replace=False))
    good = [one for one in inspect_split(source.train.take(chosen)).findings if one.problem is None]
    if not good:
        raise UserError(str(folder), f"none of the first {len(chosen)} images can be read", "give other images")
    sides = [min(one.width, one.height) for one in good]
    side = int(np.median(sides))
    labels = "no labels" if recipe.data.no_labels else f"{source.num_classes} classes"
    found = (
        f"{len(source.train):,} images, {labels}, shorter side {min(sides)} to {max(sides)} px (median {side})"
        + ("" if source.val is None else f"; {len(source.val):,} to validate")
        + (f"; {len(chosen) - len(good)} of {len(chosen)} cannot be read" if len(good) < len(chosen) else "")
    )
    return Suggestion(found, "\n".join(_lines(folder, found, recipe, source, side, len(good) == len(chosen))) + "\n")


def _first_guess(folder: Path) -> Recipe:
    """With train and val where they are folders of that name; without labels where images lie loose."""
    if not folder.is_dir():
        raise UserError(str(folder), "is no folder", "give a folder of images")
    train = folder / "train" if (folder / "train").is_dir() else folder
    val = next((path for name in _VAL if train != folder and (path := folder / name).is_dir()), None)
    keys = {"train_path": Path(os.path.abspath(train)), "val_path": None if val is None else Path(os.path.abspath(val))}
    labelled = any(path.is_dir() for path in train.iterdir())
    base = load_recipe(_BASE)
    data = base.data.model_copy(update={**keys, "no_labels": not labelled})
    return base.model_copy(update={"data": data})


def _lines(folder: Path, found: str, recipe: Recipe, source: Source, side: int, readable: bool) -> Iterator[str]:
    images = len(source.train)
    crop = max([size for size in CROPS if size <= side], default=CROPS[0])
    held_out = not recipe.data.no_labels and recipe.data.val_path is None
    trained_on = int(images * (0.9 if held_out else 1))
    if trained_on < 2 * _SIZES[-1][0]:
        raise UserError(str(folder), f"has {images} images, too few to train on", "give more, some hundreds at least")
    batch = next(size for size, batches in _SIZES if trained_on >= batches * size)
    epochs = int(np.clip(_SEEN // images, 20, 400))
    views = [_view(one, crop) for one in recipe.augmentations]
    paths = {"train_path": str(recipe.data.train_path)}
    paths |= {} if recipe.data.val_path is None else {"val_path": str(recipe.data.val_path)}
    yield f"# BAM on {folder}: {found}. Change what you like: every key may be given on the command line, too."
    yield f"defaults:\n  - /{_BASE}@_global_               # shipped: method, network, optimizer\n  - _self_\n"
    yield f"name: {json.dumps(folder.absolute().name, ensure_ascii=False)}"
    yield f"max_epochs: {epochs}".ljust(27) + f"# {epochs * images:,} images in all; more is better"
    yield "optimizer:\n" + f"  batch_size: {batch}".ljust(27) + "# per process; as large as the memory allows"
    yield _yaml({"data": paths})
    if held_out:
        yield "  tune_fraction: 0.1       # of the images are not trained on but measured on; or give val_path"
    if recipe.data.no_labels:
        yield "  no_labels: True          # no k-NN and no linear classifier without labels"
    if not readable:
        yield "  on_error: skip           # some images cannot be read: solo-bam doctor --data names them"
    if trained_on < recipe.knn_eval.k:
        yield "knn_eval:\n" + f"  k: {trained_on}".ljust(27) + "# there are no more images to vote"
    yield f"# Two views; the shorter side of the images is {side} px in the middle."
    yield _yaml({"augmentations": views})


def _view(one: Augmentation, crop: int) -> dict[str, Any]:
    view: dict[str, Any] = one.model_copy(update={"crop_size": crop}).model_dump(mode="json", exclude_unset=True)
    if crop <= 64:  # as in CIFAR's recipes: nothing is left to blur
        view["gaussian_blur"] = {"prob": 0.0}
    return view


def _yaml(content: dict[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(content)).rstrip()
