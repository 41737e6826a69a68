"""Entropy-regularised optimal transport with uniform marginals.

The transport plan of a log-kernel ``K = S / reg`` (rows x columns) has the form
``P_ic = exp(K_ic + f_i + g_c)``. Sinkhorn's iteration chooses ``g`` so that all columns sum to the same
value, then ``f`` so that all rows do. Two facts keep it short and stable:

* The last step scales each row to sum 1, so ``f`` cancels: ``P = softmax_c(K + g)`` and only the column
  potential ``g`` has to be kept. The marginals' constants cancel for the same reason.
* Given ``g``, the rows' scaling is a softmax. One pass over tiles of rows is therefore one whole
  iteration: ``g_c <- g_c - log sum_i softmax_c(K + g)_ic``.

After the first pass every column holds an entry of at least 1 / rows, so the column sums of the softmax
cannot underflow; only the first pass needs a log-sum-exp.

Where ``exp(K)`` and its inverse can be represented, an iteration is two products of ``exp(K)`` with a vector and takes
no exponential: ``exp(-g) <- exp(K)^T (1 / (exp(K) exp(g)))``, from ``exp(K)^T 1`` on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from solo_bam.core.collectives import all_logsumexp, all_sum


def column_potential(tiles: Callable[[Tensor | None], Iterable[Tensor]], num_iter: int) -> Tensor | None:
    """Column potential ``g`` after ``num_iter`` Sinkhorn iterations (columns first, then rows).

    Args:
        tiles: given a potential (None: zero), yields the log-kernel plus the potential in tiles
            ``(rows, columns)`` of this process's rows, float32 or float64, masked entries ``-inf`` or of an
            exponential of 0; called once per iteration. Tiles are overwritten.
        num_iter: number of iterations, at least 0.

    Returns:
        ``(columns,)``, the same on every process (column sums are taken over the rows of all
        processes), or None for 0 iterations, where ``g`` is zero.
    """
    if num_iter == 0:
        return None
    g = -all_logsumexp(_column_logsumexp(tiles(None)))
    for _ in range(num_iter - 1):
        sums = torch.zeros_like(g)
        for tile in tiles(g):
            softmax_(tile)
            sums += tile.sum(0)
        g = g - all_sum(sums).log()
    return g


def bounded_column_potential(tiles: Callable[[], Iterable[Tensor]], num_iter: int) -> Tensor | None:
    """:func:`column_potential` where the log-kernel's entries lie between ``-limit`` and ``limit``, or are masked.

    Args:
        tiles: yields the kernel ``exp(log-kernel)`` in tiles ``(rows, columns)`` of this process's rows, masked
            entries 0; called once per iteration. ``limit``: see :func:`largest_exponent`.
        num_iter: as there.

    Returns:
        As there; the middle between the largest and the smallest entry is 0.
    """
    g: Tensor | None = None
    for _ in range(num_iter):
        sums: Tensor | None = None
        scaling = None if g is None else g.exp()
        for kernel in tiles():
            if scaling is None:
                part = kernel.T.mv(kernel.new_ones(kernel.shape[0]))  # faster than torch's sum
            else:
                part = kernel.T.mv(kernel.mv(scaling).clamp_min_(_tiny(kernel)).reciprocal_())
            sums = part if sums is None else sums.add_(part)
        if sums is None:
            raise ValueError("sinkhorn needs at least one row, got none")
        # The clamps, here and above, keep finite what no data should come to.
        g = all_sum(sums).clamp_(_tiny(sums), 1 / _tiny(sums)).log_().neg_()
        g -= (g.amax() + g.amin()) / 2
    return g


def largest_exponent(dtype: torch.dtype) -> float:
    """The limit of :func:`bounded_column_potential`: the square of its exponential, times 1,000 rows, has its inverse.

    The square: an image that resembles no other has columns of the largest potential, all masked for its own rows.
    """
    return (-math.log(torch.finfo(dtype).tiny) - math.log(1000)) / 2


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def softmax_(x: Tensor) -> Tensor:
    """Softmax over the last dimension, in place.

    Args:
        x: ``(…, n)``, floating point; overwritten by the result.

    Returns:
        The log-sum-exp of ``x``, ``(…)``.
    """
    top = x.amax(-1, keepdim=True)
    return normalise_(x.sub_(top).exp_()).add_(top.squeeze(-1))


def normalise_(x: Tensor) -> Tensor:
    """Rows divided by their sums, in place.

    Args:
        x: ``(…, n)``, floating point, not negative; overwritten by the result.

    Returns:
        The logarithms of the sums, ``(…)``.
    """
    total = x.sum(-1, keepdim=True).clamp_min_(_tiny(x))
    x.mul_(total.reciprocal())
    return total.log_().squeeze(-1)


def _column_logsumexp(tiles: Iterable[Tensor]) -> Tensor:
    """Running log-sum-exp over the rows of all tiles: ``(columns,)``."""
    total: Tensor | None = None
    for tile in tiles:
        top = tile.amax(0)
        part = tile.sub_(top).exp_().sum(0).log_().add_(top)
        total = part if total is None else torch.logaddexp(total, part)
    if total is None:
        raise ValueError("sinkhorn needs at least one row, got none")
    return total


def sinkhorn(log_kernel: Tensor, num_iter: int = 3) -> Tensor:
    """Balanced attention of one dense log-kernel; the columns are balanced over all processes.

    Args:
        log_kernel: ``(rows, columns)``, similarities divided by ``reg``; masked entries ``-inf``.
        num_iter: Sinkhorn iterations, at least 0 (0 gives the plain row softmax).

    Returns:
        ``(rows, columns)``, non-negative, each row of sum 1.
    """
    if num_iter < 0:
        raise ValueError(f"num_iter must be at least 0, got {num_iter}")
    g = column_potential(lambda g: [log_kernel.clone() if g is None else log_kernel + g], num_iter)
    return torch.softmax(log_kernel if g is None else log_kernel + g, dim=-1)


def marginal_error(plan: Tensor) -> Tensor:
    """How far the columns are from balanced: the mean of ``|column sum / mean column sum - 1|``.

    Args:
        plan: ``(rows, columns)`` of this process, as :func:`sinkhorn` returns it.

    Returns:
        a scalar, 0 for perfectly balanced columns; the same on every process.
    """
    sums = all_sum(plan.sum(0))
    return (sums / sums.mean() - 1).abs().mean()
