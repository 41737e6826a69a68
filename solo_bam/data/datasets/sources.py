"""Where a recipe's images are: checked, counted and opened."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from solo_bam.config.schema import Data, ImageData
from solo_bam.core.errors import UserError, printable, warn
from solo_bam.core.files import expanded
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.data.datasets.downloads import provide
from solo_bam.data.datasets.hdf5 import h5_split
from solo_bam.data.datasets.imagenet100 import IMAGENET100
from solo_bam.data.datasets.images import ArrayImages, ImageFiles, Split, first_empty

_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "stl10": 10, "imagenet100": 100, "imagenet": 1000}
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}
TRAIN, VAL = "data.train_path", "data.val_path"


@dataclass(frozen=True)
class Source:
    """A dataset that is there.

    Attributes:
        train: the training images; ``train(transform)`` opens them.
        val: the validation images; None where there are none or they have no labels.
        num_classes: classes of the labels, 1 without labels.
    """

    train: Split
    val: Split | None
    num_classes: int


def shown_images(data: Data, source: Source) -> tuple[Split, str]:
    """The validation images, or the training images where there are none, and what numbers call them."""
    return (source.train, f"{data.called} train") if source.val is None else (source.val, data.val_name)


def find_source(data: Data, download: bool = True) -> Source:
    """The dataset of a recipe's section ``data``.

    Args:
        data: of a checked recipe.
        download: whether torchvision's datasets are fetched or unpacked where they are missing.

    Raises:
        UserError: a folder or file is missing, empty or has an empty class, the classes differ between the
            splits or from the dataset's, or a download failed.
    """
    if data.dataset in _TORCHVISION or data.dataset == "digits":
        _check_format(data)
    train, val = _torchvision_splits(data, download) if data.dataset in _TORCHVISION else _own_splits(data)
    train = replace(train, on_error=data.on_error)
    if data.no_labels:
        if data.tune_fraction:
            problem = f"got {data.tune_fraction}, what is held out needs labels"
            raise UserError("data.tune_fraction", problem, "set it to 0, or data.no_labels=False")
        return Source(replace(train, targets=np.full(len(train), -1), classes=()), None, 1)
    if data.tune_fraction:
        train, val = hold_out(train, data.tune_fraction, seed=0)
    return Source(train, None if val is None else replace(val, on_error=data.on_error), len(train.classes))


def labelled_source(data: Data, what: str) -> Source:
    """As :func:`find_source`, with labels and a validation set.

    Args:
        data: a recipe's section.
        what: needs them, for messages.

    Raises:
        UserError: they are missing, or what :func:`find_source` raises.
    """
    if data.no_labels:
        remedy = "set data.no_labels=False and give labelled images as data.train_path and data.val_path"
        raise UserError("data.no_labels", f"got True, {what} needs labels", remedy)
    source = find_source(data)
    if source.val is None:
        raise UserError(
            VAL,
            f"is missing, {what} needs labelled test images",
            "give them as data.val_path, or set data.tune_fraction=0.1",
        )
    return source


def told(data: ImageData, split: Split, name: str, contents: bool = True) -> str:
    """What numbers call images: their ``name`` and, where they are files of one's own, which of that name they are.

    Args:
        data: the section that they were found by.
        split: the images.
        name: e.g. ``custom val``.
        contents: tell images of the same names apart, too, which reads them all.
    """
    given = data.train_path if split.key == TRAIN else data.val_path
    shipped = data.dataset in _TORCHVISION or (data.dataset == "digits" and given is None)
    return name if shipped else f"{name} ({split.digest(contents)})"


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """The rest of the images, those without labels included, and a stratified share of those that have one.

    Raises:
        UserError: too few images for the share to hold each class.
    """
    from sklearn.model_selection import train_test_split

    labelled = np.flatnonzero(split.targets >= 0)
    try:
        _, held = train_test_split(labelled, test_size=share, stratify=split.targets[labelled], random_state=seed)
    except ValueError as error:  # scikit-learn says what is too few
        problem = f"got {share}, which does not fit {len(labelled)} images ({str(error).rstrip('.')})"
        raise UserError("data.tune_fraction", problem, "change it, or set 0 to hold out none") from None
    rest = np.setdiff1d(np.arange(len(split)), held)
    return split.take(rest), split.take(np.sort(held))


def _check_format(data: Data) -> None:
    if data.format == "h5":
        raise UserError(
            "data.format",
            f"got 'h5', {data.dataset} comes in files of its own",
            "set data.format=image_folder, or data.dataset=custom for an HDF5 file",
        )


# --------------------------------------------------------------------------------- folders and HDF5 files


def _own_splits(data: Data) -> tuple[Split, Split | None]:
    """The splits that ``train_path`` and ``val_path`` name."""
    train_path, val_path = data.train_path, data.val_path
    if data.dataset == "digits":
        folder = digits_folder()
        train_path, val_path = train_path or folder / "train", val_path or folder / "val"
    if train_path is None:
        what = "HDF5 file" if data.format == "h5" else "folder"
        raise UserError(TRAIN, f"is missing, {data.dataset} needs it", f"give the {what} of the training images")
    if data.no_labels:
        return _open(data, train_path, TRAIN), None
    train = _of_the_dataset(_open(data, train_path, TRAIN), data.dataset)
    if val_path is None:
        return train, None
    val = _of_the_dataset(_open(data, val_path, VAL), data.dataset)
    if list(val.classes) != list(train.classes):
        differing = ", ".join(sorted(set(val.classes) ^ set(train.classes))[:5])
        problem = f"{val_path} has other classes than {train_path} ({differing})"
        raise UserError(VAL, problem, "give folders that match")
    return train, val


def _open(data: Data, path: Path, key: str) -> Split:
    """One split, all its classes."""
    if data.format == "h5":
        return h5_split(expanded(path), key)
    if data.no_labels:
        return _unlabelled_split(expanded(path), key)
    return _folder_split(expanded(path), key)


def _folder_split(folder: Path, key: str) -> Split:
    """A folder of class folders; labels in the order of the classes' names."""
    if not folder.is_dir():
        raise UserError(key, f"there is no folder {folder}", "give a folder of class folders of images")
    classes = sorted(entry.name for entry in _entries(folder, key) if _is_folder(entry))
    if not classes:
        raise UserError(
            key, f"{folder} has no class folders", "give a folder of class folders, or set data.no_labels=True"
        )
    _tell_what_is_left_out(folder, classes, key)
    # In torchvision's order.
    samples = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted(_files(folder / name, key), key=os.path.split)
    ]
    targets = np.array([label for _, label in samples], dtype=np.int64)
    if (empty := first_empty(targets, classes)) is not None:
        problem = f"the class folder {folder / empty} holds no image ({', '.join(IMG_EXTENSIONS)})"
        raise UserError(key, problem, "remove or fill it")
    return Split(ImageFiles([path for path, _ in samples]), targets, list(map(printable, classes)), folder, key)


