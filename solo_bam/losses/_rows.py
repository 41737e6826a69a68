"""Rows of features: scaled to unit length, multiplied with one another, how far they are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from solo_bam.core import collectives
from solo_bam.losses._problem import Problem

# As torch's normalize has it.
_SHORTEST_ROW = 1e-12
_PIECE_ENTRIES = 2**18  # of products that are new memory each time: 1 MiB in float32


@contextmanager
def tensor_cores(like: Tensor) -> Iterator[None]:
    """TF32 products on a GPU meanwhile, for features in half precision, which have lost more than TF32 loses."""
    if not like.is_cuda or like.dtype not in (torch.float16, torch.bfloat16):
        yield
        return
    products = torch.backends.cuda.matmul
    name, fast = ("fp32_precision", "tf32") if hasattr(products, "fp32_precision") else ("allow_tf32", True)
    before = getattr(products, name)
    setattr(products, name, fast)
    try:
        yield
    finally:
        setattr(products, name, before)


def unit_rows(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length in float32 or float64, and what they were multiplied with (rows, 1).

    A row too short to have a direction is zero, and so is its gradient.
    """
    # Half precision holds no gradient of 1 / length below the root of its smallest number.
    shortest = max(_SHORTEST_ROW, math.sqrt(torch.finfo(z.dtype).tiny))
    z = z if z.dtype == torch.float64 else z.float()
    largest = torch.maximum(z.amax(-1, keepdim=True), z.amin(-1, keepdim=True).neg_())  # the norm is slow
    factor = torch.where(largest > shortest, largest.reciprocal(), 0)
    unit = z * factor  # by the largest entry first, so that no square overflows
    inverse = torch.linalg.vector_norm(unit, dim=-1, keepdim=True).clamp_min_(1).reciprocal_()
    return unit.mul_(inverse), factor.mul_(inverse)


def spread(rows: Tensor) -> Tensor:
    """Mean over crops and dimensions of the standard deviation over images: of (crops, images, D)."""
    return (rows - rows.mean(1, keepdim=True)).square_().mean(1).sqrt_().mean()


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Products of the rows of two matrices, (rows, 1); piece by piece, since each piece needs memory of its size."""
    size = max(1, _PIECE_ENTRIES // a.shape[1])
    pieces = zip(torch.split(a, size), torch.split(b, size))
    return torch.cat([torch.linalg.vecdot(x, y) for x, y in pieces]).unsqueeze(-1)


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Sums of the products, view by view: (views, rows, columns) twice to (views,).

    Not by BLAS's dot, which adds millions of entries up in few running sums: on some processors that loses half the
    digits of float32.
    """
    return torch.linalg.vecdot(a, b).sum(-1)


def gather_columns(rows: Tensor, p: Problem) -> Tensor:
    """Rows of the first T crops of all processes, crop-major over the global batch: (C, D)."""
    gathered = collectives.gather(rows[: p.T * p.B])  # (W, T B, D)
    return gathered.view(p.W, p.T, p.B, -1).transpose(0, 1).reshape(p.C, -1)
