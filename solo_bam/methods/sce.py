"""SCE, similarity contrastive estimation (Denize et al., WACV 2023, arXiv 2111.14585).

z_i: the student's row of image i in one view, k_i: a momentum teacher's in the other view, all of unit length.

    p_ij = softmax_j(z_i · k_j / temperature)                       online distribution, the positive among it
    s_ij = softmax_j≠i(k_i · k_j / target_temperature)              relations that the teacher sees; s_ii = 0
    w_ij = coefficient · 1[i = j] + (1 − coefficient) · s_ij        target
    loss = mean_i of − Σ_j w_ij log p_ij                            averaged over both orders of the views

``coefficient`` 1 is InfoNCE, 0 ReSSL. Keys are those of the batch, of all processes, and ``queue_size`` of earlier
batches. The paper has weaker augmentations for the teacher; here a recipe's two crops serve both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from solo_bam.config.section import Count, Index, Share, Sharpness
from solo_bam.core import collectives
from solo_bam.methods.views import MomentumViews, ProjectorOptions, full
from solo_bam.solo_learn import CropRule


class SCEOptions(ProjectorOptions):
    """``method_kwargs`` of sce; names and defaults are the paper's."""

    proj_hidden_dim: Count = 4096
    coefficient: Share = 0.5
    temperature: Sharpness = 0.1
    target_temperature: Sharpness = 0.05
    queue_size: Index = 65536


class SCE(MomentumViews):
    """Similarity contrastive estimation: relations of a momentum teacher, mixed with the positive.

    Args:
        cfg: recipe; ``method_kwargs`` are :class:`SCEOptions`.
    """

    Options = SCEOptions
    crops = CropRule(large=2, small=False)
    headline = ("sce_loss",)

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        queue = torch.randn(self.options.queue_size, self.options.proj_output_dim)
        self.register_buffer("queue", F.normalize(queue))

    @staticmethod
    def note(options: Mapping[str, Any]) -> str:
        """That it has a queue."""
        return f"also compares with {options['queue_size']:,} images of earlier batches" * bool(options["queue_size"])

    def compare(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """SCE between the views, and how sharp the targets are; then the second view's keys enter the queue."""
        assert target is not None
        (z1, z2), (k1, k2) = (F.normalize(full(rows)).chunk(2) for rows in (z, target))
        (first, entropy1), (second, entropy2) = self._sce(z1, k2), self._sce(z2, k1)
        keys = collectives.gather(k2).flatten(0, 1)
        self.queue.copy_(torch.cat([keys, self.queue])[: len(self.queue)])
        return (first + second) / 2, {"target_entropy": (entropy1 + entropy2) / 2}

    def _sce(self, z: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        columns = torch.cat([collectives.gather(keys).flatten(0, 1), self.queue])
        return sce_loss(z, keys, columns, len(z) * collectives.rank(), self.options)


def sce_loss(z: Tensor, keys: Tensor, columns: Tensor, first: int, options: SCEOptions) -> tuple[Tensor, Tensor]:
    """The loss, and the mean entropy of the relations (nats).

    Args:
        z: ``(B, D)`` the student's rows of one view, of unit length.
        keys: ``(B, D)`` the teacher's of the other view.
        columns: ``(C, D)`` all keys; ``keys`` are among them from row ``first`` on.
        options: weight of the positive, temperatures.
    """
    positive = torch.zeros(len(z), len(columns), dtype=torch.bool, device=z.device)
    positive[:, first : first + len(z)].fill_diagonal_(True)
    log_p = (z @ columns.T / options.temperature).log_softmax(1)
    log_s = (keys @ columns.T / options.target_temperature).masked_fill(positive, -torch.inf).log_softmax(1)
    s = log_s.exp()
    w = options.coefficient * positive.to(s.dtype) + (1 - options.coefficient) * s
    return -(w * log_p).sum(1).mean(), -(s * log_s.masked_fill(positive, 0)).sum(1).mean()