def _tell_what_is_left_out(folder: Path, classes: Sequence[str], key: str) -> None:
    """Images that lie beside the class folders, and what a single class means."""
    loose = [e.name for e in _entries(folder, key) if e.name.lower().endswith(IMG_EXTENSIONS) and _may_be_file(e)]
    if loose:
        warn(
            f"{key}: {len(loose)} images lie beside the class folders of {folder} ({printable(loose[0])}, …) and are "
            "not used; data.no_labels=True takes all, without labels"
        )
    if len(classes) == 1:
        warn(f"{key}: {folder} has one class ({printable(classes[0])}): accuracies mean nothing")


def _unlabelled_split(folder: Path, key: str) -> Split:
    """All images in and below a folder."""
    if not folder.is_dir():
        raise UserError(key, f"there is no folder {folder}", "give a folder of images")
    files = sorted(_files(folder, key))
    if not files:
        raise UserError(key, f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)})", "give a folder of images")
    return Split(ImageFiles(files), np.full(len(files), -1), (), folder, key)


def _files(folder: Path, key: str, above: frozenset[str] = frozenset()) -> list[str]:
    """Paths of the images in and below a folder, by name; a link to a folder above it is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    entries = _entries(folder, key)
    files = [entry.path for entry in entries if entry.name.lower().endswith(IMG_EXTENSIONS) and _may_be_file(entry)]
    for entry in entries:
        if _is_folder(entry):
            files += _files(Path(entry.path), key, above | {real})
    return files


def _entries(folder: Path, key: str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; hidden files and folders are nobody's images."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(key, f"{folder} cannot be read ({error.strerror})", "mend it or leave it out") from None


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    """A file, or a link that leads nowhere; opening anything else (a pipe, a device) might wait for ever."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # a link to itself is none


