"""Label-free measures against naive formulas and known answers."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from solo_bam.evaluate.health import alignment, alpha_req, effective_rank, lidar, spread, uniformity


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _with_spectrum(eigenvalues: torch.Tensor, rows: int = 300) -> torch.Tensor:
    """Centred features whose covariance has exactly these eigenvalues, up to one factor."""
    left = _normal(rows, len(eigenvalues)).double()
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(_normal(len(eigenvalues), len(eigenvalues), seed=1).double()).Q
    return left * eigenvalues.sqrt() @ right.T


def test_the_rank_of_known_features() -> None:
    assert effective_rank(_normal(20000, 32)) == pytest.approx(32, rel=1e-3)
    assert effective_rank(_normal(100, 1) @ _normal(1, 32)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(50, 8)) == 1
    assert effective_rank(_with_spectrum(torch.ones(7))) == pytest.approx(7, rel=1e-4)


def test_the_rank_is_the_published_formula() -> None:
    x = _normal(40, 12) * torch.linspace(0.1, 3, 12) + 1
    sigma = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = sigma / np.abs(sigma).sum() + 1e-7
    assert effective_rank(x) == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-9)
    assert effective_rank(x) == pytest.approx(effective_rank(1000 * x))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_a_power_law_gives_its_exponent(alpha: float) -> None:
    ranks = torch.arange(1, 129, dtype=torch.float64)
    assert alpha_req(_with_spectrum(ranks**-alpha) + 5) == pytest.approx(alpha, abs=1e-6)


def test_alpha_looks_at_its_range_alone() -> None:
    ranks = torch.arange(1, 129, dtype=torch.float64)
    spectrum = ranks**-1.0
    spectrum[:10], spectrum[100:] = 50.0, 1e-9
    assert alpha_req(_with_spectrum(spectrum)) == pytest.approx(1, abs=1e-6)
    assert alpha_req(_with_spectrum(spectrum), first=1, last=128) > 1.5


def test_alpha_is_a_weighted_least_squares_fit() -> None:
    x = _normal(200, 64)
    values = np.linalg.eigvalsh(np.cov(x.numpy().T.astype(np.float64)))[::-1]
    ranks = np.arange(11, 65)
    slope, _ = np.polyfit(np.log(ranks), np.log(values[10:]), 1, w=np.sqrt(1 / ranks))
    assert alpha_req(x) == pytest.approx(-slope, rel=1e-6)


def test_a_spectrum_too_short_for_alpha() -> None:
    assert math.isnan(alpha_req(_normal(100, 12)))
    assert math.isnan(alpha_req(_normal(12, 100)))
    assert math.isnan(alpha_req(torch.ones(50, 40)))


def test_alignment_and_uniformity_are_the_published_formulas() -> None:
    a, b = _normal(1030, 5).double(), _normal(1030, 5, seed=1).double()
    unit = [row / np.linalg.norm(row) for row in a.numpy()]
    others = [row / np.linalg.norm(row) for row in b.numpy()]
    naive = np.mean([np.sum((x - y) ** 2) for x, y in zip(unit, others)])
    assert alignment(a, b) == pytest.approx(naive)
    assert alignment(a, b, power=1) == pytest.approx(np.mean([np.linalg.norm(x - y) for x, y in zip(unit, others)]))
    few = np.array(list(combinations(range(60), 2)))
    squared = [np.sum((unit[i] - unit[j]) ** 2) for i, j in few]
    assert uniformity(a[:60]) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(squared)))))
    assert uniformity(a) == pytest.approx(
        float(torch.pdist(torch.tensor(np.array(unit))).square().mul(-2).exp().mean().log())
    )


def test_the_ends_of_the_scales() -> None:
    x = _normal(200, 64)
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    constant = torch.ones(200, 64)
    assert uniformity(constant) == pytest.approx(0, abs=1e-9)
    assert spread(constant) == pytest.approx(0, abs=1e-7)
    assert uniformity(_normal(2000, 512)) == pytest.approx(-4, abs=0.05)
    assert spread(torch.cat([x, -x])) == pytest.approx(1)


def test_what_is_no_set_of_features() -> None:
    for measure in (effective_rank, alpha_req, uniformity, spread):
        with pytest.raises(ValueError, match=r"got shape \(1, 8\)"):
            measure(torch.ones(1, 8))
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        alignment(torch.ones(3, 2), torch.ones(4, 2))


def test_lidar_is_the_published_formula() -> None:
    """Against eigenvalues of the matrix itself: the covariance between images, whitened by that within them."""
    views = _normal(5, 40, 6).double() * 0.3 + _normal(1, 40, 6, seed=1).double() * torch.linspace(0.1, 2, 6)
    means = views.mean(0)
    between = torch.cov((means - means.mean(0)).T, correction=0)
    within = torch.einsum("qni,qnj->ij", views - means, views - means) / 200 + 1e-4 * torch.eye(6)
    root = torch.linalg.inv(torch.linalg.cholesky(within))
    values = torch.linalg.eigvalsh(root @ between @ root.T)
    shares = values / values.sum()
    assert lidar(views) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-5)


def test_lidar_knows_what_views_share() -> None:
    """Directions in which views of an image differ as much as images do tell nothing apart."""
    noise = _normal(8, 200, 16)
    images = torch.zeros(1, 200, 16)
    images[..., :3] = _normal(200, 3, seed=1)
    assert lidar(5 * images + 0.1 * noise) == pytest.approx(3, rel=0.1)
