"""Loaders of a pretraining as Lightning would ask for them, and what they give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from solo_bam.config.schema import Recipe
from solo_bam.data import PretrainData, find_source

Batches = list[Any]


def data_of(recipe: Recipe, rank: int = 0, processes: int = 1) -> PretrainData:
    data = PretrainData(recipe, find_source(recipe.data))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=processes, global_rank=rank, strategy=strategy)  # type: ignore[assignment]
    return data


def loader_of(recipe: Recipe, rank: int = 0, processes: int = 1) -> Any:
    return data_of(recipe, rank, processes).train_dataloader()


def epoch_of(loader: Any, epoch: int) -> Batches:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(a: Batches, b: Batches, tolerance: float = 0.0) -> bool:
    """Equal indexes and labels, equal types and shapes, crops no further apart than that on average."""
    for (i, crops, k), (j, others, l) in zip(a, b, strict=True):
        assert i.dtype == j.dtype == k.dtype == l.dtype == torch.int64
        if not (torch.equal(i, j) and torch.equal(k, l)):
            return False
        for x, y in zip(crops, others, strict=True):
            assert x.dtype == y.dtype == torch.float32
            assert x.shape == y.shape
            if (x - y).abs().mean((1, 2, 3)).max() > tolerance:
                return False
    return True
