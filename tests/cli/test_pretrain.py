"""``solo-bam pretrain`` as a user runs it: logs, checkpoints, resuming, several processes."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from solo_bam import solo_learn
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.identity import changes
from solo_bam.runs.records import Record
from solo_bam.train.run import pretrain
from tests.recipes import METHODS, small_head, tiny, tiny_overrides
from tests.zygote import Zygote

RESUMED = ("bam", "bam_momentum", "byol", "dino")
# Queues, memories, clusters, random directions.
STATEFUL = ("all4one", "deepclusterv2", "lejepa", "lightly_momentum", "mocov2plus", "sce", "swav")


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    folder = pretrain(tiny(tmp_path)).folder.path
    assert folder.parent == tmp_path / "bam"
    assert folder.name.startswith("bam-digits-")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["method_kwargs"]["reg"] == 0.05
    about = json.loads((folder / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["seed"] == recipe["seed"] == 5
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert about["versions"]["solo-learn"].startswith("1.0.2" if solo_learn.edition() == "release" else "head")
    assert about["git"] is None or len(about["git"]["commit"]) == 40
    assert about["hardware"]["cores"] == os.cpu_count()
    assert about["results"]["val_knn_acc1"] > 0
    written = map(Record.model_validate, json.loads((folder / "evaluation" / "online.json").read_text()))
    records = {(r.protocol.kind, r.metric): r for r in written}
    assert records["linear", "accuracy"].value == about["results"]["val_acc1"]
    assert records["k-NN", "accuracy@5"].value == about["results"]["val_knn_acc5"]
    assert all(r.protocol.online and r.images == 360 and r.epoch == 1 for r in records.values())
    assert records["k-NN", "accuracy"].protocol.bank == "train, the last epoch's augmented crops"
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["bam_loss_step"]] == ["0.0", "1.0", "2.0", "3.0"]
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert (folder / "checkpoints" / "last.ckpt").resolve().name == "epoch=0.ckpt"
    assert not list(folder.rglob("*wandb*"))


@pytest.mark.pictures
def test_the_curves_are_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    picture = Image.open(pretrain(tiny(tmp_path)).folder.path / "curves.png")
    assert picture.width > 800
    without = pretrain(tiny(tmp_path, "digits/bam", "pictures=False", "seed=1")).folder.path
    assert not [*without.rglob("*.png")]


@pytest.mark.parametrize("frequency", [2, 5])
def test_the_last_epoch_is_always_kept(frequency: int, tmp_path: Path) -> None:
    folder = pretrain(tiny(tmp_path, "digits/bam", "max_epochs=3", f"checkpoint.frequency={frequency}")).folder
    assert torch.load(folder.last_checkpoint, weights_only=True)["global_step"] == 12


def test_a_second_run_does_not_touch_the_first(tmp_path: Path) -> None:
    first, second = pretrain(tiny(tmp_path)).folder.path, pretrain(tiny(tmp_path)).folder.path
    assert second.name == f"{first.name}-2"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_recipe_that_trains(name: str, tmp_path: Path) -> None:
    recipe = tiny(tmp_path, f"digits/{name}", *small_head(name))
    assert recipe.method == name
    trained = pretrain(recipe)
    assert {"train_class_loss_epoch", "val_acc1", "val_knn_acc1"} <= set(trained.metrics)
    assert all(math.isfinite(value) for value in trained.metrics.values())
    assert "collapsed_in" not in trained.folder.record()


def stop_after(recipe: Any, epochs: int, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Run until an epoch has begun, as if killed there."""
    import lightning.pytorch as pl

    from solo_bam.train.callbacks import EpochSeed

    class Killed(Exception):
        pass

    ordinary = EpochSeed.on_train_batch_start

    def kill(self: Any, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (epochs, 1):
            raise Killed
        ordinary(self, trainer, pl_module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(EpochSeed, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            pretrain(recipe)
    found = RunFolder.unfinished(recipe)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name", [*RESUMED, *(pytest.param(name, marks=pytest.mark.slow) for name in STATEFUL if name in METHODS)]
)
def test_resuming_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, rates, tau, reg and data order after a stop and ``--resume`` are those of an unbroken run."""
    overrides = ["max_epochs=3", "scheduler.warmup_epochs=1", "data.fraction=0.03", "optimizer.weight_decay_end=0.4"]
    if "bam" in name:
        overrides += ["method_kwargs.reg_final=0.1", "method_kwargs.reg_warmup_epochs=3"]
    if name not in RESUMED:
        overrides += small_head(name)
    whole = pretrain(tiny(tmp_path / "whole", f"digits/{name}", *overrides))
    recipe = tiny(tmp_path / "parts", f"digits/{name}", *overrides)
    stopped = stop_after(recipe, 2, monkeypatch)
    resumed = pretrain(recipe, resume=True)
    assert resumed.folder.path == stopped.path
    a, b = weights(whole.folder.last_checkpoint), weights(resumed.folder.last_checkpoint)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    assert resumed.folder.metrics() == whole.folder.metrics()
    assert RunFolder.unfinished(recipe) is None


def test_resume_from_checkpoint_starts_a_run_of_its_own(tmp_path: Path) -> None:
    first = pretrain(tiny(tmp_path, "digits/bam", "max_epochs=2"))
    checkpoint = first.folder.checkpoints / "epoch=0.ckpt"
    recipe = tiny(tmp_path, "digits/bam", "max_epochs=2", f"resume_from_checkpoint='{checkpoint}'")
    second = pretrain(recipe)
    assert second.folder.path != first.folder.path
    assert {row["epoch"] for row in second.folder.metrics() if "bam_loss_step" in row} == {1.0}


def test_lightning_may_overfit_to_the_first_batches(tmp_path: Path) -> None:
    trained = pretrain(tiny(tmp_path, "digits/bam", "overfit_batches=1", "max_epochs=2"))
    assert [row["epoch"] for row in trained.folder.metrics() if "bam_loss_step" in row] == [0.0, 1.0]


def test_a_key_that_did_not_exist_had_its_default(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    before = recipe.model_dump(mode="json")
    del before["performance"]["compile"], before["data"]["name"]
    assert changes(before, recipe) == {}
    before["performance"]["gradient_checkpointing"] = True
    assert changes(before, recipe) == {"performance.gradient_checkpointing": (True, False)}
    before["data"]["dataset"] = "a former one"  # not valid any more
    assert "data.dataset" in changes(before, recipe)


def test_another_recipe_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(tiny(tmp_path, "digits/bam", "max_epochs=2"), 1, monkeypatch)
    assert RunFolder.unfinished(tiny(tmp_path, "digits/bam", "max_epochs=2")) is not None
    assert RunFolder.unfinished(tiny(tmp_path, "digits/bam", "max_epochs=2", "seed=6")) is None
    assert RunFolder.unfinished(tiny(tmp_path, "digits/bam", "max_epochs=3")) is None


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path) -> None:
    runs = [pretrain(tiny(tmp_path, "digits/bam", f"seed={seed}")) for seed in (1, 1, 2)]
    assert runs[0].folder.metrics() == runs[1].folder.metrics()
    assert runs[0].metrics["bam_loss_epoch"] != runs[2].metrics["bam_loss_epoch"]


def test_without_validation_set_and_labels(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    from solo_bam.data.datasets.digits import digits_folder

    for path in list((digits_folder() / "val").rglob("*.png"))[:40]:
        shutil.copy(path, images)
    overrides = ["data.dataset=custom", f"data.train_path={images}", "data.no_labels=True", "data.fraction=-1"]
    metrics = pretrain(tiny(tmp_path / "runs", "digits/bam", *overrides)).metrics
    assert "bam_loss_epoch" in metrics
    assert not [key for key in metrics if key.startswith("val_") or "knn" in key]


def test_from_the_command_line_on_two_processes(tmp_path: Path, zygote: Zygote) -> None:
    """Both processes share one folder, the images, and ContrastiveCrop's boxes."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    arguments = [
        *tiny_overrides(tmp_path / "runs"),
        "devices=2",
        "optimizer.batch_size=8",
        "strategy=ddp",
        "max_epochs=3",
        "data.contrastive_crop.enabled=True",
        "data.contrastive_crop.interval=1",
        "augmentations.0.rrc.enabled=True",
        "backbone.name=test_vit",
        "backbone.kwargs.patch_size=4",
        "backbone.cifar_stem=null",
    ]
    start = zygote.start(["pretrain", "--config-name", "digits/bam_momentum", *arguments], tmp_path / "output")
    assert start.wait(240) == 0, start.output.read_text()
    runs = list((tmp_path / "runs" / "bam_momentum").iterdir())
    assert len(runs) == 1
    about = RunFolder(runs[0]).record()
    assert about["status"] == "finished"
    assert about["results"]["val_knn_acc1"] > 0
    assert f"Run: {runs[0]}" in start.output.read_text()
    checkpoint = torch.load(RunFolder(runs[0]).last_checkpoint, weights_only=True)
    boxes = checkpoint["callbacks"]["ContrastiveCropBoxes"]["boxes"]
    assert len(boxes) == 71
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    whole = (boxes == torch.tensor([0.0, 0.0, 1.0, 1.0])).all(1)
    assert whole.float().mean() < 0.5  # every process's images have got theirs


def test_half_precision(tmp_path: Path) -> None:
    assert (
        "bam_loss_epoch" in pretrain(tiny(tmp_path, "digits/bam", "precision=bf16-mixed", "data.fraction=0.02")).metrics
    )
