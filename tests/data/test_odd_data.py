"""Data in layouts and shapes that people have: told before anything is written, and in no more memory than needed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from PIL import Image
from torchvision import transforms as T

from solo_bam.config.schema import Augmentation
from solo_bam.core.errors import UserError
from solo_bam.data import find_source
from solo_bam.data.transforms.augmentations import middle, plain_view
from tests.data.pictures import encoded, folders, picture
from tests.recipes import tiny


def _custom(path: Path, *more: str) -> object:
    return find_source(tiny(path.parent, "digits/bam", "data.dataset=custom", f"data.train_path={path}", *more).data)


def _splits(file: h5py.File) -> None:
    for i in range(3):
        file[f"train/a/{i}"] = np.frombuffer(encoded(i), np.uint8)


def _decoded(file: h5py.File) -> None:
    file["a/0"] = np.zeros((16, 16, 3), np.uint8)


def _one_array_a_class(file: h5py.File) -> None:
    images = file.create_group("a").create_dataset("images", (2,), dtype=h5py.vlen_dtype(np.uint8))
    for i in range(2):
        images[i] = np.frombuffer(encoded(i), np.uint8)


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (_splits, "x.h5:train/a is a group, not an encoded image"),
        (_decoded, r"x.h5:a/0 is an array of uint8 and shape \(16, 16, 3\)"),
        (_one_array_a_class, r"x.h5:a/images is an array of object and shape \(2,\)"),
    ],
)
def test_other_layouts_of_hdf5(fill: object, told: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        fill(file)  # type: ignore[operator]
    with pytest.raises(UserError, match=rf"data.train_path: .*{told}"):
        _custom(tmp_path / "x.h5", "data.format=h5")


def test_images_beside_class_folders_are_told(tmp_path: Path) -> None:
    path = folders(tmp_path / "train", ["only"], 3)
    for i in range(4):
        picture(i).save(path / f"loose{i}.png")
    with pytest.warns() as found:
        source = _custom(path)
    said = "\n".join(str(one.message) for one in found if one.category is not PossibleUserWarning)
    assert "data.train_path: 4 images lie beside the class folders" in said
    assert "loose0.png" in said
    assert "data.no_labels=True" in said
    assert "one class (only)" in said
    assert len(source.train) == 3  # type: ignore[attr-defined]


def test_a_strip_is_cut_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    ordinary = T.Resize.forward
    monkeypatch.setattr(T.Resize, "forward", lambda self, image: sizes.append(image.size) or ordinary(self, image))
    for size in ((3000, 2), (2, 3000)):
        assert plain_view("custom", Augmentation(crop_size=224, num_crops=2))(Image.new("RGB", size)).shape[1:] == (
            224,
            224,
        )
    assert sizes == [(32, 2), (2, 32)]


@pytest.mark.parametrize("size", [(32, 32), (500, 375), (320, 20), (20, 320)])
def test_other_images_are_not_cut(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    assert middle(image) is image


def test_the_middle_is_the_middle() -> None:
    pixels = torch.arange(100).repeat(2, 1).to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    assert np.asarray(middle(image))[0].tolist() == list(range(34, 66))
