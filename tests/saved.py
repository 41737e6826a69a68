"""Runs on disk as ``solo-bam pretrain`` leaves them, without the training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from solo_bam.config import Recipe
from solo_bam.runs.checkpoints.read import backbone_of


def random_backbone(recipe: Recipe, seed: int = 0) -> nn.Module:
    """A recipe's backbone whose every value, batch norm's statistics included, is off its initial one."""
    torch.manual_seed(seed)
    backbone = backbone_of(recipe)
    with torch.no_grad():
        for value in backbone.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return backbone


def save_run(folder: Path, recipe: Recipe, teacher: bool = False) -> tuple[nn.Module, nn.Module | None]:
    """Write ``run.json`` and ``checkpoints/last.ckpt`` into ``folder``; student and teacher."""
    student = random_backbone(recipe)
    momentum = random_backbone(recipe, seed=1) if teacher else None
    state = {f"backbone.{name}": value for name, value in student.state_dict().items()}
    if momentum is not None:
        state |= {f"momentum_backbone.{name}": value for name, value in momentum.state_dict().items()}
    about = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": state, "epoch": 3, "solo_bam": about}, folder / "checkpoints" / "last.ckpt")
    run = {"method": recipe.method, "seed": 7, "versions": {"torch": "9.9"}, "status": "finished"}
    (folder / "run.json").write_text(json.dumps(run))
    return student, momentum
