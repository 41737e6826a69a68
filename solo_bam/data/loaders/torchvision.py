"""What the loaders of a pretraining and of a classifier have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from solo_bam.config.linear import LinearRecipe
from solo_bam.config.schema import Recipe
from solo_bam.data.datasets.images import Images
from solo_bam.data.sampling import EpochSampler, ignore_termination


class Loading(pl.LightningDataModule):
    """Loaders whose training images are shuffled by seed and epoch, and can start in mid-epoch.

    Attributes:
        recipe: a checked recipe.
        train_set: the training images.
        sampler: of the training images, once their loader is made.
    """

    recipe: Recipe | LinearRecipe
    train_set: Dataset[Any]
    sampler: EpochSampler | None = None

    def _shuffled(self) -> EpochSampler:
        """This process's share of the training images, the last incomplete batch dropped."""
        trainer = self.trainer
        self.sampler = EpochSampler(
            self.train_set,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=True,
            seed=self.recipe.seed,
            drop_last=True,
        )
        return self.sampler

    def start_at(self, batch: int) -> None:
        """Leave out the first batches of the next pass over the training images."""
        assert self.sampler is not None
        self.sampler.start = batch * self.recipe.optimizer.batch_size

    def _loader(
        self, dataset: Dataset[Any], kind: type[DataLoader[Any]] = DataLoader, **kwargs: Any
    ) -> DataLoader[Any]:
        workers = self.recipe.data.num_workers
        return kind(
            dataset,
            batch_size=kwargs.pop("batch_size", self.recipe.optimizer.batch_size),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_termination,
            **kwargs,
        )

    @abstractmethod
    def opened(self) -> Sequence[Dataset[Any] | None]:
        """The images that are read."""

    def unreadable_names(self) -> list[str]:
        """Images that this process and its loader processes skipped so far (``data.on_error: skip``)."""
        return [name for images in self.opened() if isinstance(images, Images) for name in images.unreadable_names()]
