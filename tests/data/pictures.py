"""Small datasets in the layouts that users have, of random pictures."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from solo_bam.data.datasets import downloads

SMALL_CROPS = (
    "+augmentations=[{crop_size:16,num_crops:2,rrc:{crop_min_scale:0.25},horizontal_flip:{prob:0.5}},"
    "{crop_size:8,num_crops:3,rrc:{crop_min_scale:0.05,crop_max_scale:0.25}}]"
)

OPERATIONS: dict[str, dict[str, Any]] = {
    "resize": {},
    "crop": {"rrc": {"enabled": True}},
    "small crop": {"rrc": {"enabled": True, "crop_min_scale": 0.05, "crop_max_scale": 0.25}},
    "affine": {"affine": {"prob": 1, "degrees": 20, "translate": 0.1, "scale": [0.8, 1.2], "shear": 10}},
    "brightness": {"color_jitter": {"prob": 1, "brightness": 0.8}},
    "contrast": {"color_jitter": {"prob": 1, "contrast": 0.8}},
    "saturation": {"color_jitter": {"prob": 1, "saturation": 0.8}},
    "hue": {"color_jitter": {"prob": 1, "hue": 0.5}},
    "jitter": {"color_jitter": {"prob": 1, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}},
    "grayscale": {"grayscale": {"prob": 1}},
    "blur": {"gaussian_blur": {"prob": 1}},
    "solarization": {"solarization": {"prob": 1}},
    "equalization": {"equalization": {"prob": 1}},
    "flip": {"horizontal_flip": {"prob": 1}},
}


def picture(number: int, size: int = 12) -> Image.Image:
    """A picture of noise, another for each number."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8))


def photo(path: Path, size: tuple[int, int] = (120, 90), **saving: Any) -> Path:
    """A real photograph, cut down."""
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("china.jpg")).resize(size).save(path, **saving)
    return path


def encoded(number: int, form: str = "PNG") -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    picture(number).save(stream, form)
    return stream.getvalue()


def folders(root: Path, classes: Sequence[str] = ("a", "b"), count: int = 10) -> Path:
    """``root/<class>/<number>.png``, numbered through."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{c * count + i:03d}.png").write_bytes(encoded(c * count + i))
    return root


def h5_file(path: Path, classes: Sequence[str] = ("a", "b"), count: int = 10) -> Path:
    """The same pictures as :func:`folders` in solo-learn's layout."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for c, name in reversed(list(enumerate(classes))):
            group = file.create_group(name)
            for i in range(count):
                number = c * count + i
                group.create_dataset(f"{number:03d}.png", data=np.frombuffer(encoded(number), dtype=np.uint8))
    return path


def cifar(root: Path, name: str, patch: pytest.MonkeyPatch, count: int = 40) -> Path:
    """CIFAR-10 or -100 of noise with labels 0, 1, 2, …; torchvision is told the MD5 sums of its files."""
    cls = getattr(torchvision.datasets, name)
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    labels, classes = ("labels", 10) if name == "CIFAR10" else ("fine_labels", 100)
    for number, (file, _) in enumerate([*cls.train_list, *cls.test_list]):
        pixels = np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": pixels, labels: [i % classes for i in range(count)]}))
    (folder / cls.meta["filename"]).write_bytes(pickle.dumps({cls.meta["key"]: [f"c{i:02d}" for i in range(classes)]}))
    patch.setattr(cls, "meta", {**cls.meta, "md5": _md5(folder / cls.meta["filename"])})
    _know_sums(cls, folder, patch)
    return root


def stl(root: Path, patch: pytest.MonkeyPatch, count: int = 20, unlabelled: int = 30) -> Path:
    """STL-10 of noise: training images with labels 1 to 10, unlabelled and test images."""
    cls = torchvision.datasets.STL10
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    for number, (part, images) in enumerate({"train": count, "unlabeled": unlabelled, "test": count}.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (images, 3, 96, 96), dtype=np.uint8)
        (folder / f"{part}_X.bin").write_bytes(pixels.tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(images)))
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    _know_sums(cls, folder, patch)
    return root


def packed(root: Path, name: str, patch: pytest.MonkeyPatch) -> Path:
    """The dataset's archive in the place of its folder."""
    cls = getattr(torchvision.datasets, name)
    archive = root / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / cls.base_folder, cls.base_folder)
    for file in (root / cls.base_folder).iterdir():
        file.unlink()
    (root / cls.base_folder).rmdir()
    patch.setattr(cls, "tgz_md5", _md5(archive))
    patch.setitem(downloads.SHA256, cls.filename, hashlib.sha256(archive.read_bytes()).hexdigest())
    return archive


def _know_sums(cls: Any, folder: Path, patch: pytest.MonkeyPatch) -> None:
    for part in ("train_list", "test_list"):
        patch.setattr(cls, part, [[file, _md5(folder / file)] for file, _ in getattr(cls, part)])


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
