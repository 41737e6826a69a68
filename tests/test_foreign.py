"""Checkpoints of solo-learn's own scripts, with the ``args.json`` that they write."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors import safe_open

from solo_bam import toolkit
from solo_bam.backbones import create_backbone
from solo_bam.checkpoints import hash_weights, load_pretrained
from solo_bam.cli import main
from solo_bam.config.resolve import resolve
from solo_bam.errors import UserError
from tests.recipes import batch, tiny
from tests.toolkit.editions import release_only

HEAD: dict[str, Any] = {
    "method": "byol", "backbone": {"name": "resnet18", "kwargs": {"zero_init_residual": True}},
    "data": {"dataset": "cifar10", "num_classes": 10, "train_path": "x"},
    "augmentations": [{"crop_size": 32, "num_crops": 2, "rrc": {"enabled": True}}], "wandb_run_id": None,
}  # fmt: skip
RELEASE: dict[str, Any] = {
    "method": "byol", "encoder": "resnet18", "backbone_args": {"cifar": True, "zero_init_residual": True},
    "dataset": "cifar10", "crop_size": [32], "num_crops_per_aug": [2], "lars": True,
}  # fmt: skip


@pytest.mark.parametrize(("args", "prefix"), [(HEAD, "backbone."), (RELEASE, "encoder.")])
def test_either_editions_backbone_comes_back(args: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", {"zero_init_residual": True}, cifar_stem=True)
    state = {prefix + name: value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 6}, tmp_path / "byol-ep=6.ckpt")
    (tmp_path / "args.json").write_text(json.dumps(args))
    loaded = load_pretrained(tmp_path / "byol-ep=6.ckpt")
    assert (loaded.weights, loaded.epoch) == (hash_weights(backbone), 7)
    assert (loaded.recipe.method, loaded.recipe.data.dataset, loaded.recipe.crop_sizes) == ("byol", "cifar10", [32])


def test_an_exported_backbone_claims_no_more_than_args_json_says(tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", {"zero_init_residual": True}, cifar_stem=True)
    state = {"backbone." + name: value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 6}, tmp_path / "byol-ep=6.ckpt")
    crop = {
        **HEAD["augmentations"][0],
        "grayscale": {"enabled": False, "prob": 0.2},
        "mean": [0.1] * 3,
        "std": [0.9] * 3,
    }
    (tmp_path / "args.json").write_text(json.dumps({**HEAD, "augmentations": [crop]}))
    assert main(["export", str(tmp_path / "byol-ep=6.ckpt")]) == 0
    folder = tmp_path / "export" / "student-timm"
    card = (folder / "README.md").read_text()
    assert "| epochs | 7 |" in card
    assert "mean (0.1, 0.1, 0.1) and deviation (0.9, 0.9, 0.9)" in card
    for claim in ("| recipe |", "## Recipe", "images per process", "| seed |"):
        assert claim not in card
    with safe_open(folder / "backbone.safetensors", "pt") as file:
        metadata = file.metadata()
    assert "recipe_hash" not in metadata
    assert set(json.loads(metadata["solo_bam"])["recipe"]) == {"method", "backbone", "data", "augmentations"}
    first, again = load_pretrained(tmp_path / "byol-ep=6.ckpt"), load_pretrained(folder / "backbone.safetensors")
    assert (first.own_recipe, again.own_recipe) == (False, False)
    assert (again.recipe, again.weights, again.epoch) == (first.recipe, hash_weights(backbone), 7)
    assert again.recipe.augmentations[0].grayscale.prob == 0.2


def test_what_is_no_args_json_of_solo_learns(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "some.ckpt")
    with pytest.raises(UserError, match=r"not saved by solo-bam, and has no args.json"):
        load_pretrained(tmp_path / "some.ckpt")
    for text in ("{", "[]", "{}", json.dumps({**HEAD, "augmentations": []})):
        (tmp_path / "args.json").write_text(text)
        with pytest.raises(UserError, match=r"args.json is not what solo-learn writes"):
            load_pretrained(tmp_path / "some.ckpt")


@release_only
def test_a_checkpoint_of_the_releases_own_callback(tmp_path: Path) -> None:
    """The head's are in tests/toolkit/test_head.py."""
    method = toolkit.build_method(resolve(tiny(tmp_path, "digits/byol", "backbone.cifar_stem=True"), 10, True, 1))
    from solo.utils.checkpointer import Checkpointer

    # What `additional_setup_pretrain` makes of its command line.
    args = Namespace(
        name="byol", method="byol", encoder="resnet18", dataset="cifar10", crop_size=[16], num_crops_per_aug=[2],
        backbone_args={"cifar": True, "zero_init_residual": False}, data_dir=Path("datasets"),
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Checkpointer(args, logdir=tmp_path / "own")],
    )  # fmt: skip
    trainer.fit(method, torch.utils.data.DataLoader([batch(np.arange(16) % 10)], batch_size=None))
    (path,) = (tmp_path / "own").rglob("*.ckpt")
    assert load_pretrained(path).weights == hash_weights(method.backbone)
    assert load_pretrained(path, "teacher").weights == hash_weights(method.momentum_backbone)
