"""The network that a classifier is put on: out of a checkpoint, by the checkpoint's recipe or the classifier's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from solo_bam.backbones import check_crop_sizes, create_backbone, is_resnet
from solo_bam.config.linear import CHECKPOINT, LinearRecipe
from solo_bam.config.resolve import CIFAR_STEM_UP_TO, cifar_stem_stride
from solo_bam.config.schema import Backbone, Recipe
from solo_bam.core.errors import UserError
from solo_bam.data.transforms.augmentations import IMAGENET, MEAN_STD
from solo_bam.evaluate.heads import check_probe
from solo_bam.runs.checkpoints.read import backbone_state, hash_weights, load_weights, network_in

# Crop sizes where neither the recipe nor the checkpoint names one: solo-learn's.
_CROP_SIZES = {"digits": 32, "cifar10": 32, "cifar100": 32, "stl10": 96}
_LARGE = 224


@dataclass(frozen=True)
class Extractor:
    """A backbone with the weights of a checkpoint.

    Attributes:
        backbone: on the CPU, in evaluation mode, with ``num_features``.
        about: the fields of a :class:`solo_bam.runs.records.Record` that say which weights they are.
    """

    backbone: nn.Module
    about: dict[str, Any]


def complete(recipe: LinearRecipe, trained_by: Recipe | None) -> LinearRecipe:
    """Fill in what follows from the pretraining: the backbone, the crop's size and the images' normalisation.

    Raises:
        UserError: the recipe's backbone contradicts the checkpoint's, or neither names one.
    """
    first = None if trained_by is None else trained_by.augmentations[0]
    seen = trained_by.data.dataset if trained_by is not None else recipe.data.dataset
    mean, std = MEAN_STD.get(seen, IMAGENET)
    crop = recipe.data.augmentations
    size = crop.crop_size or (first.crop_size if first else _CROP_SIZES.get(recipe.data.dataset, _LARGE))
    filled = crop.model_copy(
        update={
            "crop_size": size,
            "mean": list(crop.mean or (first and first.mean) or mean),
            "std": list(crop.std or (first and first.std) or std),
        }
    )
    backbone = _backbone(recipe.backbone, trained_by, size)
    data = recipe.data.model_copy(update={"augmentations": filled})
    return recipe.model_copy(update={"data": data, "backbone": backbone})


def _backbone(asked: Backbone | None, trained_by: Recipe | None, crop_size: int) -> Backbone:
    if trained_by is None:
        if asked is None:
            problem = "is missing, and the checkpoint has no recipe that names it"
            raise UserError("backbone.name", problem, "name it in the recipe or on the command line")
        stem = asked.cifar_stem
        automatic = is_resnet(asked.name) and crop_size <= CIFAR_STEM_UP_TO
        return asked.model_copy(update={"cifar_stem": automatic if stem is None else stem})
    stem = (False, True, 2)[cifar_stem_stride(trained_by)]
    theirs = trained_by.backbone.model_copy(update={"cifar_stem": stem})
    if asked is None:
        return theirs
    _check_same(asked, theirs)
    return theirs.model_copy(update={"kwargs": {**theirs.kwargs, **asked.kwargs}})


def _check_same(asked: Backbone, theirs: Backbone) -> None:
    """Regularisation (``drop…``) may differ: it is no part of the weights."""
    named = [key for key in Backbone.model_fields if key in asked.model_fields_set and key != "kwargs"]
    pairs = [(key, getattr(asked, key), getattr(theirs, key)) for key in named if getattr(asked, key) is not None]
    pairs += [
        (f"kwargs.{key}", value, theirs.kwargs[key])
        for key, value in asked.kwargs.items()
        if key in theirs.kwargs and "drop" not in key
    ]
    for key, mine, other in pairs:
        if mine != other:
            problem = f"got {mine!r} from the linear recipe, the checkpoint was trained with {other!r}"
            raise UserError(f"backbone.{key}", problem, "remove it from the linear recipe")


def load_extractor(
    content: Mapping[str, Any], path: Path, recipe: LinearRecipe, trained_by: Recipe | None
) -> Extractor:
    """The backbone of a completed recipe with a checkpoint's weights, strictly.

    Args:
        content: of the checkpoint.
        path: of the checkpoint.
        recipe: as :func:`complete` gives it.
        trained_by: as :func:`recipe_in` gives it.

    Raises:
        UserError: listing the keys that are missing, unexpected or of another shape; or the backbone takes no such
            images or has no such blocks.
    """
    section, size = recipe.backbone, recipe.data.augmentations.crop_size
    assert section is not None, "complete"
    assert size is not None, "complete"
    if trained_by is None:
        stem, fixed, frozen = int(section.cifar_stem or 0), section.fixed_positions, section.frozen_patches
        method = recipe.pretrain_method or ""
        backbone = create_backbone(section.name, section.kwargs, stem, [size], fixed, frozen, method=method).eval()
        load_weights(backbone, backbone_state(content["state_dict"], recipe.branch, CHECKPOINT), CHECKPOINT)
    else:
        own = trained_by.model_copy(update={"backbone": section})
        backbone = network_in(content, own, recipe.branch, CHECKPOINT)
    width: int = backbone.num_features  # type: ignore[assignment]
    check_crop_sizes(backbone, section.name, [size], width)
    check_probe(backbone, section.name, recipe.probe)
    about = {
        "method": trained_by.method if trained_by is not None else recipe.pretrain_method,
        "branch": recipe.branch,
        "epoch": 0 if recipe.branch in ("untrained", "start") else int(content.get("epoch", -1)) + 1 or None,
        "weights": hash_weights(backbone),
        "checkpoint": str(path),
    }
    return Extractor(backbone, about)
