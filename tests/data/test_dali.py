"""The DALI loader: the torchvision loader's batches, on the CPU."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from solo_bam.config.schema import Augmentation
from solo_bam.core.errors import UserError
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.data.datasets.images import ArrayImages, Split
from solo_bam.data.loaders.dali import DaliLoader, check_dali, files_of
from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.augmentations import Crops
from solo_bam.data.transforms.draws import draw_all, sampled_sigma
from solo_bam.train.run import pretrain
from tests.cli.test_pretrain import stop_after, weights
from tests.data.loaders import data_of, epoch_of, loader_of, same
from tests.data.pictures import OPERATIONS, SMALL_CROPS, photo
from tests.recipes import tiny

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 'solo-bam[dali]'")

DALI = ("data.format=dali", "dali.device=cpu")
# ------------------------------------------------------------------------------------------ same crops


@pytest.mark.parametrize("crops", [(), (SMALL_CROPS,)], ids=["two crops", "multi-crop"])
def test_batches_are_the_torchvision_loaders(crops: tuple[str, ...], tmp_path: Path) -> None:
    ours = loader_of(tiny(tmp_path, "digits/bam", *crops, *DALI))
    theirs = loader_of(tiny(tmp_path, "digits/bam", *crops))
    assert isinstance(ours, DaliLoader)
    assert len(ours) == len(theirs) == 4
    for epoch in range(2):
        a, b = epoch_of(ours, epoch), epoch_of(theirs, epoch)
        assert len(a) == 4
        assert same(a, b, tolerance=0.06)  # 6 of 255 levels, in crops of 2 x 2 pixels
    if crops:
        assert [tuple(crop.shape) for crop in a[0][1]] == [(16, 3, 16, 16)] * 2 + [(16, 3, 8, 8)] * 3


def both(path: Path, count: int = 8, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of an image by both loaders, in levels of 255."""
    level = {"mean": [0] * 3, "std": [1 / 255] * 3}
    a = Augmentation(**{"crop_size": 64, "num_crops": 1, "rrc": {"enabled": False}, **level, **settings})
    crops = Crops("custom", [a])
    order = [(0, i) for i in range(count)]
    loader = DaliLoader(([str(path)] * count, [0] * count), crops.pipelines, order, 1, count, 0, "cpu")
    ((_, (ours,), _),) = list(loader)
    theirs = []
    for i in range(count):
        with seeded(1, 0, i), Image.open(path) as image:
            theirs.append(crops(image.convert("RGB"))[0])
    return ours, torch.stack(theirs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions(name: str, tmp_path: Path) -> None:
    """The same crop, pixel by pixel, to about a level of 255."""
    ours, theirs = both(photo(tmp_path / "photo.png"), **OPERATIONS[name])
    assert (ours - theirs).abs().mean((1, 2, 3)).max() < 1.0
    assert (ours - theirs).mean().abs() < 0.2
    plain, _ = both(tmp_path / "photo.png")
    assert name == "resize" or (ours - plain).abs().mean() > 3


@pytest.mark.parametrize(
    ("name", "saving"),
    [
        ("photo.jpg", {"quality": 90}),
        ("photo.bmp", {}),
        ("photo.webp", {"lossless": True}),
        ("photo.tif", {}),
        (
            "turned.jpg",
            {"quality": 90, "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
        ),
    ],
)
def test_files_are_decoded_as_by_pil(name: str, saving: dict[str, Any], tmp_path: Path) -> None:
    """A camera's note to turn the picture included: both ignore it."""
    path = photo(tmp_path / name, **saving)
    if "exif" in saving:
        assert Image.open(path).getexif()[0x0112] == 6
    ours, theirs = both(path, rrc={"enabled": True})
    assert (ours - theirs).abs().mean((1, 2, 3)).max() < 1.5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_grey_transparent_and_indexed_images(mode: str, tmp_path: Path) -> None:
    picture = Image.open(photo(tmp_path / "photo.png")).convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    picture.save(tmp_path / "other.png")
    ours, theirs = both(tmp_path / "other.png")
    assert (ours - theirs).abs().mean() < 1


# ------------------------------------------------------------------------------------- order and streams


def test_seed_and_epoch_alone_decide(tmp_path: Path) -> None:
    first = epoch_of(loader_of(tiny(tmp_path, "digits/bam", *DALI)), 0)
    again, other = (
        loader_of(tiny(tmp_path, "digits/bam", *DALI)),
        loader_of(tiny(tmp_path, "digits/bam", *DALI, "seed=6")),
    )
    torch.rand(3)
    assert same(first, epoch_of(again, 0))
    assert not same(first, epoch_of(again, 1))
    assert not same(first, epoch_of(other, 0))


def test_an_epoch_does_not_depend_on_those_before(tmp_path: Path) -> None:
    """As after a resume; nor on processes that read ahead."""
    running, resumed = loader_of(tiny(tmp_path, "digits/bam", *DALI)), loader_of(tiny(tmp_path, "digits/bam", *DALI))
    reading_ahead = loader_of(tiny(tmp_path, "digits/bam", *DALI, "data.num_workers=1"))
    epochs = [epoch_of(running, epoch) for epoch in range(3)]
    assert same(epochs[2], epoch_of(resumed, 2))
    assert all(same(epochs[epoch], epoch_of(reading_ahead, epoch)) for epoch in (1, 2))


def test_an_epoch_that_was_broken_off_leaves_nothing_behind(tmp_path: Path) -> None:
    loader = loader_of(tiny(tmp_path, "digits/bam", *DALI))
    expected = epoch_of(loader, 1)
    loader.sampler.set_epoch(0)
    assert len(list(itertools.islice(loader, 2))) == 2
    assert same(expected, epoch_of(loader, 1))


def test_taking_as_many_batches_as_there_are_ends_the_epoch(tmp_path: Path) -> None:
    """Lightning never asks for the batch after the last."""
    loader = loader_of(tiny(tmp_path, "digits/bam", *DALI))
    iterator = iter(loader)
    for _ in range(len(loader)):
        next(iterator)
    assert loader._pipe is not None  # kept for the next epoch
    assert next(iterator, None) is None


def test_an_image_is_seen_once_and_the_rest_dropped(tmp_path: Path) -> None:
    indexes = torch.cat([batch[0] for batch in epoch_of(loader_of(tiny(tmp_path, "digits/bam", *DALI)), 0)])
    assert len(indexes) == len(set(indexes.tolist())) == 64
    assert max(indexes) < 71


def test_processes_share_the_images_out(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", *DALI, "optimizer.batch_size=8")
    parts = [epoch_of(loader_of(recipe, rank, 2), 1) for rank in (0, 1)]
    a, b = ({int(i) for batch in part for i in batch[0]} for part in parts)
    assert len(a) == len(b) == 32
    assert not a & b


def test_labels_are_the_files(tmp_path: Path) -> None:
    data = data_of(tiny(tmp_path, "digits/bam", *DALI))
    paths, _ = files_of(data.train_set.dataset)
    for indexes, _, labels in data.train_dataloader():
        assert [int(Path(paths[i]).parent.name) for i in indexes] == labels.tolist()


# ------------------------------------------------------------------------------------------ whole runs


def unlabelled(folder: Path, count: int = 40) -> list[str]:
    folder.mkdir()
    for path in list((digits_folder() / "val").rglob("*.png"))[:count]:
        shutil.copy(path, folder)
    return ["data.dataset=custom", f"data.train_path={folder}", "data.no_labels=True", "data.fraction=-1"]


@pytest.mark.xfail(torch.__version__.startswith("2.7."), reason="0.8 % apart with the oldest versions; cause not known")
def test_pretraining(tmp_path: Path) -> None:
    """The first loss is the torchvision loader's: same weights, same crops."""
    runs = [pretrain(tiny(tmp_path, "digits/bam", "max_epochs=2", *more)) for more in ((), DALI)]
    a, b = ([row["bam_loss_step"] for row in run.folder.metrics() if "bam_loss_step" in row] for run in runs)
    assert len(a) == len(b) == 8
    assert a[0] == pytest.approx(b[0], rel=5e-3)
    assert runs[1].metrics.keys() == runs[0].metrics.keys()
    assert runs[1].metrics["val_knn_acc1"] > 0


def test_pretraining_without_labels_and_validation_set(tmp_path: Path) -> None:
    overrides = unlabelled(tmp_path / "images")
    recipe = tiny(tmp_path / "runs", "digits/bam", *overrides, *DALI)
    (_, _, labels), *_ = loader_of(recipe)
    assert (labels == -1).all()
    metrics = pretrain(recipe).metrics
    assert "bam_loss_epoch" in metrics
    assert not [key for key in metrics if key.startswith("val_")]


def test_resuming_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["max_epochs=3", "data.fraction=0.03", *DALI]
    whole = pretrain(tiny(tmp_path / "whole", "digits/bam", *overrides))
    recipe = tiny(tmp_path / "parts", "digits/bam", *overrides)
    stop_after(recipe, 2, monkeypatch)
    resumed = pretrain(recipe, resume=True)
    a, b = weights(whole.folder.last_checkpoint), weights(resumed.folder.last_checkpoint)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert resumed.folder.metrics() == whole.folder.metrics()


# ---------------------------------------------------------------------------------------------- errors


def test_images_that_are_no_files() -> None:
    arrays = ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), "memory")
    split = Split(arrays, np.zeros(2, np.int64), ["a"], Path("cifar"), "data.train_path")
    with pytest.raises(UserError, match=r"data.format: got 'dali', which reads image files, and cifar holds none"):
        files_of(split(lambda image: image))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    for i in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"nothing")
    where = ["data.dataset=custom", f"data.train_path={tmp_path}", "data.no_labels=True", "data.fraction=-1"]
    recipe = tiny(tmp_path / "runs", "digits/bam", *DALI, *where, "optimizer.batch_size=8")
    with pytest.raises(UserError, match=r"data.train_path: .*/3.png cannot be read"):
        pretrain(recipe)


