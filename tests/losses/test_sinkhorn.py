"""Sinkhorn: marginals, stability and tiles."""

from __future__ import annotations

import pytest
import torch

from solo_bam.losses import marginal_error, sinkhorn
from solo_bam.losses.sinkhorn import column_potential


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


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_iter must be at least 0, got -1"):
        sinkhorn(_log_kernel(), -1)
    with pytest.raises(ValueError, match="at least one row"):
        column_potential(lambda g: [], 3)
