"""Sinkhorn: marginals, stability and tiles."""

from __future__ import annotations

import pytest
import torch

from solo_bam.losses import marginal_error, sinkhorn
from solo_bam.losses.sinkhorn import bounded_column_potential, column_potential, largest_exponent


def _log_kernel(reg: float = 0.1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    z = torch.nn.functional.normalize(
        torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=dtype), dim=1
    )
    return z @ z[:20].T / reg


def test_both_marginals_are_uniform_at_convergence() -> None:
    plan = sinkhorn(_log_kernel(), num_iter=500)
    torch.testing.assert_close(plan.sum(1), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((20,), 1.5, dtype=torch.float64))
    assert (plan >= 0).all()


def test_more_iterations_balance_better() -> None:
    errors = [marginal_error(sinkhorn(_log_kernel(), n)).item() for n in (0, 1, 3, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1 > 1e-6 > errors[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_reg_does_not_underflow(dtype: torch.dtype) -> None:
    plan = sinkhorn(_log_kernel(reg=0.001, dtype=dtype), num_iter=10)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), torch.ones(30, dtype=dtype))


def test_tiles_give_the_same_potential() -> None:
    kernel = _log_kernel()
    whole = column_potential(lambda g: [kernel + (0 if g is None else g)], 4)
    tiled = column_potential(lambda g: (kernel + (0 if g is None else g)).split(7), 4)
    assert whole is not None
    assert tiled is not None
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_iter", [0, 1, 3, 20])
@pytest.mark.parametrize("kind", ["random", "one unlike all", "two groups"])
def test_products_with_the_kernel_give_the_same_potential(kind: str, num_iter: int) -> None:
    """In float32 and at the largest exponent, against float64 and log-sum-exps; an image's own columns are masked."""
    z = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    if kind != "random":
        z = 1e-3 * z + z[0]  # nearly the same direction
        z[torch.arange(40) % 20 < (1 if kind == "one unlike all" else 5)] *= -1
        z = torch.nn.functional.normalize(z, dim=1)
    own = torch.arange(40)[:, None] % 20 == torch.arange(40) % 20
    log_kernel = (z @ z.T * largest_exponent(torch.float32)).masked_fill(own, -1e30)
    kernel = log_kernel.exp()
    exact = log_kernel.double()
    expected = column_potential(lambda g: [exact + (0 if g is None else g)], num_iter)
    found = bounded_column_potential(lambda: kernel.split(7), num_iter)
    if expected is None or found is None:
        assert (expected, found, num_iter) == (None, None, 0)
        return
    expected -= (expected.amax() + expected.amin()) / 2
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert found.amax() > 0.5  # nothing trivial


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_largest_exponent(dtype: torch.dtype) -> None:
    """The largest sum of a thousand products of kernel and scaling, and the inverse of the smallest, are numbers."""
    largest = torch.tensor(2 * largest_exponent(dtype), dtype=dtype).exp()
    assert (1000 * largest).isfinite()
    assert largest.reciprocal() > torch.finfo(dtype).tiny
    assert (largest * 1e4).reciprocal() < torch.finfo(dtype).tiny  # not needlessly small


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_iter must be at least 0, got -1"):
        sinkhorn(_log_kernel(), -1)
    with pytest.raises(ValueError, match="at least one row"):
        column_potential(lambda g: [], 3)
    with pytest.raises(ValueError, match="at least one row"):
        bounded_column_potential(list, 3)