def _of_the_dataset(split: Split, dataset: str) -> Split:
    """The classes that belong to the dataset: of the whole of ImageNet, ImageNet-100's; their number is checked."""
    if dataset == "imagenet100" and len(split.classes) > 100 and set(split.classes) >= IMAGENET100:
        split = _of_classes(split, IMAGENET100)
    expected = _CLASSES.get(dataset)
    if expected is not None and len(split.classes) != expected:
        what = "groups" if split.place.is_file() else "class folders"
        raise UserError(
            split.key,
            f"{split.place} has {len(split.classes)} {what}, {dataset} has {expected}",
            "give that dataset or set data.dataset=custom",
        )
    return split


def _of_classes(split: Split, names: Iterable[str]) -> Split:
    """The images of some classes, labelled anew from 0 in the order of the names."""
    chosen = sorted(names)
    new_label = np.full(len(split.classes), -1)
    new_label[[split.classes.index(name) for name in chosen]] = np.arange(len(chosen))
    kept = split.take(np.flatnonzero(new_label[split.targets] >= 0))
    return replace(kept, targets=new_label[kept.targets], classes=chosen)


# ------------------------------------------------------------------------------------ CIFAR and STL-10


def _torchvision_splits(data: Data, download: bool) -> tuple[Split, Split | None]:
    """CIFAR and STL-10 from torchvision's files, downloaded where there is a network."""
    cls = getattr(torchvision.datasets, _TORCHVISION[data.dataset])
    stl = data.dataset == "stl10"
    train_path = data.train_path or Path("datasets")
    train = _torchvision_split(
        cls, train_path, TRAIN, {"split": "train+unlabeled"} if stl else {"train": True}, download
    )
    if data.no_labels:
        return train, None
    val = _torchvision_split(
        cls, data.val_path or train_path, VAL, {"split": "test"} if stl else {"train": False}, download
    )
    return train, val


def _torchvision_split(cls: Any, folder: Path, key: str, which: Mapping[str, Any], download: bool) -> Split:
    """One split in memory; torchvision checks the files' MD5 sums whenever it opens them."""
    folder = expanded(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy: torchvision's pickles name an old dtype flag
        try:
            dataset = cls(str(folder), **which)
        except RuntimeError:  # missing or altered
            if not download:
                problem = f"{cls.__name__} is not in {folder}"
                raise UserError(key, problem, f"let pretrain download it, or put {cls.filename} there") from None
            provide(cls, folder, key)
            dataset = cls(str(folder), **which)
    stl = hasattr(dataset, "labels")
    pixels = np.moveaxis(dataset.data, 1, 3) if stl else dataset.data
    targets = np.asarray(dataset.labels if stl else dataset.targets, dtype=np.int64)
    origin = f"{cls.__name__} {'training' if key == TRAIN else 'test'} image"
    return Split(ArrayImages(pixels, origin), targets, dataset.classes, folder, key)


def count_classes(split: Split) -> dict[str, int]:
    """Images per class, in the order of the labels; images without a label do not count."""
    counts = Counter(split.targets.tolist())
    return {name: counts[label] for label, name in enumerate(split.classes)}
