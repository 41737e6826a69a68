"""Checkpoints that solo-learn's own scripts saved: what they were trained by, from the ``args.json`` beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from solo_bam.config import Recipe
from solo_bam.config.schema import Augmentation
from solo_bam.core.errors import UserError

_CIFAR = ("cifar10", "cifar100")
# Stand where ``args.json`` does not keep what was given (learning rates are scaled); nobody trained with them.
_PLACEHOLDERS: dict[str, Any] = {
    "optimizer": {"name": "sgd", "batch_size": 1, "lr": 1}, "scheduler": {"name": "none"}, "max_epochs": 1
}  # fmt: skip
_KNOWN = {"method", "backbone", "data", "augmentations"}


def about_solo_learn(path: Path, key: str) -> dict[str, Any] | None:
    """What solo-bam's own checkpoints say of themselves, for one of solo-learn's; None where there is no ``args.json``.

    Its ``recipe`` is not the run's own (``own_recipe``): it holds what the backbone and the evaluation views follow
    from, method, backbone, dataset and crops; :func:`filled` makes a recipe of it.

    Args:
        path: of the checkpoint.
        key: for messages.

    Raises:
        UserError: an ``args.json`` that is not solo-learn's.
    """
    saved = path.with_name("args.json")
    if not saved.is_file():
        return None
    try:
        args = json.loads(saved.read_text())
        recipe = filled(_of_head(args) if "backbone" in args else _of_release(args))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{saved} is not what solo-learn writes ({' '.join(str(error).split())[:200]})"
        raise UserError(key, problem, "give a checkpoint of solo-bam") from None
    return {"method": recipe.method, "recipe": known_parts(recipe), "own_recipe": False}


def filled(parts: dict[str, Any]) -> Recipe:
    """A recipe of the parts that are known; the rest are placeholders.

    Raises:
        pydantic.ValidationError: they are no parts of a recipe.
    """
    return Recipe.model_validate(_PLACEHOLDERS | parts)


def known_parts(recipe: Recipe) -> dict[str, Any]:
    """What :func:`filled` was given, as plain values."""
    return recipe.model_dump(mode="json", include=_KNOWN, exclude_unset=True)


def _of_head(args: dict[str, Any]) -> dict[str, Any]:
    """The head edition keeps its whole cfg."""
    dataset, name = args["data"]["dataset"], args["backbone"]["name"]
    return {
        "method": args["method"],
        "backbone": _backbone(name, args["backbone"].get("kwargs") or {}, dataset),
        "data": {"dataset": dataset},
        "augmentations": [_augmentation(given) for given in args["augmentations"]],
    }


def _augmentation(given: dict[str, Any]) -> dict[str, Any]:
    """An entry with all that it is read for; ``enabled`` of an operation is read of the random crop alone."""
    read = {name: value for name, value in given.items() if name in Augmentation.model_fields}
    for name, value in read.items():
        if isinstance(value, dict) and name != "rrc":
            read[name] = {key: part for key, part in value.items() if key != "enabled"}
    return read


def _of_release(args: dict[str, Any]) -> dict[str, Any]:
    """The release edition keeps its flags; ``backbone_args`` are what the network was built with."""
    kwargs = dict(args.get("backbone_args") or {})
    kwargs.pop("cifar", None)
    crops = zip(args["crop_size"], args["num_crops_per_aug"])
    return {
        "method": args["method"],
        "backbone": _backbone(args["encoder"], kwargs, args["dataset"]),
        "data": {"dataset": args["dataset"]},
        "augmentations": [{"crop_size": size, "num_crops": number} for size, number in crops],
    }


def _backbone(name: str, kwargs: dict[str, Any], dataset: str) -> dict[str, Any]:
    # Both editions choose a ResNet's stem by the dataset's name.
    stem = dataset in _CIFAR if name.startswith("resnet") else None
    return {"name": name, "kwargs": kwargs, "cifar_stem": stem}
