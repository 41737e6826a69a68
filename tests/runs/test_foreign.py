"""Checkpoints of solo-learn's own scripts, with the ``args.json`` that they write."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

from solo_bam import solo_learn
from solo_bam.backbones import create_backbone, timm_call
from solo_bam.cli import main
from solo_bam.config.linear import load_linear_recipe
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.evaluate.pretrained import complete, load_extractor
from solo_bam.runs.checkpoints.read import hash_weights, load_pretrained
from solo_bam.runs.records import read_records
from tests.data.pictures import folders
from tests.pretrained import TINY
from tests.recipes import batch, tiny
from tests.solo_learn.editions import release_only

HEAD: dict[str, Any] = {
    "method": "byol", "backbone": {"name": "resnet18", "kwargs": {"zero_init_residual": True}},
    "data": {"dataset": "cifar10", "num_classes": 10, "train_path": "x"},
    "augmentations": [{"crop_size": 32, "num_crops": 2, "rrc": {"enabled": True}}], "wandb_run_id": None,
}  # fmt: skip
RELEASE: dict[str, Any] = {
    "method": "byol", "encoder": "resnet18", "backbone_args": {"cifar": True, "zero_init_residual": True},
    "dataset": "cifar10", "crop_size": [32], "num_crops_per_aug": [2], "lars": True,
}  # fmt: skip


def saved(path: Path, backbone: torch.nn.Module, prefix: str, args: dict[str, Any]) -> str:
    """A checkpoint as solo-learn leaves it."""
    state = {prefix + name: value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 6}, path)
    path.with_name("args.json").write_text(json.dumps(args))
    return str(path)


@pytest.mark.parametrize(("args", "prefix"), [(HEAD, "backbone."), (RELEASE, "encoder.")])
def test_either_editions_backbone_comes_back(args: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", {"zero_init_residual": True}, cifar_stem=True)
    loaded = load_pretrained(Path(saved(tmp_path / "byol-ep=6.ckpt", backbone, prefix, args)))
    assert (loaded.weights, loaded.epoch) == (hash_weights(backbone), 7)
    assert (loaded.recipe.method, loaded.recipe.data.dataset, loaded.recipe.crop_sizes) == ("byol", "cifar10", [32])


@pytest.mark.parametrize(("args", "prefix"), [(HEAD, "backbone."), (RELEASE, "encoder.")])
def test_every_command_takes_either_editions_checkpoint(args: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", {"zero_init_residual": True}, cifar_stem=True)
    checkpoint = saved(tmp_path / "byol-ep=6.ckpt", backbone, prefix, args)
    images = folders(tmp_path / "images")
    data = ["data.dataset=custom", f"data.train_path={images}", f"data.val_path={images}", "data.fraction=-1"]
    short = [*TINY, *data, "optimizer.lr=0.1", f"checkpoint.dir={tmp_path}"]
    assert main(["knn", checkpoint, "k=5", "distance=cosine", "num_workers=0", *data]) == 0
    assert main(["linear", checkpoint, "--config-name", "digits/linear", *short]) == 0
    assert main(["export", checkpoint]) == 0
    (exported,) = tmp_path.rglob("backbone.safetensors")
    measured = [record for folder in tmp_path.rglob("evaluation") for record in read_records(folder)]
    assert {(r.metric, r.method, r.weights) for r in measured} >= {("accuracy", "byol", hash_weights(backbone))}
    assert {r.protocol.kind for r in measured} == {"k-NN", "linear"}
    assert load_pretrained(exported).weights == hash_weights(backbone)


@pytest.mark.parametrize("method", ["mae", "mocov3"])
def test_a_vit_that_is_a_methods_own(method: str, tmp_path: Path) -> None:
    """Its heads are twelve, a ViT-Tiny's three, in weights of the same shapes."""
    vit = create_backbone("vit_tiny", {"patch_size": 8}, crop_sizes=[16], method=method).eval()
    assert vit.blocks[0].attn.num_heads == 12  # type: ignore[index, union-attr]
    crops = [{"crop_size": 16, "num_crops": 2}]
    about = {
        **HEAD,
        "method": method,
        "augmentations": crops,
        "backbone": {"name": "vit_tiny", "kwargs": {"patch_size": 8}},
    }
    path = Path(saved(tmp_path / "some.ckpt", vit, "backbone.", about))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = vit(images)
        torch.testing.assert_close(load_pretrained(path).backbone(images), expected)
        name, arguments = timm_call("vit_tiny", {"patch_size": 8}, [16], method) or ("", {})
        timms = timm.create_model(name, **arguments).eval()
        timms.load_state_dict(vit.state_dict())
        torch.testing.assert_close(timms(images), expected)
        named = ["backbone.name=vit_tiny", "backbone.kwargs={patch_size: 8}", f"pretrain_method={method}"]
        recipe = complete(load_linear_recipe("digits/linear", [*TINY, *named]), None)
        extractor = load_extractor(torch.load(path, weights_only=True), path, recipe, None)
        torch.testing.assert_close(extractor.backbone(images), expected)


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
    """The head's are in tests/solo_learn/test_head.py."""
    method = solo_learn.build_method(
        resolve(tiny(tmp_path, "digits/byol", "backbone.name=resnet18", "backbone.cifar_stem=True"), 10, True, 1)
    )
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
