"""solo-learn's own recipes through ``solo-bam pretrain`` and ``solo-bam linear``, two steps each, on made-up images.

    python -m tests.their_recipes /path/to/solo-learn            # a table: recipe | edition | result
    python -m tests.their_recipes /path/to/solo-learn linear/    # those with that in their path alone

The recipes are taken from the checkout; they run on the edition of solo-learn that is importable. Only sizes, the
accelerator and the place of the data are overridden, W&B is off, and the seed is the recipe's. Linear recipes, and those
that fine-tune, keep their 224 px; they get random weights in a file as the edition's own scripts leave it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from solo_bam.cli import main
from solo_bam.data.datasets.imagenet100 import IMAGENET100
from solo_bam.solo_learn import edition, solo_backbones
from tests.data.pictures import cifar, folders

FOLDERS = (
    "pretrain/cifar", "pretrain/cifar-multicrop", "pretrain/custom", "pretrain/imagenet-100",
    "pretrain/imagenet-100-multicrop", "linear/imagenet-100", "linear/imagenet", "finetune/imagenet-100",
    "finetune/imagenet",
)  # fmt: skip
ACCELERATOR = [
    "accelerator=cpu", "devices=1", "strategy=auto", "precision=32", "sync_batchnorm=False", "wandb.enabled=False",
]  # fmt: skip
SIZES = [
    "optimizer.batch_size=8", "data.num_workers=0", "max_epochs=1", "limit_train_batches=2", "limit_val_batches=1",
    "scheduler.warmup_epochs=0", "checkpoint.enabled=False", "enable_progress_bar=False", "enable_model_summary=False",
]  # fmt: skip
# Widths that cost seconds and gigabytes, where the recipe has them.
WIDTHS: dict[str, Any] = {
    "proj_hidden_dim": 64, "pred_hidden_dim": 64, "proj_output_dim": 16, "queue_size": 64, "whitening_size": 8,
    "num_prototypes": 16, "warmup_teacher_temperature_epochs": 0, "decoder_depth": 1,
}  # fmt: skip


def overrides(path: Path, data: Path, out: Path) -> list[str]:
    """What makes a recipe small; CIFAR keeps its 32 px."""
    recipe = yaml.safe_load(path.read_text())
    method, dataset, backbone = recipe["method"], recipe["data"]["dataset"], recipe["backbone"]["name"]
    widths = {**WIDTHS, **({"proj_output_dim": 4} if method == "wmse" else {})}
    if method == "deepclusterv2":
        widths["num_prototypes"] = "[4,4,4]"
    named = recipe.get("method_kwargs") or {}
    kwargs = [f"method_kwargs.{key}={value}" for key, value in widths.items() if key in named]
    lines = [*ACCELERATOR, *SIZES, *kwargs, f"checkpoint.dir={out}"]
    if dataset in ("imagenet100", "custom"):
        lines += [f"data.{split}_path={data / dataset / split}" for split in ("train", "val")]
        lines += [f"augmentations.{i}.crop_size={size}" for i, size in enumerate(_crops(path, recipe))]
    else:
        lines += [f"data.{split}_path={data}" for split in ("train", "val")]
    if recipe["data"].get("format") == "dali":
        # DALI is another accelerator; on the CPU it takes minutes to start, so one recipe shows that it works.
        lines.append("dali.device=cpu" if dataset == "custom" else "data.format=image_folder")
    if backbone.startswith("vit") and "img_size" in (recipe["backbone"].get("kwargs") or {}) and dataset != "cifar10":
        lines.append("backbone.kwargs.img_size=32")
    return lines


def _crops(path: Path, recipe: dict[str, Any]) -> list[int]:
    """32 px for the large crops, 16 px for the small ones."""
    (name,) = (entry["augmentations"] for entry in recipe["defaults"] if "augmentations" in entry)
    pipelines = yaml.safe_load((path.parent / "augmentations" / name).read_text())
    return [32 if p["crop_size"] == pipelines[0]["crop_size"] else 16 for p in pipelines]


def linear_overrides(path: Path, data: Path, out: Path) -> list[str]:
    """What makes a linear recipe short, and the weights that it is for."""
    recipe = yaml.safe_load(path.read_text())
    places = [f"data.{split}_path={data / recipe['data']['dataset'] / split}" for split in ("train", "val")]
    weights = save_weights(data / "pretrained.ckpt", recipe["backbone"]["name"], recipe["pretrain_method"])
    # 8 images are much of a ViT's 224 px for a CPU.
    return [
        *ACCELERATOR, *SIZES, *places, "optimizer.batch_size=4", f"checkpoint.dir={out}",
        f"pretrained_feature_extractor={weights}",
    ]  # fmt: skip


def save_weights(path: Path, backbone: str, method: str) -> Path:
    """A checkpoint of the edition's own scripts, without an ``args.json``: its network, its names."""
    prefix = "encoder" if edition() == "release" else "backbone"
    network = solo_backbones(method)[backbone]()
    state = {f"{prefix}.{name}": value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": {**state, "classifier.bias": torch.zeros(100)}, "epoch": 0}, path)
    return path


def run(path: Path, data: Path, out: Path) -> str:
    """``trains`` or the line that says why not."""
    said = io.StringIO()
    pretrains = "pretrain" in path.parts
    arguments = ["pretrain" if pretrains else "linear", "--config-path", str(path.parent), "--config-name", path.name]
    lines = (overrides if pretrains else linear_overrides)(path, data, out)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main([*arguments, *lines])
        except Exception as error:
            return f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "trains" if code == 0 else said.getvalue().strip().splitlines()[-1].removeprefix("solo-bam: error: ")


def table(checkout: Path, only: str = "") -> int:
    """Print a row per recipe; the number of those that neither train nor say why."""
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        data = Path(scratch)
        for name in ("CIFAR10", "CIFAR100"):
            cifar(data, name, patch)
        for split in ("train", "val"):
            folders(data / "imagenet100" / split, sorted(IMAGENET100), count=1)
            folders(data / "imagenet" / split, [f"n{number:08d}" for number in range(1000)], count=1)
            folders(data / "custom" / split, count=10)
        os.chdir(scratch)
        print("| recipe | edition | result | s |\n|---|---|---|---|")
        for folder in FOLDERS:
            for path in sorted((checkout / "scripts" / folder).glob("*.y*ml")):
                if only in str(path):
                    start = time.time()
                    result = run(path, data, data / "out")
                    failed += result.startswith("FAILS")
                    print(f"| {folder}/{path.name} | {edition()} | {result} | {time.time() - start:.0f} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(table(Path(sys.argv[1]).resolve(), *sys.argv[2:]), 1))