def test_an_operation_that_dali_lacks(tmp_path: Path) -> None:
    strange = [(T.Compose([T.RandomResizedCrop(8), T.RandomErasing()]), 1)]
    with pytest.raises(UserError, match=r"data.format: got 'dali', which has no RandomErasing; remove it or"):
        check_dali(tiny(tmp_path, "digits/bam", *DALI), strange)


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"dali.device: got 'gpu', this machine has none .*; set dali.device=cpu"):
        check_dali(tiny(tmp_path, "digits/bam", "data.format=dali"), [])


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (200, r"data.train_path: DALI failed .*; try solo-bam doctor --data RECIPE"),
        (3, r"broken.png cannot be read \(its format is not recognised\); replace"),
    ],
)
def test_an_image_that_cannot_be_decoded(kept: int, message: str, tmp_path: Path) -> None:
    overrides = unlabelled(tmp_path / "images", count=20)
    victim = photo(tmp_path / "images" / "broken.png")
    victim.write_bytes(victim.read_bytes()[:kept])
    recipe = tiny(tmp_path / "runs", "digits/bam", *overrides, *DALI, "optimizer.batch_size=21")
    with pytest.raises(UserError, match=message) as caught:
        list(loader_of(recipe))
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------- draws


def test_decisions_need_no_pixels(tmp_path: Path) -> None:
    """They are the same from a file's header, a decoded image and a blank one of its size."""
    path = photo(tmp_path / "photo.jpg")
    pipelines = Crops("custom", tiny(tmp_path, "digits/bam", SMALL_CROPS).augmentations).pipelines
    taken = []
    for image in (Image.open(path), Image.open(path).convert("RGB"), Image.new("RGB", (120, 90))):
        with seeded(3):
            taken.append(draw_all(pipelines, image))
    assert taken[0].shape == (2 * (4 + 1) + 3 * 4,)
    assert np.array_equal(taken[0], taken[1])
    assert np.array_equal(taken[0], taken[2])


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 2.0])
def test_a_sampled_gaussian_keeps_its_deviation(sigma: float) -> None:
    places = np.arange(-20, 21)
    weights = np.exp(-(places**2) / (2 * sampled_sigma(sigma) ** 2))
    assert np.sqrt((weights * places**2).sum() / weights.sum()) == pytest.approx(sigma, rel=0.02)


def test_without_dali_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        UserError, match=r"data.format: got 'dali', DALI is not installed; pip install 'solo-bam\[dali\]'"
    ):
        check_dali(tiny(tmp_path, "digits/bam", *DALI), [])
