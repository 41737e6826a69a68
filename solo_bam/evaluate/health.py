"""How healthy features are, without any label, in pure torch.

Singular values and eigenvalues are computed in float64: what matters of a spectrum are its small values.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Ranks of the eigenvalues that alpha is fitted over, as in the published code of α-ReQ.
FIT_FIRST, FIT_LAST = 11, 100
_PAIRS_ROWS = 1024  # rows whose distances to all others are held at once


def effective_rank(features: Tensor, epsilon: float = 1e-7) -> float:
    """RankMe (Garrido et al., ICML 2023, eq. 1): exp of the entropy of the singular values, scaled to sum 1.

    Comparable between features of the same images only: few images bound it.

    Args:
        features: ``(N, D)``, not centred.
        epsilon: added to each share, as published.

    Returns:
        1 (all features lie on one line) to min(N, D) (they fill the space evenly); 1 where all are 0.
    """
    values = torch.linalg.svdvals(_checked(features))
    if not values[0] > 0:
        return 1.0
    shares = values / values.sum() + epsilon
    return float(torch.special.entr(shares).sum().exp())


def alpha_req(features: Tensor, first: int = FIT_FIRST, last: int = FIT_LAST) -> float:
    """α-ReQ (Agrawal et al., NeurIPS 2022): the exponent of eigenvalue ∝ rank^-alpha of the covariance.

    A line is fitted to log eigenvalue over log rank, each rank j weighted by 1/j, so that every decade counts alike.

    Args:
        features: ``(N, D)``.
        first: rank, from 1, of the first eigenvalue of the fit.
        last: of the last; eigenvalues that are rounding (below 1e-12 of the largest) are left out.

    Returns:
        Above 0; about 1 is best according to the paper, 0 is a white spectrum, large is a narrow one. NaN where the
        fit has less than three eigenvalues.
    """
    x = _checked(features)
    eigenvalues = torch.linalg.svdvals(x - x.mean(0)) ** 2
    count = min(last, int((eigenvalues > 1e-12 * eigenvalues[0]).sum()))
    if count - first + 1 < 3:
        return math.nan
    ranks = torch.arange(first, count + 1, dtype=x.dtype, device=x.device)
    weights = (1 / ranks) / (1 / ranks).sum()
    log_rank, log_value = ranks.log(), eigenvalues[first - 1 : count].log()
    log_rank, log_value = (log - (weights * log).sum() for log in (log_rank, log_value))
    return float(-(weights * log_rank * log_value).sum() / (weights * log_rank**2).sum())


def alignment(view: Tensor, other: Tensor, power: float = 2.0) -> float:
    """Mean distance between two views of an image (Wang & Isola, ICML 2020), scaled to unit length.

    Args:
        view: ``(N, D)``, one row per image.
        other: ``(N, D)``, the same images.
        power: of the distance.

    Returns:
        0 (views coincide) to 2^power.
    """
    if view.shape != other.shape:
        raise ValueError(f"views must have one shape, got {tuple(view.shape)} and {tuple(other.shape)}")
    distances = (F.normalize(_checked(view), dim=1) - F.normalize(_checked(other), dim=1)).norm(dim=1)
    return float((distances**power).mean())


def uniformity(features: Tensor, t: float = 2.0) -> float:
    """Log of the mean of exp(-t · squared distance) over all pairs of images (Wang & Isola, ICML 2020).

    Args:
        features: ``(N, D)``, N at least 2; scaled to unit length.
        t: above 0.

    Returns:
        0 (all coincide) down to about -2t (spread evenly over the sphere).
    """
    x = F.normalize(_checked(features), dim=1)
    total = x.new_zeros(())
    for start in range(0, len(x), _PAIRS_ROWS):
        squared = (2 - 2 * x[start : start + _PAIRS_ROWS] @ x.T).clamp(min=0)
        total += (-t * squared).exp().sum()
    pairs = len(x) * (len(x) - 1)
    return float(((total - len(x)) / pairs).log())  # less each row with itself, which is 1


def lidar(views: Tensor, delta: float = 1e-4, epsilon: float = 1e-8) -> float:
    """LiDAR (Thilak et al., ICLR 2024): effective rank of what tells images apart, measured by what their views share.

    Args:
        views: ``(Q, N, D)``, Q random views of each image, which are a class.
        delta: added to the diagonal of the covariance within images.
        epsilon: added to each share, as published.

    Returns:
        1 to min(N - 1, D).
    """
    x = views.detach().double()
    means = x.mean(0)
    inside = (x - means).flatten(0, 1)
    within = inside.T @ inside / len(inside) + delta * torch.eye(x.shape[-1], dtype=x.dtype)
    between = (means - means.mean(0)).T / len(means) ** 0.5
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between, upper=False)
    values = torch.linalg.svdvals(whitened) ** 2
    shares = values / values.sum().clamp(min=1e-300) + epsilon
    return float(torch.special.entr(shares).sum().exp())


def spread(features: Tensor) -> float:
    """Standard deviation of the features, scaled to unit length: root of its sum of squares over the dimensions.

    Args:
        features: ``(N, D)``.

    Returns:
        0 (all features point one way) to 1 (their mean is 0), whatever D.
    """
    x = F.normalize(_checked(features), dim=1)
    return float(x.var(0, correction=0).sum().sqrt())


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N at least 2, got shape {tuple(features.shape)}")
    return features.detach().double()
