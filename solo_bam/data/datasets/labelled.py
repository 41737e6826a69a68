"""Labelled images for a classifier: which of them train it, which choose its learning rate, which test it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset
from torchvision import transforms as T

from solo_bam.config.linear import LinearAugmentation, LinearRecipe
from solo_bam.config.schema import Augmentation
from solo_bam.core.errors import UserError
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import Source, find_source, hold_out
from solo_bam.data.datasets.subsets import balanced
from solo_bam.data.loaders.sampling import LateLoader, Seeded
from solo_bam.data.loaders.torchvision import Loading
from solo_bam.data.module import fraction
from solo_bam.data.transforms.augmentations import Transform, plain_view


class LabelledData(Loading):
    """Batches ``[indexes, images, labels]`` for training, ``[images, labels]`` for validation and tuning.

    Args:
        recipe: a checked recipe with its crop size, mean and standard deviation filled in.
        source: its dataset.

    Attributes:
        train_split: what the classifier is trained on.
        tune_split: what its learning rate is chosen on; None: the validation images.
        val_split: what it is tested on.
        num_classes: of the labels.
        classes: their names.

    Raises:
        UserError: too few labelled images for the recipe, or no validation images.
    """

    recipe: LinearRecipe
    train_set: Seeded

    def __init__(self, recipe: LinearRecipe, source: Source):
        super().__init__()
        if source.val is None:
            raise UserError("data.val_path", "is missing, accuracy is that of labelled images", "give their folder")
        self.recipe = recipe
        self.val_split: Split = source.val
        self.tune_split: Split | None = None
        self.train_split = _labelled(source.train, recipe)
        self.classes = list(source.val.classes)
        self.num_classes = len(self.classes)
        if recipe.data.label_fraction < 1:
            chosen = balanced(self.train_split.targets, recipe.data.label_fraction, recipe.seed)
            self.train_split = self.train_split.take(chosen)
        if recipe.data.tune_fraction:
            self.train_split, self.tune_split = hold_out(self.train_split, recipe.data.tune_fraction, recipe.seed)
        dataset, crop = recipe.data.dataset, recipe.data.augmentations
        self.train_set = Seeded(self.train_split(training_view(crop, recipe.auto_augment)), recipe.seed)
        view = plain_view(dataset, _augmentation(crop))
        self.test_sets: list[Dataset[Any]] = [
            split(view) for split in (self.val_split, self.tune_split) if split is not None
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, the last incomplete batch dropped."""
        return self._loader(self.train_set, LateLoader, sampler=self._shuffled(), drop_last=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation images, then those for tuning; every image on exactly one process."""
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return [
            self._loader(images, sampler=EveryNth(len(images), world_size, rank))  # type: ignore[arg-type]
            for images in self.test_sets
        ]

    @property
    def same_every_epoch(self) -> bool:
        """Whether an image looks the same in every epoch."""
        crop = self.recipe.data.augmentations
        return not (crop.rrc.enabled or crop.horizontal_flip.prob or self.recipe.auto_augment)

    def show_features(self, network: Callable[[Tensor], Tensor]) -> None:
        """Put features, ``(D,)`` in float32, in the images' place; each image is read once, here."""
        self.train_set = Seeded(self._features(self.train_set.dataset, network), self.recipe.seed)
        self.test_sets = [self._features(images, network) for images in self.test_sets]

    def _features(self, images: Dataset[Any], network: Callable[[Tensor], Tensor]) -> TensorDataset:
        batches = [(network(views).float().cpu(), labels) for views, labels in self._loader(images)]
        features, labels = (torch.cat(parts) for parts in zip(*batches))
        return TensorDataset(features, labels)

    def opened(self) -> list[Dataset[Any]]:
        """The images that are read."""
        return [self.train_set.dataset, *self.test_sets]

    def write_subsets(self, folder: Path) -> None:
        """List the images that were drawn: ``label_subset.txt`` and ``tune_split.txt``, a class and a name a line."""
        if self.recipe.data.label_fraction < 1:
            _write_names(self.train_split, folder / "label_subset.txt")
        if self.tune_split is not None:
            _write_names(self.tune_split, folder / "tune_split.txt")


class EveryNth(Sampler[int]):
    """This process's share of the images, none twice and none left out.

    Args:
        count: images.
        world_size: processes.
        rank: this process's number.
    """

    def __init__(self, count: int, world_size: int, rank: int):
        self.indexes = range(rank, count, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indexes)

    def __len__(self) -> int:
        return len(self.indexes)


def find_labelled(recipe: LinearRecipe) -> Source:
    """The recipe's dataset; what is said of missing labels fits a classifier.

    Raises:
        UserError: as :func:`solo_bam.data.find_source`.
    """
    try:
        return find_source(recipe.data.source)
    except UserError as error:
        if "no_labels" not in error.remedy:
            raise
        problem = f"{error.problem}, a classifier needs labels"
        raise UserError(error.key, problem, "give a folder of class folders of images") from None


def _labelled(train: Split, recipe: LinearRecipe) -> Split:
    """The training images that have labels, as many as ``data.fraction`` says."""
    known = np.flatnonzero(train.targets >= 0)
    if not len(known):
        raise UserError(train.key, f"none of the {len(train)} images has a label", "give labelled images")
    split = train if len(known) == len(train) else train.take(known)
    return fraction(split(lambda image: image), recipe.data.fraction).split


def _write_names(split: Split, path: Path) -> None:
    lines = [f"{split.classes[label]}\t{split.reader.name(i)}\n" for i, label in enumerate(split.targets)]
    path.write_text("".join(lines), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ views


def _augmentation(crop: LinearAugmentation) -> Augmentation:
    return Augmentation(num_crops=1, **crop.model_dump())


def training_view(crop: LinearAugmentation, auto_augment: bool = False) -> Transform:
    """A random crop and flip, as solo-learn and the published BAM train a linear layer on.

    Args:
        crop: with its size, mean and standard deviation; without a random crop, the view that it is tested on.
        auto_augment: timm's RandAugment and random erasing in place of the recipe's crop and flip.
    """
    size, mean, std = crop.crop_size, crop.mean or (), crop.std or ()
    assert size is not None, "complete"
    if auto_augment:
        return _AutoAugment(size, mean, std)
    flip = T.RandomHorizontalFlip(crop.horizontal_flip.prob)
    if not crop.rrc.enabled:  # nothing but the flip may differ from the images that it is tested on
        whole: Transform = T.Compose([plain_view("custom", _augmentation(crop)), flip])
        return whole
    cut = T.RandomResizedCrop(size, scale=(crop.rrc.crop_min_scale, crop.rrc.crop_max_scale))
    view: Transform = T.Compose([cut, flip, T.ToTensor(), T.Normalize(mean, std)])
    return view


class _AutoAugment:
    """timm's pipeline with solo-learn's settings. timm draws from numpy, which is seeded from torch here."""

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]):
        from timm.data.transforms_factory import create_transform

        self.pipeline: Any = create_transform(
            input_size=size,
            is_training=True,
            color_jitter=None,  # type: ignore[arg-type]
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
            mean=tuple(mean),
            std=tuple(std),
        )

    def __call__(self, image: Image.Image) -> Tensor:
        state = np.random.get_state()
        np.random.seed(int(torch.randint(2**31, ()).item()))
        try:
            view: Tensor = self.pipeline(image)
        finally:
            np.random.set_state(state)
        return view
