"""A backbone as safetensors, under the names that timm gives its weights."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from solo_bam.config import Recipe
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import Pretrained
from solo_bam.runs.checkpoints.solo_learn import known_parts
from solo_bam.runs.identity import recipe_hash


def safetensors_file(pretrained: Pretrained, half: bool = False) -> bytes:
    """The weights and, as metadata, what they are: a file that ``load_pretrained`` reads again.

    Args:
        pretrained: the backbone.
        half: floating-point values in 16 bits.

    Raises:
        UserError: a value is too large for 16 bits.
    """
    state = {name: value.contiguous() for name, value in pretrained.backbone.state_dict().items()}
    if half:
        state = {name: _halved(name, value) for name, value in state.items()}
    about = {
        "recipe": shareable(pretrained.recipe) if pretrained.own_recipe else known_parts(pretrained.recipe),
        "own_recipe": pretrained.own_recipe,
        "branch": pretrained.branch,
        "epoch": pretrained.epoch,
        "weights": pretrained.weights,
    }
    metadata = {
        "format": "pt",
        "backbone": json.dumps(pretrained.recipe.backbone.model_dump(mode="json")),
        "solo_bam": json.dumps(about),
    }
    if pretrained.own_recipe:
        metadata["recipe_hash"] = recipe_hash(pretrained.recipe)
    return save(state, metadata)


def _halved(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    halved = value.to(torch.float16)
    if not halved.isfinite().all():
        raise UserError("half", f"got True, {name} has values beyond 16 bits ({value.abs().max():g})", "set half=False")
    return halved


def shareable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without what concerns the machine and the account that it ran on."""
    plain = recipe.model_dump(mode="json", exclude={"checkpoint", "resume_from_checkpoint", "wandb", "auto_umap"})
    plain["data"] |= {"train_path": None, "val_path": None}
    return plain
