"""``solo-bam doctor --loaders`` with ``data.format=tensor``: it agrees with the loader as it is, and finds it broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from solo_bam.cli import main
from solo_bam.core.hardware import Devices
from solo_bam.data.loaders import parity
from solo_bam.data.loaders.tensor import TensorImages
from solo_bam.data.transforms import batch_draws
from tests.data.pictures import cifar
from tests.recipes import tiny

pytest.importorskip("kornia", reason="kornia is not installed: pip install 'solo-bam[tensor]'")

from solo_bam.data.transforms import tensor_operations

ALL = (
    "+augmentations=[{crop_size:16,num_crops:1,rrc:{crop_min_scale:0.25},color_jitter:{prob:0.8,brightness:0.4,"
    "contrast:0.4,saturation:0.2,hue:0.1},grayscale:{prob:0.2},gaussian_blur:{prob:0.5},solarization:{prob:0.2},"
    "equalization:{prob:0.2},horizontal_flip:{prob:0.5}},{crop_size:12,num_crops:2,rrc:{enabled:False},"
    "affine:{prob:0.5,degrees:30,translate:0.2}}]"
)
JITTER = (
    "+augmentations=[{crop_size:16,num_crops:2,rrc:{enabled:False},color_jitter:{prob:0.8,brightness:0.4,hue:0.4}}]"
)
CROP = "+augmentations=[{crop_size:16,num_crops:2,rrc:{crop_min_scale:0.25}}]"


def differing(tmp_path: Path, *overrides: str) -> list[str]:
    recipe = tiny(tmp_path, "digits/bam", "data.format=tensor", *overrides)
    return [row.name for row in parity.compare(recipe, 512) if not row.ok]


def test_crops_are_made_where_the_run_would_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has shapes and no data."""
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path)
    places: list[str] = []

    def loader(images: TensorImages, *_: Any) -> list[Any]:
        places.append(images.pixels.device.type)
        return [(0, (torch.zeros(1, 3, 16, 16),), 0)]

    monkeypatch.setattr(parity, "find_devices", lambda accelerator, devices: Devices("meta", 1, 1))
    monkeypatch.setattr(parity, "TensorLoader", loader)
    recipe = tiny(tmp_path, "digits/bam", "data.format=tensor")
    parity._tensor(recipe)([path], recipe.augmentations[0])
    assert places == ["meta"]


def test_the_loaders_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Over images that are no files, too."""
    where = ["data.dataset=cifar10", f"data.train_path={cifar(tmp_path, 'CIFAR10', monkeypatch)}"]
    assert main(["doctor", "--loaders", "digits/bam", "data.format=tensor", ALL, *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +torchvision +tensor +difference +tolerance", lines[0])
    assert lines[-1] == f"{len(lines) - 2} figures of 1024 crops each, seed 5, data.format tensor on cpu: all agree"
    assert not [line for line in lines if "same crops" in line]
    for operation in ("crop: area, mean", "equalization: probability"):
        assert any(f"augmentations.0 {operation}" in line for line in lines)


def small(t: Any, u: Any, height: int, width: int) -> Any:
    """Crops of at most a quarter of the image."""
    boxes = ordinary_boxes(t, u, height, width)
    boxes[:, 2:] = (boxes[:, 2:] / 2).round()
    return boxes


ordinary_boxes = batch_draws._boxes


@pytest.mark.parametrize(
    ("crops", "module", "name", "broken", "expected"),
    [
        (CROP, batch_draws, "_boxes", small, r"crop: area, mean"),
        (JITTER, tensor_operations, "jitter", lambda x, d: x, r"color_jitter: probability"),
        (JITTER, tensor_operations, "turn_hue", lambda x, shares: x, r"color_jitter: mean change"),
    ],
)
def test_what_is_broken_is_reported(
    crops: str, module: Any, name: str, broken: Any, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    found = differing(tmp_path, crops)
    assert [row for row in found if re.search(expected, row)], found
