"""solo-learn's head edition: what is mended in it alone, and its own training script with ``import solo_bam``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from solo_bam import solo_learn
from solo_bam.config import load_recipe
from solo_bam.config.resolve import resolve
from solo_bam.runs.checkpoints.read import load_pretrained
from tests.data.pictures import folders
from tests.recipes import tiny
from tests.solo_learn.editions import head_only

pytestmark = head_only


def parsed(folder: Path, **changes: Any) -> Any:
    """A recipe as solo-learn's own ``parse_cfg`` completes it."""
    solo_learn.METHODS  # noqa: B018  imports and mends solo-learn
    from solo.args.pretrain import parse_cfg

    recipe = load_recipe("digits/bam").model_dump(mode="json")
    recipe["data"] |= {"dataset": "custom", "train_path": str(folder), "val_path": None}
    recipe["optimizer"] |= {"batch_size": 256, "lr": 1.0}
    return parse_cfg(OmegaConf.create(recipe | {"num_nodes": 1} | changes))


@pytest.mark.arguments
def test_strategy_none_becomes_auto(tmp_path: Path) -> None:
    assert parsed(tmp_path, strategy=None).strategy == "auto"
    assert parsed(tmp_path, strategy="ddp").strategy == "ddp"


@pytest.mark.arguments
@pytest.mark.parametrize(("devices", "count"), [(2, 2), ("3", 3), ("0,1", 2), ([0, 1, 5], 3), ("auto", 1)])
def test_devices_count_as_lightning_counts_them(devices: Any, count: int, tmp_path: Path) -> None:
    cfg = parsed(tmp_path, devices=devices)
    assert cfg.optimizer.lr == count
    assert cfg.devices == devices


@pytest.mark.crops
@pytest.mark.parametrize(("name", "warns"), [("dino", True), ("byol", False), ("bam", False)])
def test_a_loss_that_ignores_small_crops_says_so(name: str, warns: bool, tmp_path: Path) -> None:
    cfg = resolve(tiny(tmp_path, f"digits/{name}", "backbone.name=resnet18"), 10, True, 1)
    cfg.data.num_small_crops = 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solo_learn.build_method(cfg).on_fit_start()
    told = [str(w.message) for w in caught if "small crops" in str(w.message)]
    assert told == (["dino forwards 2 small crops and leaves them out of its loss"] if warns else [])


def test_the_methods_with_vits_of_their_own_get_them(tmp_path: Path) -> None:
    kinds = {
        method: type(solo_learn.solo_backbones(method)["vit_tiny"](img_size=32)).__name__
        for method in ("mae", "mocov3", "byol")
    }
    assert len(set(kinds.values())) == 3


@pytest.mark.parametrize("method", ["bam", "bam_momentum"])
def test_solo_learns_own_script_trains_it_after_one_line(method: str, tmp_path: Path) -> None:
    import solo

    checkout = Path(solo.__file__).parents[1]
    (tmp_path / "main_pretrain.py").write_text("import solo_bam\n" + (checkout / "main_pretrain.py").read_text())
    folders(tmp_path / "images", count=8)
    crop = {"crop_size": 16, "num_crops": 2, "rrc": {"enabled": True, "crop_min_scale": 0.2, "crop_max_scale": 1.0}}
    off = ("color_jitter", "grayscale", "gaussian_blur", "solarization", "equalization", "horizontal_flip")
    recipe = {
        "name": "own", "method": method, "backbone": {"name": "resnet18"}, "max_epochs": 1, "devices": 1,
        "method_kwargs": {"proj_hidden_dim": 16, "proj_output_dim": 8}, "accelerator": "cpu",
        "data": {"dataset": "custom", "train_path": "images", "val_path": "images", "num_workers": 0},
        "augmentations": [{**crop, **{name: {"prob": 0.0} for name in off}}],
        "optimizer": {"name": "lars", "batch_size": 4, "lr": 0.5, "classifier_lr": 0.1, "weight_decay": 1e-4},
        "scheduler": {"name": "warmup_cosine", "warmup_epochs": 0}, "knn_eval": {"enabled": True, "k": 3},
        "checkpoint": {"enabled": True, "dir": "out", "frequency": 1}, "enable_progress_bar": False,
        "log_every_n_steps": 1,
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(json.dumps(recipe))
    done = subprocess.run(
        [sys.executable, "main_pretrain.py", "--config-path", str(tmp_path), "--config-name", "own.yaml",
         "hydra.run.dir=.", "hydra.output_subdir=null"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(checkout)])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (checkpoint,) = (tmp_path / "out").rglob("*.ckpt")
    loaded = load_pretrained(checkpoint)
    assert loaded.recipe.method == method
    assert loaded.epoch == 1
    content = torch.load(checkpoint, weights_only=True)
    assert content["global_step"] == 4
    assert any(key.startswith("projector.") for key in content["state_dict"])
    if method == "bam_momentum":
        assert load_pretrained(checkpoint, "teacher").weights != loaded.weights
