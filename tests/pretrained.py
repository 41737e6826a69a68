"""Pretraining runs for tests: the folder that a run leaves, with the weights that it started from."""

from __future__ import annotations

from pathlib import Path

import torch

from solo_bam.runs.checkpoints.read import backbone_of
from tests.recipes import tiny

# ViTs with as few numbers as they run with.
VIT = ["backbone.name=vit_tiny", "backbone.kwargs={patch_size: 8}"]
# What makes any linear recipe a matter of a second: 71 training images, two steps.
TINY = [
    "data.dataset=digits", "data.train_path=null", "data.val_path=null", "data.num_workers=0", "data.fraction=0.05", "data.tune_fraction=0",
    "data.format=image_folder", "data.augmentations.crop_size=16", "optimizer.batch_size=16", "max_epochs=1",
    "scheduler.warmup_epochs=0", "limit_train_batches=2", "limit_val_batches=2", "precision=32", "accelerator=cpu",
    "devices=1", "log_every_n_steps=1", "enable_progress_bar=False", "enable_model_summary=False",
    "num_sanity_val_steps=0", "checkpoint.enabled=False",
]  # fmt: skip


def pretrained_run(folder: Path, *overrides: str, name: str = "digits/bam") -> Path:
    """A run's folder: student and teacher with random weights, normalisations with something to go by."""
    recipe = tiny(folder, name, *overrides)
    torch.manual_seed(0)
    state = {}
    for branch in ("backbone", "momentum_backbone"):
        backbone = backbone_of(recipe).train()
        with torch.no_grad():
            backbone(torch.randn(8, 3, 16, 16))
        state |= {f"{branch}.{key}": value for key, value in backbone.state_dict().items()}
    run = folder / "pretrained"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    about = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}
    torch.save({"state_dict": state, "epoch": 3, "solo_bam": about}, run / "checkpoints" / "last.ckpt")
    return run
