"""Operations on batches: with torchvision's decisions, torchvision's crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from solo_bam.config.schema import Augmentation
from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.augmentations import Crops
from solo_bam.data.transforms.decisions import pack
from solo_bam.data.transforms.draws import draw
from solo_bam.data.transforms.tensor_operations import crop, equalise, resize
from tests.data.pictures import OPERATIONS, photo

COUNT = 12


def both(image: Image.Image, size: int = 64, **settings: Any) -> tuple[Tensor, Tensor]:
    """Crops of an image by torchvision, and by ours with the same decisions, in levels of 255."""
    level = {"mean": [0] * 3, "std": [1 / 255] * 3}
    a = Augmentation(**{"crop_size": size, "num_crops": 1, "rrc": {"enabled": False}, **level, **settings})
    crops = Crops("custom", [a])
    ((pipeline, _),) = crops.pipelines
    theirs, drawn = [], []
    for i in range(COUNT):
        with seeded(1, 0, i):
            theirs.append(crops(image)[0])
        with seeded(1, 0, i):
            drawn.append([draw(transform, image, size) for transform in pipeline.transforms])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    rows, widths = pack([pipeline], [[np.array(d) for d in zip(*drawn)]], [0] * COUNT, pixels.shape[2:])
    return crop(pixels, torch.from_numpy(rows), widths, size), torch.stack(theirs)


@pytest.mark.parametrize("size", [(120, 90), (40, 40)], ids=["shrunk", "enlarged"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The same crop, pixel by pixel, to about a level of 255: PIL cuts off to bytes at every step, ours do not."""
    with Image.open(photo(tmp_path / "photo.png", size)) as image:
        ours, theirs = both(image, **OPERATIONS[name])
        plain, _ = both(image)
    assert ours.shape == theirs.shape == (COUNT, 3, 64, 64)
    assert (ours - theirs).abs().mean((1, 2, 3)).max() < (1.6 if "hue" in str(OPERATIONS[name]) else 1.0)
    assert (ours - theirs).mean().abs() < 1.2
    assert name == "resize" or (ours - plain).abs().mean() > 3


@pytest.mark.parametrize("chance", [0.0, 0.5])
def test_some_images_are_left_alone(chance: float, tmp_path: Path) -> None:
    with Image.open(photo(tmp_path / "photo.png")) as image:
        ours, theirs = both(image, horizontal_flip={"prob": chance}, gaussian_blur={"prob": chance})
    assert (ours - theirs).abs().mean((1, 2, 3)).max() < 1.2


def test_crops_are_mirrored_last(tmp_path: Path) -> None:
    turned: Any = OPERATIONS["affine"] | {"horizontal_flip": {"prob": 0.5}, "rrc": {"enabled": True}}
    with Image.open(photo(tmp_path / "photo.png")) as image:
        ours, theirs = both(image, **turned)
    assert (ours - theirs).abs().mean((1, 2, 3)).max() < 1.0


@pytest.mark.parametrize("contrast", [2.0, 0.0], ids=["hard edges", "one grey"])
def test_overshoot_is_cut_off_as_by_pil(contrast: float) -> None:
    """Bicubic weights are negative in places: black and white stay what they are."""
    noise = np.random.default_rng(0).integers(0, 2, (20, 20, 3)) * 255 * (contrast > 0) + 40 * (contrast == 0)
    ours, theirs = both(Image.fromarray(noise.astype(np.uint8)), size=32, rrc={"enabled": True})
    assert (ours - theirs).abs().max() < 3
    assert ours.min() >= 0
    assert ours.max() <= 255.001


def test_equalisation_is_exact() -> None:
    from PIL import ImageOps

    levels = np.random.default_rng(0).beta(2, 5, (8, 32, 32, 3)) * 255
    levels[0], levels[1, :16] = 7, 0  # nothing to do; half of it
    images = levels.astype(np.uint8)
    expected = np.stack([np.array(ImageOps.equalize(Image.fromarray(image))) for image in images])
    ours = equalise(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    assert np.array_equal(ours.round().permute(0, 2, 3, 1).numpy().astype(np.uint8), expected)


def test_a_box_of_one_pixel() -> None:
    x = torch.rand(2, 3, 8, 8)
    crops = resize(x, torch.tensor([[0.0, 0, 1, 1], [7, 7, 1, 1]])[..., None, None], 4)
    torch.testing.assert_close(crops[0], x[0, :, :1, :1].expand(3, 4, 4))
    torch.testing.assert_close(crops[1], x[1, :, 7:, 7:].expand(3, 4, 4))
