"""Checkpoints that solo-learn's own scripts saved: what they were trained by, from the ``args.json`` beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from solo_bam.config import Recipe
from solo_bam.errors import UserError

_CIFAR = ("cifar10", "cifar100")


def about_solo_learn(path: Path, key: str) -> dict[str, Any] | None:
    """What solo-bam's own checkpoints say of themselves, for one of solo-learn's; None where there is no ``args.json``.

    The recipe holds what the backbone and the evaluation views follow from: method, backbone, dataset, crops. The
    rest are placeholders, since ``args.json`` does not keep it as it was given (learning rates are scaled).

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
        parts = _of_head(args) if "backbone" in args else _of_release(args)
        rest = {
            "optimizer": {"name": "sgd", "batch_size": 1, "lr": 1}, "scheduler": {"name": "none"}, "max_epochs": 1
        }  # fmt: skip
        recipe = Recipe.model_validate(rest | parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{saved} is not what solo-learn writes ({' '.join(str(error).split())[:200]})"
        raise UserError(key, problem, "give a checkpoint of solo-bam") from None
    return {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}


def _of_head(args: dict[str, Any]) -> dict[str, Any]:
    """The head edition keeps its whole cfg."""
    dataset, name = args["data"]["dataset"], args["backbone"]["name"]
    crops = [{"crop_size": a["crop_size"], "num_crops": a["num_crops"]} for a in args["augmentations"]]
    return {
        "method": args["method"],
        "backbone": _backbone(name, args["backbone"].get("kwargs") or {}, dataset),
        "data": {"dataset": dataset},
        "augmentations": crops,
    }


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
