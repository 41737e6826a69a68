"""MoCo v3 (Chen et al., ICCV 2021, arXiv 2104.02057), for the edition of solo-learn that lacks it.

q are the student's predictions, k a momentum teacher's projections, all of unit length; i, j number images:

    loss = ctr(q₁, k₂) + ctr(q₂, k₁)            q₁ of view 1, k₂ of view 2
    ctr  = 2τ · mean_i of − log softmax_j(q_i · k_j / τ)_i          over the batch of all processes, no queue
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from solo_bam.config.section import Count, Sharpness
from solo_bam.core import collectives
from solo_bam.methods.views import MomentumViews, ProjectorOptions, full, mlp
from solo_bam.solo_learn import CropRule


class MoCoV3Options(ProjectorOptions):
    """``method_kwargs`` of mocov3; those of solo-learn's head edition, and the projector's depth."""

    proj_hidden_dim: Count = 4096
    pred_hidden_dim: Count = 4096
    temperature: Sharpness = 0.2


class MoCoV3(MomentumViews):
    """Contrast of predictions with a momentum teacher's projections of the batch.

    Args:
        cfg: recipe; ``method_kwargs`` are :class:`MoCoV3Options`.
    """

    Options = MoCoV3Options
    crops = CropRule(large=2, small=False)
    headline = ("mocov3_loss",)

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        own = self.options.model_copy(update={"proj_hidden_dim": self.options.pred_hidden_dim})
        self.predictor = mlp(self.options.proj_output_dim, own, 2)

    def build_projector(self) -> nn.Module:
        """All layers have batch norm, the last without affine."""
        return nn.Sequential(super().build_projector(), nn.BatchNorm1d(self.options.proj_output_dim, affine=False))

    def compare(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Both orders of the views."""
        assert target is not None
        (q1, q2), (k1, k2) = (F.normalize(full(rows)).chunk(2) for rows in (z, target))
        return contrast(q1, k2, self.options.temperature) + contrast(q2, k1, self.options.temperature), {}


def contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """InfoNCE times twice the temperature, among the keys of all processes.

    Args:
        q: ``(B, D)`` rows of unit length.
        k: ``(B, D)`` their keys.
        temperature: τ.
    """
    logits = q @ collectives.gather(k).flatten(0, 1).T / temperature
    own = torch.arange(len(q), device=q.device) + len(q) * collectives.rank()
    return 2 * temperature * F.cross_entropy(logits, own)
