"""The loaders of a pretraining run."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from solo_bam.config.schema import Recipe
from solo_bam.core.errors import UserError
from solo_bam.core.hardware import find_devices
from solo_bam.data.datasets.images import Images
from solo_bam.data.datasets.sources import Source
from solo_bam.data.loaders.dali import DaliLoader, check_dali, files_of
from solo_bam.data.loaders.tensor import TensorImages, TensorLoader, check_tensor
from solo_bam.data.loaders.torchvision import Loading
from solo_bam.data.sampling import LateLoader, Seeded
from solo_bam.data.transforms.augmentations import Crops, plain_view, resized
from solo_bam.data.transforms.contrastive_crop import BoxedImages, BoxSchedule, unchanged, whole_images


class PretrainData(Loading):
    """Batches ``[indexes, [crops], labels]`` for training, ``[images, labels]`` for validation.

    Args:
        recipe: a checked recipe.
        source: its dataset.
    """

    recipe: Recipe
    train_set: BoxedImages | Seeded | TensorImages

    def __init__(self, recipe: Recipe, source: Source):
        super().__init__()
        self.recipe, self.source = recipe, source
        self.boxes: Tensor | None = None
        boxed = recipe.data.contrastive_crop
        self.crops = Crops(recipe.data.dataset, recipe.augmentations, boxed.alpha if boxed.enabled else None)
        if recipe.data.format == "dali":
            check_dali(recipe, self.crops.pipelines)
            files_of(self._images(self.crops))
        self.train_set = self._training_images()
        self.view = plain_view(recipe.data.dataset, recipe.augmentations[0])
        self.val_set = None if source.val is None else source.val(self.view)

    def _training_images(self) -> BoxedImages | Seeded | TensorImages:
        if self.recipe.data.contrastive_crop.enabled:
            return self._boxed_images()
        images = self._images(self.crops)
        if self.recipe.data.format != "tensor":
            return Seeded(images, self.recipe.seed)
        check_tensor(self.crops.pipelines)
        devices = find_devices(self.recipe.accelerator, self.recipe.devices)
        return TensorImages(images, self.recipe.data.num_workers, devices.accelerator)

    def _images(self, transform: Any) -> Images:
        """The training images that the recipe uses."""
        return fraction(self.source.train(transform), self.recipe.data.fraction)

    def _boxed_images(self) -> BoxedImages:
        """Crops that follow ``self.boxes``, which :class:`ContrastiveCropBoxes` writes into."""
        images = self._images(unchanged)
        self.boxes = whole_images(len(images))
        return BoxedImages(images, self.recipe.seed, self.crops, self.boxes, BoxSchedule.of(self.recipe).first_use)

    def resized_images(self) -> Dataset[Any]:
        """The training images in the order of their indexes, whole, resized plainly and normalised."""
        return self._images(resized(self.recipe.data.dataset, self.recipe.augmentations[0]))

    def plain_images(self) -> Images:
        """The training images that the recipe uses, seen as the validation images are."""
        return self._images(self.view)

    def train_dataloader(self) -> DataLoader[Any] | DaliLoader | TensorLoader:
        """Shuffled, the last incomplete batch dropped; with ``data.format: dali`` the same batches, made by DALI.

        With ``tensor``, other crops of the same images, made on the device that trains.
        """
        sampler = self._shuffled()
        if isinstance(self.train_set, TensorImages):
            if self.trainer is not None:
                self.train_set.pixels = self.train_set.pixels.to(self.trainer.strategy.root_device)
            size = self.recipe.optimizer.batch_size
            return TensorLoader(self.train_set, self.crops.pipelines, sampler, self.recipe.seed, size)
        if self.recipe.data.format == "dali":
            return DaliLoader(
                files_of(self._images(self.crops)),
                self.crops.pipelines,
                sampler,
                seed=self.recipe.seed,
                batch_size=self.recipe.optimizer.batch_size,
                workers=self.recipe.data.num_workers,
                device=self.recipe.dali.device,
            )
        return self._loader(self.train_set, LateLoader, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """In order, nothing dropped; empty without a validation set; in chunks where training batches are."""
        size = self.recipe.performance.chunked_batch or self.recipe.optimizer.batch_size
        return [] if self.val_set is None else self._loader(self.val_set, batch_size=size)

    def opened(self) -> list[Dataset[Any] | None]:
        """The images that are read."""
        return [self.train_set.dataset, self.val_set]


def fraction(images: Images, share: float) -> Images:
    """A share of the images, stratified where they have labels, the same for every seed; all for 0 or less.

    Raises:
        UserError: too few images for the share to hold each class.
    """
    if share <= 0:
        return images
    from sklearn.model_selection import train_test_split

    labels = images.targets if len(np.unique(images.targets)) > 1 else None
    try:
        kept, _ = train_test_split(np.arange(len(images)), train_size=share, stratify=labels, random_state=42)
    except ValueError as error:  # scikit-learn says what is too few
        problem = f"got {share}, which does not fit {len(images)} images ({str(error).rstrip('.')})"
        raise UserError("data.fraction", problem, "raise it, or set -1 for all images") from None
    return images.split.take(np.sort(kept))(images.transform)
