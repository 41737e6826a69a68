"""Online k-NN against clean training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from solo_bam.config import Recipe
from solo_bam.core import collectives
from solo_bam.core.errors import UserError
from solo_bam.core.neighbors import Tile, count_hits, find_neighbours
from solo_bam.data import PretrainData
from solo_bam.data.datasets.images import Images, Split
from solo_bam.data.datasets.sources import told
from solo_bam.data.datasets.subsets import balanced
from solo_bam.evaluate.features import Chunk, chunks_of, evaluating, extract_chunks
from solo_bam.runs.checkpoints.read import hash_weights
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.protocols import KNN
from solo_bam.runs.records import accuracies, write_records
from solo_bam.train.sharding import whole_backbone

# What the branches' metrics begin with.
_PREFIX = {"student": "", "teacher": "momentum_"}
_BANK_CHUNK = 2048  # images of the bank that one process takes at a time


class OnlineKNN(pl.Callback):
    """Weighted k-NN accuracy of the backbone, and of the teacher's, every ``freq`` epochs and after the last.

    Bank and queries are seen in the plain view by networks in evaluation mode and float32. Logged as
    ``knn_acc1``, ``knn_acc5`` and, of a teacher, ``momentum_knn_acc1``, ``momentum_knn_acc5``; the run's end writes
    the last ones with their protocol. Weights, modes and random numbers of the training are left as they are.

    The bank is shared: with W processes, N bank images, M queries, b branches and D dimensions, each keeps
    4 · b · D · (N / W + M) bytes of features, and on the device at most those of M queries besides what
    :func:`solo_bam.core.neighbors.find_neighbours` says. (N = 1.28 M, M = 50,000, D = 768, one branch, W = 8: 0.65 GB.)

    Args:
        recipe: with ``knn_eval.freq``.
        bank: the training images that it may draw from, in the plain view.
        queries: the validation images, likewise.

    Raises:
        UserError: ``knn_eval.k`` is more than the bank has images.
    """

    def __init__(self, recipe: Recipe, bank: Images, queries: Images):
        self.recipe, self.options = recipe, recipe.knn_eval
        self.bank = _part(bank, self.options.train_fraction)
        self.queries = _part(queries, self.options.eval_fraction)
        self.found: dict[str, tuple[int, int]] = {}
        if self.options.k > len(self.bank):
            problem = f"got {self.options.k}, the bank has {len(self.bank)} images"
            raise UserError("knn_eval.k", problem, "lower it or raise knn_eval.train_fraction")

    @classmethod
    def of(cls, data: PretrainData) -> OnlineKNN:
        """For the images of a recipe with ``knn_eval.freq`` and a labelled validation set."""
        assert data.val_set is not None
        return cls(data.recipe, data.plain_images(), data.val_set)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found = {}
        if not self._due(trainer):
            return
        self.found = self.evaluate(pl_module)
        for branch, hits in self.found.items():
            for n, count in zip((1, 5), hits):
                share = 100.0 * count / len(self.queries)
                pl_module.log(f"{_PREFIX[branch]}knn_acc{n}", share, rank_zero_only=True)

    def _due(self, trainer: pl.Trainer) -> bool:
        done = trainer.current_epoch + 1
        last = done == trainer.max_epochs or trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        assert self.options.freq is not None
        return last or done % self.options.freq == 0

    def evaluate(self, pl_module: pl.LightningModule) -> dict[str, tuple[int, int]]:
        """For each branch, how many queries have their class first, and among the first five; on all processes."""
        branches = self._branches(pl_module)
        networks = list(branches.values())
        with isolate_rng(), evaluating(*networks):
            bank, bank_labels = self._extract(networks, self.bank, _BANK_CHUNK)
            chunks, targets = self._extract(networks, self.queries, self._batch_size)
        return {branch: self._hits(i, bank, bank_labels, chunks, targets) for i, branch in enumerate(branches)}

    @property
    def _batch_size(self) -> int:
        return self.recipe.optimizer.batch_size

    def _extract(self, networks: list[nn.Module], images: Images, chunk: int) -> tuple[list[Chunk], Tensor]:
        """This process's chunks, and the labels of all images."""
        workers = self.recipe.data.num_workers
        own = chunks_of(len(images), chunk, shared=True)
        found = list(extract_chunks(networks, images, own, self._batch_size, workers))
        labels = torch.zeros(len(images), dtype=torch.long, device=next(networks[0].parameters()).device)
        for part in found:
            labels[part.positions.start : part.positions.stop] = part.labels.to(labels.device)
        return found, collectives.all_sum(labels)  # the others' labels are zero

    def _hits(
        self, branch: int, bank: list[Chunk], bank_labels: Tensor, chunks: list[Chunk], targets: Tensor
    ) -> tuple[int, int]:
        tiles: list[Tile] = [(chunk.positions.start, chunk.values[branch]) for chunk in bank]
        queries = _assembled(branch, chunks, len(targets), targets.device)
        near = find_neighbours(tiles, queries, self.options.k, shared=True)
        return count_hits(near, bank_labels, targets, [self.options.k], self.options.temperature)[self.options.k]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``evaluation/online_knn.json`` of the last epoch."""
        networks, images = self._branches(pl_module) if self.found else {}, len(self.queries)
        if not networks or not trainer.is_global_zero:
            return
        folder = RunFolder(Path(trainer.default_root_dir))
        checkpoint = str(folder.last_checkpoint) if trainer.checkpoint_callback is not None else None
        about: dict[str, Any] = {
            "data": told(self.recipe.data, self.queries.split, self.recipe.data.val_name),
            "protocol": KNN.during(self.recipe, len(self.bank)),
            "method": self.recipe.method,
            "epoch": trainer.current_epoch,
            "checkpoint": checkpoint,
        }
        records = []
        for branch, hits in self.found.items():
            values = {metric: 100.0 * count / images for metric, count in zip(("accuracy", "accuracy@5"), hits)}
            records += accuracies(values, images, branch=branch, weights=hash_weights(networks[branch]), **about)
        path = write_records(folder.path / "evaluation", "online_knn", records)
        rank_zero_info(f"{records[0].stated}: {records[0].value:.2f} %, written to {path}")

    def _branches(self, pl_module: Any) -> dict[str, nn.Module]:
        """The student's and, where there is one, the teacher's backbone, whole; all processes take part."""
        networks = {"student": pl_module.backbone, "teacher": getattr(pl_module, "momentum_backbone", None)}
        return {name: whole_backbone(each, self.recipe) for name, each in networks.items() if each is not None}


def _part(images: Images, share: float) -> Images:
    split: Split = images.split
    return split.take(balanced(split.targets, share))(images.transform)


def _assembled(branch: int, chunks: list[Chunk], count: int, device: torch.device) -> Tensor:
    """Every process's features of one branch, ``(count, D)``."""
    width = torch.tensor(max((chunk.values[branch].shape[1] for chunk in chunks), default=0), device=device)
    widest = int(collectives.gather(width).max())  # a process may have no chunk
    features = torch.zeros(count, widest, device=device)
    for chunk in chunks:
        features[chunk.positions.start : chunk.positions.stop] = chunk.values[branch].to(device)
    return collectives.all_sum(features)
