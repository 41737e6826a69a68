"""EMP-SSL (Tong et al., 2023, arXiv 2304.03977): many patches of an image, their mean, and total coding rate.

z_vi, of unit length, is the projection of patch v of image i; V patches, N images, D dimensions:

    R(Z)       = ½ log det(I + D / (N ε²) Zᵀ Z)            total coding rate of a patch number's (N, D) projections
    invariance = mean over v, i of cos(z_vi, mean_v z_vi)
    loss       = −mean over v of R(Z_v) − weight · invariance

``epsilon`` is ε² (0.2 as published). How many patches and of which scale, the recipe's ``augmentations`` say: 20 to 200
crops of a quarter of the area as published, 20 in ``quick/emp_ssl_patches``, with as many more pixels seen and as much
longer a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam.config.section import Count, NonNegative, Positive
from solo_bam.core import collectives
from solo_bam.methods.views import ProjectorOptions, Views, full


class EMPSSLOptions(ProjectorOptions):
    """``method_kwargs`` of emp_ssl."""

    proj_hidden_dim: Count = 4096
    proj_output_dim: Count = 1024
    weight: NonNegative = 200.0
    epsilon: Positive = 0.2


class EMPSSL(Views):
    """Extreme multi-patch learning: patches agree with their mean, and fill the space (total coding rate).

    Args:
        cfg: recipe; ``method_kwargs`` are :class:`EMPSSLOptions`.
    """

    Options = EMPSSLOptions
    headline = ("emp_ssl_loss",)

    def compare(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its two parts."""
        z = F.normalize(full(z), dim=1).view(self.num_crops, -1, z.shape[1])
        rate = coding_rate(z, self.options.epsilon).mean()
        invariance = F.cosine_similarity(z, z.mean(0), dim=-1).mean()
        return -rate - self.options.weight * invariance, {"coding_rate": rate, "invariance": invariance}


def coding_rate(z: Tensor, epsilon: float) -> Tensor:
    """Total coding rate of each set of rows, over those of all processes.

    Args:
        z: ``(V, N, D)`` rows of unit length.
        epsilon: ε², the squared distortion.

    Returns:
        ``(V,)``.
    """
    rows, width = collectives.world_size() * z.shape[1], z.shape[2]
    products = collectives.differentiable_sum(z.mT @ z)
    eye = torch.eye(width, dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky_ex(eye + width / (rows * epsilon) * products).L  # does not wait for the device
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
