"""Rows of features: scaled to unit length, multiplied with one another, how far they are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from solo_bam.core import collectives
from solo_bam.losses._problem import Problem

# As torch's normalize has it.
_SHORTEST_ROW = 1e-12
# Length of the columns that are multiplied with rows of any length: no product with the largest numbers overflows. A
# power of two, which costs no digit.
SHORT = 2.0**-24
_PIECE_ENTRIES = 2**18  # of products that are new memory each time: 1 MiB in float32


@contextmanager
def tensor_cores(like: Tensor) -> Iterator[None]:
    """TF32 products on a GPU meanwhile, for features in bfloat16, which have lost more than TF32 loses; float16 not.

    Within a graph of torch's compiler the setting is the caller's: a change of it would end the graph.
    """
    if not like.is_cuda or like.dtype != torch.bfloat16 or torch.compiler.is_compiling():
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


class Workspace:
    """Memory for results on tiles, by their names; the same for all tiles, of which the first is the largest."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor:
        """Memory in this shape."""
        entries = math.prod(shape)
        if name not in self._memory:
            self._memory[name] = self._like.new_empty(entries)
        return self._memory[name][:entries].view(shape)


class Rows(NamedTuple):
    """Features of all crops; their rows are scaled to unit length where they are needed, some images at a time.

    A scaled copy of all would be, with wide features, more memory than anything else that the loss takes.

    Attributes:
        z: (V, B, D) in any floating dtype.
        inverse: what their rows are multiplied with, (V, B, 1) in float32 or float64; 0 where a row is too short to
            have a direction.
    """

    z: Tensor
    inverse: Tensor

    def short(self, crops: int) -> Tensor:
        """Rows of the first crops, scaled to the length :data:`SHORT`: (crops, B, D)."""
        return (self.z[:crops] * self.inverse[:crops]).mul_(SHORT)

    def by_columns(self, columns: Tensor, images: slice, factor: float, work: Workspace, out: Tensor) -> Tensor:
        """Factor times the products of some images' unit rows with unit columns (C, D): (V images, C)."""
        if self._as_they_are(images, columns):
            S = torch.mm(self.z.flatten(0, 1), columns.T, out=out)
            return S.mul_(self.inverse.flatten(0, 1) * (factor / SHORT))
        rows = self._unit(images, work).flatten(0, 1)
        return torch.addmm(columns.new_zeros(()), rows, columns.T, beta=0, alpha=factor / SHORT, out=out)

    def add_by_rows(self, G: Tensor, images: slice, factor: float, work: Workspace, out: Tensor) -> None:
        """Add to ``out`` (C, D), unless these are the first images, factor times the products of G with unit rows.

        Args:
            G: (V, images, C).
            images: of which.
            factor: of the products.
            work: memory, also for G.
            out: memory for the sum over images.
        """
        if self._as_they_are(images, out):
            rows, G = self.z, torch.mul(G, self.inverse, out=work("scaled", G.shape))
        else:
            rows = self._unit(images, work)
        out.addmm_(G.flatten(0, 1).T, rows.flatten(0, 1), beta=int(images.start > 0), alpha=factor)

    def _unit(self, images: slice, work: Workspace) -> Tensor:
        z = self.z[:, images]
        return torch.mul(z, self.inverse[:, images], out=work("rows", z.shape))

    def _as_they_are(self, images: slice, columns: Tensor) -> bool:
        """Whether to multiply the rows as they are and to scale the products, which are fewer numbers."""
        fewer = columns.shape[0] <= columns.shape[1]
        return fewer and images.stop - images.start == self.z.shape[1] and self.z.dtype == columns.dtype


def measure_rows(z: Tensor, p: Problem) -> Rows:
    """Features (V B, D) with what scales their rows."""
    inverse = torch.cat([_inverse_lengths(piece) for piece in torch.split(z, _at_once(z))])
    return Rows(z.view(p.V, p.B, -1), inverse.view(p.V, p.B, 1))


def _inverse_lengths(z: Tensor) -> Tensor:
    # Half precision holds no gradient of 1 / length below the root of its smallest number.
    shortest = max(_SHORTEST_ROW, math.sqrt(torch.finfo(z.dtype).tiny))
    z = z if z.dtype == torch.float64 else z.float()
    largest = torch.maximum(z.amax(-1, keepdim=True), z.amin(-1, keepdim=True).neg_())  # the norm is slow
    factor = torch.where(largest > shortest, largest.reciprocal(), 0)
    # By the largest entry first, so that no square overflows.
    return factor / torch.linalg.vector_norm(z * factor, dim=-1, keepdim=True).clamp_min_(1)


def _at_once(rows: Tensor) -> int:
    """How many rows a CPU's caches hold, since each operation on them is new memory; of a GPU all."""
    return max(1, _PIECE_ENTRIES // rows.shape[-1]) if rows.device.type == "cpu" else rows.numel()


def spread(rows: Tensor) -> Tensor:
    """Mean over crops and dimensions of the standard deviation over images: of (crops, images, D)."""
    return (rows - rows.mean(1, keepdim=True)).square_().mean(1).sqrt_().mean()


def project_(gradient: Tensor, rows: Rows) -> Tensor:
    """Take from the gradient (V, B, D), in place, what lies along its rows."""
    parts = (torch.split(x.flatten(0, 1), _at_once(gradient)) for x in (gradient, *rows))
    for dz, z, inverse in zip(*parts):
        unit = z * inverse
        dz.addcmul_(unit, torch.linalg.vecdot(dz, unit).unsqueeze(-1), value=-1)
    return gradient


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Sums of the products, view by view: (views, rows, columns) twice to (views,).

    Not by BLAS's dot, which adds millions of entries up in few running sums: on some processors that loses half the
    digits of float32.
    """
    return torch.linalg.vecdot(a, b).sum(-1)


def gather_columns(rows: Tensor, p: Problem) -> Tensor:
    """Rows (T B, D) or (T, B, D) of all processes, crop-major over the global batch: (C, D)."""
    return collectives.gather(rows).view(p.W, p.T, p.B, -1).transpose(0, 1).reshape(p.C, -1)


def short_columns(rows: Rows, p: Problem, own: Tensor | None = None) -> Tensor:
    """Columns of all processes, scaled to the length :data:`SHORT`: (C, D).

    Half precision travels as it is, in half of the bytes, and is scaled on arrival: the same bits.

    Args:
        rows: this process's.
        p: sizes.
        own: its first crops, scaled, where they are there already.
    """
    if p.W > 1 and rows.z.dtype.itemsize == 2:
        z, inverse = (gather_columns(part[: p.T], p) for part in rows)
        return (z * inverse).mul_(SHORT)
    return gather_columns((rows.short(p.T) if own is None else own)[: p.T], p)
