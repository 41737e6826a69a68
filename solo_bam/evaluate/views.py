"""A bounded sample of a dataset's images, and what a network makes of two random views of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from solo_bam.config.schema import Data, Recipe
from solo_bam.core.progress import Bar
from solo_bam.data import find_source
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import shown_images, told
from solo_bam.data.sampling import Seeded, ignore_termination
from solo_bam.data.transforms.augmentations import Crops, plain_view
from solo_bam.evaluate.features import Features, evaluating, extract_features

_PER_CLASS = 8  # images, at least: fewer would leave hardly a pair of one class


@dataclass(frozen=True)
class Sample:
    """Images to look at features with.

    Attributes:
        split: the images.
        recipe: says how they are seen.
        name: dataset and split, e.g. ``digits val``.
        batch_size: images at once.
        workers: loader processes.
    """

    split: Split
    recipe: Recipe
    name: str
    batch_size: int = 64
    workers: int = 0

    @classmethod
    def of(cls, recipe: Recipe, data: Data, batch_size: int, workers: int | None) -> Sample:
        """All validation images, or the training images where there are none."""
        split, name = shown_images(data, find_source(data))
        used = recipe.model_copy(update={"data": data})
        return cls(split, used, told(data, split, name), batch_size, data.num_workers if workers is None else workers)

    def take(self, count: int) -> Sample:
        """At most ``count`` images, the same ones every time; of so few classes that each has several."""
        return Sample(
            self.split.take(choose(self.split.targets, count)), self.recipe, self.name, self.batch_size, self.workers
        )

    def features(self, backbone: nn.Module) -> Features:
        """Of the images in the plain view, in evaluation mode."""
        view = plain_view(self.recipe.data.dataset, self.recipe.augmentations[0])
        return extract_features(backbone, self.split(view), self.batch_size, self.workers, progress="features")

    def views(self, backbone: nn.Module, count: int = 2) -> Tensor:
        """Features of random crops of each image by the recipe's first augmentation: ``(count, N, D)`` on the CPU.

        In evaluation mode; the crops are the same ones for every network.
        """
        several = self.recipe.augmentations[0].model_copy(update={"num_crops": count})
        dataset = Seeded(self.split(Crops(self.recipe.data.dataset, [several])), seed=0)
        keys = [(0, i) for i in range(len(dataset))]
        loader = DataLoader(
            dataset, self.batch_size, sampler=keys, num_workers=self.workers, worker_init_fn=ignore_termination
        )
        with evaluating(backbone):
            return torch.cat([_both(backbone, crops) for _, crops, _ in Bar(loader, "views", unit="batches")], 1)


@torch.no_grad()
def _both(backbone: nn.Module, crops: list[Tensor]) -> Tensor:
    device = next(backbone.parameters()).device
    return torch.stack([backbone(crop.to(device)).float().cpu() for crop in crops])


def choose(targets: np.ndarray, count: int) -> np.ndarray:
    """Rising positions of at most ``count`` images, of at most ``count / 8`` classes.

    Args:
        targets: ``(N,)`` labels, -1 for images without.
        count: at least 1.
    """
    generator = np.random.default_rng(0)
    classes = np.unique(targets)
    classes = generator.choice(classes, min(len(classes), max(2, count // _PER_CLASS)), replace=False)
    members = np.flatnonzero(np.isin(targets, classes))
    return np.sort(generator.choice(members, min(count, len(members)), replace=False))
