"""Every shipped recipe trains two steps, at tiny size on real digits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from solo_bam.config import load_recipe
from solo_bam.train.run import pretrain
from tests.recipes import shipped, small_head

ALL = shipped()
# Every method's for the digits is trained by test_pretrain.py; quick's hold the same in another size.
RECIPES = [name for name in ALL if name.partition("/")[0] not in ("digits", "quick")]
_TINY = [
    "data.dataset=digits", "data.train_path=null", "data.val_path=null", "data.fraction=0.02", "data.num_workers=0",
    "optimizer.batch_size=8", "knn_eval.k=5", "knn_eval.eval_fraction=0.05", "scheduler.warmup_epochs=0", "scheduler.min_lr=0", "max_epochs=1",
    "limit_train_batches=2", "limit_val_batches=1", "precision=32", "sync_batchnorm=False", "accelerator=cpu",
    "log_every_n_steps=1", "enable_progress_bar=False", "enable_model_summary=False", "checkpoint.enabled=False",
]  # fmt: skip
# Smaller networks of the same kind; two recipes keep their own ResNet.
_NETWORKS = {
    "resnet18": "backbone.name=test_resnet",
    "vit_base_patch16_224": "+backbone.kwargs.depth=2",
    "vit_small_patch16_224": "+backbone.kwargs.depth=2",
}


def _overrides(name: str) -> list[str]:
    recipe = load_recipe(name)
    sizes = {size: 32 if i == 0 else 16 for i, size in enumerate(recipe.crop_sizes)}
    crops = [f"augmentations.{i}.crop_size={sizes[a.crop_size]}" for i, a in enumerate(recipe.augmentations)]
    # CAFormer's last feature map of a 32-px image is a single point, which has no box.
    boxes = [f"data.contrastive_crop.enabled={recipe.data.contrastive_crop.enabled and 'caformer' not in name}"]
    whole = name in ("cifar/bam", "imagenet-100/bam")
    network = [line for key, line in _NETWORKS.items() if key == recipe.backbone.name and not whole]
    return [
        *_TINY,
        *network,
        *boxes,
        *crops,
        *small_head(recipe.method),
    ]


def test_runs_of_short_epochs_write_few_checkpoints() -> None:
    """Half a gigabyte each with a wide head, and on a GPU an epoch of small images takes seconds."""
    recipes = [load_recipe(name) for name in {name.split("/")[0]: name for name in ALL}.values()]
    small = [recipe for recipe in recipes if recipe.data.dataset in ("digits", "cifar10")]
    assert len(small) >= 5
    assert min(recipe.checkpoint.frequency for recipe in small) >= 20


@pytest.mark.parametrize("name", RECIPES)
def test_trains_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Graphs are taken where a recipe asks for them, without a minute of C++; test_performance.py has it compiled.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    recipe = load_recipe(name, [*_overrides(name), f"checkpoint.dir={tmp_path}"])
    trained = pretrain(recipe)
    assert all(value == value for value in trained.metrics.values())  # no NaN
    assert len([row for row in trained.folder.metrics() if "train_class_loss_step" in row]) == 2
