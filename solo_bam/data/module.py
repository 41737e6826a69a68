"""The loaders of a pretraining run."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset

from solo_bam.config.schema import Recipe
from solo_bam.data.augmentations import Crops, plain_view
from solo_bam.data.dali import DaliLoader, check_dali, files_of
from solo_bam.data.sampling import EpochSampler, Seeded
from solo_bam.data.sources import Source


class PretrainData(pl.LightningDataModule):
    """Batches ``[indexes, [crops], labels]`` for training, ``[images, labels]`` for validation.

    Args:
        recipe: a checked recipe.
        source: its dataset.
    """

    def __init__(self, recipe: Recipe, source: Source):
        super().__init__()
        self.recipe, self.source = recipe, source
        self.crops = Crops(recipe.data.dataset, recipe.augmentations)
        self.train_set = Seeded(fraction(source.train(self.crops), recipe.data.fraction), recipe.seed)
        if recipe.data.format == "dali":
            check_dali(recipe, self.crops.pipelines)
            files_of(self.train_set.dataset)
        view = plain_view(recipe.data.dataset, recipe.augmentations[0])
        self.val_set = None if source.val is None else source.val(view)

    def train_dataloader(self) -> DataLoader[Any] | DaliLoader:
        """Shuffled, the last incomplete batch dropped; with ``data.format: dali`` the same batches, made by DALI."""
        trainer = self.trainer
        sampler = EpochSampler(
            self.train_set,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=True,
            seed=self.recipe.seed,
            drop_last=True,
        )
        if self.recipe.data.format == "dali":
            return DaliLoader(
                files_of(self.train_set.dataset),
                self.crops.pipelines,
                sampler,
                seed=self.recipe.seed,
                batch_size=self.recipe.optimizer.batch_size,
                workers=self.recipe.data.num_workers,
                device=self.recipe.dali.device,
            )
        return self._loader(self.train_set, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """In order, nothing dropped; empty without a validation set."""
        return [] if self.val_set is None else self._loader(self.val_set)

    def _loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        import torch

        workers = self.recipe.data.num_workers
        return DataLoader(
            dataset,
            batch_size=self.recipe.optimizer.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )


def fraction(dataset: Dataset[Any], share: float) -> Dataset[Any]:
    """A stratified share of a dataset, the same for every seed; the whole of it for a share of 0 or less."""
    if share <= 0:
        return dataset
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(dataset))  # type: ignore[arg-type]
    labels = getattr(dataset, "targets", None)
    kept, _ = train_test_split(positions, train_size=share, stratify=labels, random_state=42)
    return Subset(dataset, np.sort(kept).tolist())
