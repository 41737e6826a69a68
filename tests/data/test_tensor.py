"""The tensor loader: the same images in the same order as torchvision's, decoded once, augmented in batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.data import PretrainData, find_source
from solo_bam.data.loaders.tensor import TensorImages, TensorLoader, check_memory, check_tensor
from solo_bam.train.run import pretrain
from tests.cli.test_pretrain import stop_after, weights
from tests.data.loaders import data_of, epoch_of, loader_of, same
from tests.data.pictures import SMALL_CROPS, cifar, folders, picture, stl
from tests.recipes import tiny

TENSOR = "data.format=tensor"
CROPPED = "+augmentations=[{crop_size:16,num_crops:2,rrc:{crop_min_scale:0.25},color_jitter:{prob:0.8,hue:0.2}}]"


def of_folder(folder: Path, *overrides: str) -> Any:
    """A recipe of a folder of class folders."""
    data = ["data.dataset=custom", f"data.train_path={folder}", "data.fraction=-1", "optimizer.batch_size=4", TENSOR]
    return tiny(folder / "runs", "digits/bam", *data, *overrides)


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("crops", [(), (SMALL_CROPS,)], ids=["two crops", "multi-crop"])
def test_batches_are_laid_out_as_the_torchvision_loaders(crops: tuple[str, ...], tmp_path: Path) -> None:
    ours = loader_of(tiny(tmp_path, "digits/bam", *crops, TENSOR))
    theirs = loader_of(tiny(tmp_path, "digits/bam", *crops))
    assert isinstance(ours, TensorLoader)
    assert len(ours) == len(theirs) == 4
    for epoch in range(2):
        assert same(epoch_of(ours, epoch), epoch_of(theirs, epoch), tolerance=np.inf)  # all but the crops themselves
    if crops:
        (_, made, _), *_ = ours
        assert [tuple(crop.shape) for crop in made] == [(16, 3, 16, 16)] * 2 + [(16, 3, 8, 8)] * 3


def test_without_random_operations_they_are_the_same(tmp_path: Path) -> None:
    plain = "+augmentations=[{crop_size:16,num_crops:2,rrc:{enabled:False}}]"
    ours, theirs = (epoch_of(loader_of(tiny(tmp_path, "digits/bam", plain, *more)), 1) for more in ([TENSOR], []))
    assert same(ours, theirs, tolerance=0.006)  # half a level


def test_crops_differ_between_views_images_and_epochs(tmp_path: Path) -> None:
    loader = loader_of(tiny(tmp_path, "digits/bam", TENSOR))
    (indexes, (first, second), _), *_ = epoch_of(loader, 0)
    assert (first - second).abs().mean((1, 2, 3)).min() > 0.01
    (again,) = (crops[0][0] for crops in [loader.crops(1, [int(indexes[0])])])
    assert (again - first[0]).abs().mean() > 0.01


def test_seed_epoch_and_image_alone_decide(tmp_path: Path) -> None:
    """Neither the batch that an image is in, nor what was drawn before."""
    first = epoch_of(loader_of(tiny(tmp_path, "digits/bam", CROPPED, TENSOR)), 2)
    again = loader_of(tiny(tmp_path, "digits/bam", CROPPED, TENSOR))
    torch.rand(3)
    assert same(first, epoch_of(again, 2))
    assert not same(first, epoch_of(again, 1))
    assert not same(first, epoch_of(loader_of(tiny(tmp_path, "digits/bam", CROPPED, TENSOR, "seed=6")), 2))
    (indexes, crops, _), *_ = first
    alone = again.crops(2, indexes[5:6].tolist())
    for whole, one in zip(crops, alone):
        torch.testing.assert_close(whole[5:6], one)


def test_an_epoch_goes_on_in_its_middle(tmp_path: Path) -> None:
    data = data_of(tiny(tmp_path, "digits/bam", TENSOR))
    loader: Any = data.train_dataloader()
    whole = epoch_of(loader, 3)
    data.start_at(2)
    assert same(whole[2:], epoch_of(loader, 3))
    assert same(whole, epoch_of(loader, 3))  # that one time only


def test_an_image_is_seen_once_and_the_rest_dropped(tmp_path: Path) -> None:
    loader = loader_of(tiny(tmp_path, "digits/bam", TENSOR))
    assert len(loader.dataset) == 71  # DeepCluster v2 asks
    indexes = torch.cat([batch[0] for batch in epoch_of(loader, 0)])
    assert len(indexes) == len(set(indexes.tolist())) == 64
    assert max(indexes) < 71


def test_processes_share_the_images_out(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", TENSOR, "optimizer.batch_size=8")
    parts = [epoch_of(loader_of(recipe, rank, 2), 1) for rank in (0, 1)]
    a, b = ({int(i) for batch in part for i in batch[0]} for part in parts)
    assert len(a) == len(b) == 32
    assert not a & b


# ------------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_decoded_once(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solo_bam.data.loaders.tensor._READ", 8)
    images = PretrainData(
        of_folder(folders(tmp_path), f"data.num_workers={workers}"), find_source(of_folder(tmp_path).data)
    ).train_set
    assert isinstance(images, TensorImages)
    assert images.pixels.dtype == torch.uint8
    expected = np.stack([np.array(picture(i)) for i in range(20)])
    assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), expected)
    assert images.labels.tolist() == [0] * 10 + [1] * 10


def test_cifar_and_stl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Callable[[], Path]] = {
        "cifar10": lambda: cifar(tmp_path / "cifar", "CIFAR10", monkeypatch),
        "stl10": lambda: stl(tmp_path / "stl", monkeypatch),
    }
    for name, make in made.items():
        folder = make()
        where = [f"data.dataset={name}", f"data.train_path={folder}", f"data.val_path={folder}", "data.fraction=-1"]
        recipe = tiny(tmp_path / "runs", "cifar/bam", *where, TENSOR, "augmentations.1.crop_size=16")
        (indexes, crops, labels), *_ = loader_of(recipe)
        source = find_source(recipe.data)
        assert labels.tolist() == source.train.targets[indexes.numpy()].tolist()
        assert [tuple(crop.shape) for crop in crops] == [(16, 3, 16, 16)] * 2
        images = PretrainData(recipe, source).train_set
        assert np.array_equal(images[3][0].permute(1, 2, 0).numpy(), np.array(source.train.reader.open(3)))


def test_images_without_labels(tmp_path: Path) -> None:
    folders(tmp_path)
    (_, _, labels), *_ = loader_of(of_folder(tmp_path, "data.no_labels=True"))
    assert (labels == -1).all()


def test_an_unreadable_image(tmp_path: Path) -> None:
    (folders(tmp_path) / "a" / "003.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"data.train_path: .*003.png cannot be read"):
        loader_of(of_folder(tmp_path))
    data = data_of(of_folder(tmp_path, "data.on_error=skip"))
    assert torch.equal(data.train_set[3][0], data.train_set[4][0])
    assert [Path(name).name for name in data.unreadable_names()] == ["003.png"]


# ------------------------------------------------------------------------------------------------ errors


def test_images_of_several_sizes(tmp_path: Path) -> None:
    picture(5, size=20).save(folders(tmp_path) / "b" / "015.png")
    message = (
        r"data.format: got 'tensor', which takes images of one size: .*015.png is 20 x 20, the first 12 x 12; resize"
    )
    with pytest.raises(UserError, match=message):
        loader_of(of_folder(tmp_path))


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path)
    monkeypatch.setattr(hardware, "free_memory", lambda: 20 * 12 * 12 * 3 - 1)
    message = r"data.format: got 'tensor', 20 images of 12 x 12 take 0.0 GiB, there are 0.0 free; set data.format=image_folder"
    with pytest.raises(UserError, match=message):
        loader_of(of_folder(tmp_path))
    monkeypatch.setattr(hardware, "free_memory", lambda: 20 * 12 * 12 * 3)
    loader_of(of_folder(tmp_path))
    monkeypatch.setattr(hardware, "free_memory", lambda: None)
    loader_of(of_folder(tmp_path))


def test_too_little_memory_in_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        total_memory = 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Small)
    monkeypatch.setattr(hardware, "free_memory", lambda: 2**40)
    check_memory(10_000, (96, 96, 3), "cuda")
    with pytest.raises(UserError, match=r"100,000 images of 96 x 96 take 2.6 GiB, there are 1.0 in a GPU"):
        check_memory(100_000, (96, 96, 3), "cuda")


def test_free_memory_is_what_the_machine_and_the_container_have(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/meminfo": ["MemTotal: 9000 kB", "MemAvailable:    5000 kB"]}
    monkeypatch.setattr(hardware, "_lines", lambda path: files.get(path, []))
    assert hardware.free_memory() == 5000 * 1024
    files |= {"/sys/fs/cgroup/memory.max": ["max\n"], "/sys/fs/cgroup/memory.current": ["1000\n"]}
    assert hardware.free_memory() == 5000 * 1024
    files["/sys/fs/cgroup/memory.max"] = ["4000\n"]
    assert hardware.free_memory() == 3000
    files.clear()
    assert hardware.free_memory() is None


def test_contrastive_crop_is_refused(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", CROPPED, TENSOR, "data.contrastive_crop.enabled=True")
    with pytest.raises(
        UserError, match=r"data.contrastive_crop.enabled: got True, data.format=tensor crops without boxes"
    ):
        pretrain(recipe)
    assert not list(tmp_path.iterdir())


def test_an_operation_that_it_lacks() -> None:
    from torchvision import transforms as T

    with pytest.raises(UserError, match=r"got 'tensor', which has no RandomErasing"):
        check_tensor([(T.Compose([T.RandomErasing()]), 1)])


# ------------------------------------------------------------------------------------------------ whole runs


def test_resuming_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BAM, two steps an epoch; one run is killed in its second epoch."""
    overrides = ["max_epochs=2", "data.fraction=0.03", CROPPED, TENSOR]
    whole = pretrain(tiny(tmp_path / "whole", "digits/bam", *overrides))
    assert len([row for row in whole.folder.metrics() if "bam_loss_step" in row]) == 4
    recipe = tiny(tmp_path / "parts", "digits/bam", *overrides)
    stop_after(recipe, 1, monkeypatch)
    resumed = pretrain(recipe, resume=True)
    a, b = weights(whole.folder.last_checkpoint), weights(resumed.folder.last_checkpoint)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert resumed.folder.metrics() == whole.folder.metrics()
