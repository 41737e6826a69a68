"""LeJEPA (Balestriero & LeCun, 2025, arXiv 2511.08544): prediction between views, and SIGReg against collapse.

z_vi is the projection of view v of image i, not normalized; V views, the first G of them large, N images:

    prediction = mean over v, i of ‖z_vi − mean_{g ≤ G} z_gi‖²                    all views predict the large ones' mean
    SIGReg     = mean over v and directions a of T({a · z_vi}_i)                  random directions, new at each step
    T(x)       = N ∫ |mean_n exp(i t x_n) − exp(−t²/2)|² exp(−t²/2) dt            Epps–Pulley, from −t_max to t_max
    loss       = (1 − lamb) · prediction + lamb · SIGReg

T is zero where x is standard normal: projections are drawn to an isotropic Gaussian, which cannot collapse. No teacher,
no predictor, no stopped gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam.config.section import Count, Positive, Share
from solo_bam.core import collectives
from solo_bam.methods.views import ProjectorOptions, Views, full


class LeJEPAOptions(ProjectorOptions):
    """``method_kwargs`` of lejepa."""

    proj_output_dim: Count = 64
    proj_num_layers: Count = 3
    lamb: Share = 0.05
    num_slices: Count = 1024
    knots: Count = 17
    t_max: Positive = 5.0


class LeJEPA(Views):
    """Prediction of the mean of the large views, with projections drawn to an isotropic Gaussian (SIGReg).

    Args:
        cfg: recipe; ``method_kwargs`` are :class:`LeJEPAOptions`.
    """

    Options = LeJEPAOptions
    headline = ("lejepa_loss",)

    def compare(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its two parts."""
        z = full(z).view(self.num_crops, -1, z.shape[1])
        slices = torch.randn(z.shape[2], self.options.num_slices, dtype=z.dtype, device=z.device)
        slices = F.normalize(collectives.all_sum(slices), dim=0)  # the same on all processes
        prediction = (z - z[: self.num_large_crops].mean(0)).square().sum(-1).mean()
        sigreg = epps_pulley(z @ slices, self.options.knots, self.options.t_max).mean()
        loss = (1 - self.options.lamb) * prediction + self.options.lamb * sigreg
        return loss, {"prediction": prediction, "sigreg": sigreg}


def epps_pulley(x: Tensor, knots: int, t_max: float) -> Tensor:
    """Epps and Pulley's statistic of each sample, against the standard normal; over the samples of all processes.

    Args:
        x: ``(…, N, M)``: M samples of N numbers.
        knots: of the trapezoidal rule over −t_max to t_max; the integrand is even, so half of them are computed.
        t_max: end of the integral.

    Returns:
        ``(…, M)``.
    """
    t = torch.linspace(0, t_max, knots // 2 + 1, dtype=x.dtype, device=x.device)
    normal = (-t.square() / 2).exp()
    angles = x.unsqueeze(-1) * t
    means = torch.stack([angles.cos().mean(-3), angles.sin().mean(-3)])  # of the empirical characteristic function
    real, imaginary = collectives.differentiable_sum(means) / collectives.world_size()
    distance = (real - normal).square() + imaginary.square()
    return 2 * x.shape[-2] * collectives.world_size() * torch.trapezoid(distance * normal, t)
