"""``solo-bam pretrain`` on every kind of dataset, and on images that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.utilities import dim_zero_cat

from solo_bam.runs.folder import RunFolder
from solo_bam.solo_learn.knn_metric import WeightedKNNClassifier
from solo_bam.train.run import pretrain
from tests.cli.test_pretrain import stop_after
from tests.data.pictures import cifar, folders, h5_file, stl
from tests.recipes import tiny, tiny_overrides
from tests.zygote import Zygote

SMALL = ["data.fraction=-1", "optimizer.batch_size=10"]
ONE_CIFAR = {"cifar10": 4, "cifar100": 20}  # images a file that make twenty to train on


def _cifar(dataset: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> Path:
    return cifar(tmp_path / "data", dataset.upper(), patch, ONE_CIFAR[dataset])


def test_stl10_with_its_unlabelled_images(tmp_path: Path, monkeypatch: Any) -> None:
    """The online k-NN and head learn from the labelled images alone, and are evaluated on the test images."""
    root = stl(tmp_path / "data", monkeypatch)
    banks = []
    ordinary = WeightedKNNClassifier.compute

    def compute(self: Any) -> Any:
        banks.append(dim_zero_cat(self.train_targets))
        return ordinary(self)

    monkeypatch.setattr(WeightedKNNClassifier, "compute", compute)
    overrides = ["data.dataset=stl10", f"data.train_path={root}", *SMALL]
    metrics = pretrain(tiny(tmp_path / "runs", "digits/bam", *overrides)).metrics
    assert {"val_acc1", "val_knn_acc1", "train_class_loss_epoch"} <= set(metrics)
    assert all(value == value for value in metrics.values())  # no NaN
    assert len(banks) == 1
    assert len(banks[0]) == 40  # 20 labelled images, 2 crops
    assert banks[0].min() == 0


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "h5"])
def test_with_validation(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    if kind == "h5":
        train, val = h5_file(tmp_path / "train.h5"), h5_file(tmp_path / "val.h5")
        where = ["data.dataset=custom", "data.format=h5", f"data.train_path={train}", f"data.val_path={val}"]
    else:
        where = [f"data.dataset={kind}", f"data.train_path={_cifar(kind, tmp_path, monkeypatch)}"]
    metrics = pretrain(tiny(tmp_path / "runs", "digits/bam", *SMALL, *where)).metrics
    assert {"bam_loss_epoch", "val_acc1", "val_knn_acc1"} <= set(metrics)


@pytest.mark.parametrize(
    "kind", ["folders", "folders without labels", "h5", "h5 without labels", "cifar10 without labels"]
)
def test_without_validation_it_is_said(kind: str, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    if kind.startswith("cifar"):
        where = ["data.dataset=cifar10", f"data.train_path={_cifar('cifar10', tmp_path, monkeypatch)}"]
    else:
        make, form = (h5_file, "h5") if kind.startswith("h5") else (folders, "image_folder")
        where = ["data.dataset=custom", f"data.format={form}", f"data.train_path={make(tmp_path / 'train')}"]
    where.append(f"data.no_labels={'without' in kind}")
    metrics = pretrain(tiny(tmp_path / "runs", "digits/bam", *SMALL, *where)).metrics
    assert "No labelled validation set: the online linear head and k-NN are not evaluated." in caplog.text
    assert "bam_loss_epoch" in metrics
    assert not [key for key in metrics if key.startswith("val_") or "knn" in key]
    assert all(value == value for value in metrics.values())  # no NaN


def _broken(tmp_path: Path, *overrides: str) -> list[str]:
    """Overrides for 20 images of which two cannot be read."""
    train = folders(tmp_path / "train")
    (train / "a" / "003.png").write_bytes(b"")
    (train / "b" / "012.png").write_bytes(b"text")
    return ["data.dataset=custom", f"data.train_path={train}", *SMALL, *overrides]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_stops_the_run_with_one_line(workers: int, tmp_path: Path, zygote: Zygote) -> None:
    """Also from a loader process, and with nothing else on the way out."""
    arguments = tiny_overrides(tmp_path / "runs", *_broken(tmp_path, f"data.num_workers={workers}"))
    start = zygote.start(["pretrain", "--config-name", "digits/bam", *arguments], tmp_path / "output")
    assert start.wait(240) == 2, start.output.read_text()
    lines = start.output.read_text().splitlines()
    assert "Traceback" not in start.output.read_text()
    errors = [line for line in lines if "cannot be read" in line]
    assert errors == [lines[-1]]
    assert errors[0].startswith(f"solo-bam: error: data.train_path: {tmp_path}/train/")
    about = RunFolder(next((tmp_path / "runs" / "bam").iterdir())).record()
    assert about["status"] == "stopped"
    assert "cannot be read" in about["reason"]


def test_skipped_images_are_counted_and_named(tmp_path: Path, caplog: Any) -> None:
    train, val = tmp_path / "train", folders(tmp_path / "val")
    (val / "a" / "000.png").write_bytes(b"")
    overrides = _broken(tmp_path, "data.on_error=skip", f"data.val_path={val}")
    folder = pretrain(tiny(tmp_path / "runs", "digits/bam", *overrides)).folder
    assert folder.record()["results"]["unreadable_images"] == 3
    assert [row["unreadable_images"] for row in folder.metrics() if "unreadable_images" in row] == [3]
    names = f"{train}/a/003.png, {train}/b/012.png, {val}/a/000.png"
    assert f"3 unreadable image(s) were replaced by the next one: {names}" in caplog.text


def test_skipping_does_not_change_what_a_resumed_run_trains_on(tmp_path: Path, monkeypatch: Any) -> None:
    """Weights, metrics and the count are those of an unbroken run."""
    overrides = _broken(tmp_path, "data.on_error=skip", "max_epochs=2")
    whole = pretrain(tiny(tmp_path / "whole", "digits/bam", *overrides))
    recipe = tiny(tmp_path / "parts", "digits/bam", *overrides)
    stop_after(recipe, 1, monkeypatch)
    resumed = pretrain(recipe, resume=True)
    assert resumed.folder.metrics() == whole.folder.metrics()
    assert resumed.metrics["unreadable_images"] == whole.metrics["unreadable_images"] > 0
    a, b = (torch.load(run.folder.last_checkpoint, weights_only=True) for run in (whole, resumed))
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
