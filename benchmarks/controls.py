"""Controls for BAM's targets: the same loss, with targets that hold no relations between images.

``bam_uniform_targets``: a target row is uniform over the columns of other images (label smoothing, where
``positive_weight`` is above 0). ``bam_permuted_targets``: a target row's own values, at random other images.
Not for recipes: ``--import benchmarks.controls`` registers them for ``benchmarks/controls.yaml``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from solo_bam.losses import BAMLoss
from solo_bam.losses.bam import Statistics, dense_loss
from solo_bam.methods.bam import BAM
from solo_bam.solo_learn import METHODS


def uniform(P: Tensor) -> Tensor:
    """Equal shares where a row has any.

    Args:
        P: ``(…, C)``, rows of sum 1; 0 in the columns that are hidden.
    """
    return (P > 0) / (P > 0).sum(-1, keepdim=True)


def permuted(P: Tensor) -> Tensor:
    """Each row's values in random order; what is 0 stays where it is.

    Args:
        P: ``(…, C)``, with as many entries above 0 in every row.
    """
    columns = (P > 0).nonzero()[:, -1].view(*P.shape[:-1], -1)
    order = torch.rand(columns.shape, device=P.device).argsort(-1)
    return torch.zeros_like(P).scatter(-1, columns.gather(-1, order), P.gather(-1, columns))


class _Controlled(BAMLoss):
    change = staticmethod(uniform)

    def with_statistics(self, z: Tensor, z_teacher: Tensor | None = None) -> tuple[Tensor, Statistics]:
        with torch.no_grad():
            _, statistics = super().with_statistics(z, z_teacher)
        p = self._problem(images=z.shape[0] // self.num_crops)
        return dense_loss(z.float(), z_teacher, p, self.change), statistics


class _Permuted(_Controlled):
    change = staticmethod(permuted)


class UniformTargets(BAM):
    """BAM with uniform targets."""

    Loss = _Controlled


class PermutedTargets(BAM):
    """BAM with its targets' values at random other images."""

    Loss = _Permuted


METHODS["bam_uniform_targets"] = UniformTargets
METHODS["bam_permuted_targets"] = PermutedTargets
