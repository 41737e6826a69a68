"""ContrastiveCrop in training: whose heat maps, when, on several processes, and after a restart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from solo_bam.backbones import create_backbone
from solo_bam.core.errors import UserError
from solo_bam.data.transforms.contrastive_crop import BoxSchedule, boxes_from_heat, whole_images
from solo_bam.train.callbacks.contrastive_crop import ContrastiveCropBoxes, compute_boxes
from solo_bam.train.run import pretrain
from tests import processes
from tests.cli.test_pretrain import stop_after, weights
from tests.data.test_contrastive_crop import ON
from tests.recipes import tiny

EPOCHS = ["max_epochs=4", "data.fraction=0.03", "checkpoint.frequency=3", "method_kwargs.proj_hidden_dim=32", *ON]
VIT = [
    "backbone.name=vit_tiny_patch16_224", "backbone.kwargs={patch_size: 4, depth: 2, embed_dim: 48, num_heads: 3}",
    "backbone.cifar_stem=null", "data.contrastive_crop.box_threshold=0.85",
]  # fmt: skip
RESNET = ["augmentations.0.crop_size=64", "data.contrastive_crop.box_threshold=0.6"]


class Images(torch.utils.data.Dataset[Any]):
    """Seeded random images with a bright square somewhere."""

    def __init__(self, count: int):
        self.pixels = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        for i in range(count):
            self.pixels[i, :, i % 20 : i % 20 + 8, (7 * i) % 20 : (7 * i) % 20 + 8] += 4

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], 0


def _network() -> nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet18", cifar_stem=True).eval()


def _boxes() -> np.ndarray:
    return compute_boxes(_network(), Images(11), 0.3, batch_size=4).numpy()


def test_two_processes_give_the_boxes_of_one() -> None:
    expected = _boxes()
    assert len(np.unique(expected, axis=0)) > 5
    for boxes in processes.run(2, _boxes):
        np.testing.assert_allclose(boxes, expected, atol=1 / 32 + 1e-6)  # a pixel: batches are summed in another order
        assert (boxes == expected).mean() > 0.9


def test_each_image_has_its_own_box() -> None:
    from solo_bam.backbones import heat_map

    expected = [boxes_from_heat(heat_map(_network(), image[None]), 32, 32, 0.3)[0].tolist() for image, _ in Images(5)]
    np.testing.assert_allclose(compute_boxes(_network(), Images(5), 0.3, batch_size=2), expected, atol=1 / 32 + 1e-6)


def _callback(count: int = 6) -> ContrastiveCropBoxes:
    return ContrastiveCropBoxes(whole_images(count), Images(count), BoxSchedule(1, 0), 0.3, batch_size=4)


def _trainer(folder: Path, epoch: int = 1) -> Any:
    return SimpleNamespace(current_epoch=epoch, max_epochs=4, is_global_zero=True, default_root_dir=folder)


def test_the_teacher_looks_where_there_is_one(tmp_path: Path) -> None:
    student, teacher = _network(), create_backbone("resnet18", cifar_stem=True)
    found = {}
    for name, module in {
        "student": SimpleNamespace(backbone=student),
        "both": SimpleNamespace(backbone=student, momentum_backbone=teacher),
    }.items():
        callback = _callback()
        teacher.train()
        callback.update(_trainer(tmp_path), module)  # type: ignore[arg-type]
        assert teacher.training
        found[name] = callback.boxes.clone()
    expected = compute_boxes(teacher.eval(), Images(6), 0.3, 4)
    assert torch.equal(found["both"], expected)
    assert not torch.equal(found["student"], expected)


def test_boxes_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    callback = _callback(20)
    callback.update(_trainer(tmp_path, epoch=3), SimpleNamespace(backbone=_network()))  # type: ignore[arg-type]
    assert Image.open(tmp_path / "boxes" / "epoch=3.png").width > 500


def test_state_is_tensors_once_there_is_any(tmp_path: Path) -> None:
    callback = _callback()
    assert callback.state_dict() == {}
    callback.update(_trainer(tmp_path), SimpleNamespace(backbone=_network()))  # type: ignore[arg-type]
    torch.save(callback.state_dict(), tmp_path / "state")
    another = _callback()
    shared = another.boxes.data_ptr()
    another.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(another.boxes, callback.boxes)
    assert another.boxes.data_ptr() == shared
    assert another.boxes.is_shared()
    with pytest.raises(UserError, match="resume_from_checkpoint: its boxes are of 6 images, the training set has 5"):
        _callback(5).load_state_dict(callback.state_dict())


@pytest.mark.parametrize(("epoch", "computed"), [(1, False), (2, True)])
def test_a_checkpoint_without_boxes_gets_them(epoch: int, computed: bool, tmp_path: Path) -> None:
    callback = _callback()
    callback.on_train_start(_trainer(tmp_path, epoch), SimpleNamespace(backbone=_network()))  # type: ignore[arg-type]
    assert callback.updated is computed


@pytest.mark.parametrize(("name", "backbone"), [("bam_momentum", VIT), ("byol", RESNET)])
def test_resuming_changes_nothing(name: str, backbone: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """Boxes are computed after epochs 1 and 2; the run stops after 2, where crops depend on them."""
    overrides = [*EPOCHS, *backbone]
    whole = pretrain(tiny(tmp_path / "whole", f"digits/{name}", *overrides))
    recipe = tiny(tmp_path / "parts", f"digits/{name}", *overrides)
    stop_after(recipe, 3, monkeypatch)
    resumed = pretrain(recipe, resume=True)
    a, b = weights(whole.folder.last_checkpoint), weights(resumed.folder.last_checkpoint)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert resumed.folder.metrics() == whole.folder.metrics()
    states = torch.load(resumed.folder.last_checkpoint, weights_only=True)["callbacks"]
    assert len(states["ContrastiveCropBoxes"]["boxes"].unique(dim=0)) > 5
    assert [row["epoch"] for row in whole.folder.metrics() if "box_area" in row] == [1, 2]


def test_boxes_change_the_crops_only_once_they_are_used(tmp_path: Path) -> None:
    small = [*EPOCHS, *VIT]
    boxed = pretrain(tiny(tmp_path, "digits/bam", *small)).folder.metrics()
    plain = pretrain(tiny(tmp_path, "digits/bam", *small, "data.contrastive_crop.enabled=False")).folder.metrics()
    losses = [[row["bam_loss_step"] for row in rows if "bam_loss_step" in row] for rows in (boxed, plain)]
    assert losses[0][:4] == losses[1][:4]  # epochs 0 and 1
    assert losses[0][4] != losses[1][4]
