"""Where a recipe's images are: checked, counted and opened."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision.datasets
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder, default_loader

from solo_bam.config.schema import Recipe
from solo_bam.data.digits import digits_folder
from solo_bam.errors import UserError

ImageDataset = Dataset[tuple[Any, int]]
Transform = Callable[[Image.Image], Any]

_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "stl10": 10, "imagenet100": 100, "imagenet": 1000}
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}


@dataclass(frozen=True)
class Source:
    """A dataset that is there.

    Attributes:
        train: opens the training images with a transform of the image.
        val: opens the validation images likewise; None where there are none or they have no labels.
        num_classes: classes of the labels, 1 without labels.
    """

    train: Callable[[Transform], ImageDataset]
    val: Callable[[Transform], ImageDataset] | None
    num_classes: int


def find_source(recipe: Recipe) -> Source:
    """The recipe's dataset.

    Raises:
        UserError: a folder is missing, empty or has an empty class, or the classes differ between the splits.
    """
    data = recipe.data
    if data.dataset in _TORCHVISION:
        return _torchvision_source(recipe)
    train_path, val_path = data.train_path, data.val_path
    if data.dataset == "digits":
        folder = digits_folder()
        train_path, val_path = train_path or folder / "train", val_path or folder / "val"
    if train_path is None:
        raise UserError(
            "data.train_path", f"is missing, {data.dataset} needs it", "give the folder of the training images"
        )
    if data.no_labels:
        files = _files(train_path, "data.train_path")
        return Source(lambda transform: _Unlabelled(files, transform), None, 1)
    classes = _classes(train_path, "data.train_path")
    if val_path is not None and (other := _classes(val_path, "data.val_path")) != classes:
        differing = ", ".join(sorted(set(other) ^ set(classes))[:5])
        raise UserError(
            "data.val_path", f"{val_path} has other classes than {train_path} ({differing})", "give folders that match"
        )
    expected = _CLASSES.get(data.dataset)
    if expected is not None and len(classes) != expected:
        raise UserError(
            "data.train_path",
            f"{train_path} has {len(classes)} class folders, {data.dataset} has {expected}",
            "give the folder of that dataset or set data.dataset=custom",
        )
    return Source(
        train=lambda transform: ImageFolder(str(train_path), transform),
        val=None if val_path is None else lambda transform: ImageFolder(str(val_path), transform),
        num_classes=len(classes),
    )


def _classes(folder: Path, key: str) -> list[str]:
    """Names of the class folders, each of which holds an image."""
    if not folder.is_dir():
        raise UserError(key, f"there is no folder {folder}", "give a folder of class folders of images")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise UserError(
            key, f"{folder} has no class folders", "give a folder of class folders, or set data.no_labels=True"
        )
    for name in classes:
        if not any(_is_image(path) for path in (folder / name).rglob("*")):
            raise UserError(
                key,
                f"the class folder {folder / name} holds no image ({', '.join(IMG_EXTENSIONS)})",
                "remove or fill it",
            )
    return classes


def _files(folder: Path, key: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(key, f"there is no folder {folder}", "give a folder of images")
    files = sorted(path for path in folder.rglob("*") if _is_image(path))
    if not files:
        raise UserError(key, f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)})", "give a folder of images")
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMG_EXTENSIONS


class _Unlabelled(Dataset[tuple[Any, int]]):
    """Image files with the label -1."""

    def __init__(self, files: list[Path], transform: Transform):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(default_loader(str(self.files[index]))), -1


def _torchvision_source(recipe: Recipe) -> Source:
    """CIFAR and STL-10 from torchvision's files, downloaded where there is a network."""
    data = recipe.data
    name = _TORCHVISION[data.dataset]
    cls = getattr(torchvision.datasets, name)
    train_path, val_path = data.train_path or Path("datasets"), data.val_path or data.train_path or Path("datasets")
    stl = data.dataset == "stl10"
    splits: tuple[dict[str, Any], dict[str, Any]] = (
        ({"split": "train+unlabeled"}, {"split": "test"}) if stl else ({"train": True}, {"train": False})
    )
    for path, split in zip((train_path, val_path), splits):
        _provide(cls, path, split)

    def opener(path: Path, split: dict[str, Any]) -> Callable[[Transform], ImageDataset]:
        def open_with(transform: Transform) -> ImageDataset:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy: torchvision's pickles name an old dtype flag
                return cls(str(path), transform=transform, **split)

        return open_with

    val = None if data.no_labels else opener(val_path, splits[1])
    return Source(opener(train_path, splits[0]), val, _CLASSES[data.dataset])


def _provide(cls: Any, path: Path, split: dict[str, Any]) -> None:
    try:
        cls(str(path), download=False, **split)
        return
    except RuntimeError:
        pass
    try:
        cls(str(path), download=True, **split)
    except (OSError, RuntimeError) as error:
        archive = getattr(cls, "filename", "the archive")
        raise UserError(
            "data.train_path",
            f"{cls.__name__} is not in {path.resolve()} and could not be downloaded ({' '.join(str(error).split())})",
            f"put {archive} from {cls.url} into that folder",
        ) from None
