"""The loss of BAM: *Unsupervised Representation Learning by Balanced Self Attention Matching*
(Shalam & Korman, ECCV 2024, arXiv 2408.02014).

Every view of an image attends to a batch of columns. The *target attention* P of a view is its
similarities balanced by Sinkhorn with entropy regularisation ``reg``; the *source attention* A is a plain
softmax with a temperature. The loss is the cross-entropy between the target attention of one view and the
source attention of another view of the same image.

Notation, used throughout: V crops per image, of which the first L are large (targets) and the first T are
columns; B images per process and crop, W processes, D dimensions, C = T W B columns. Rows are crop-major:
row v B + i is view v of image i. Columns are crop-major over the global batch: column k W B + w B + i is
view k of image i of process w.

How it is computed. With G_v = n_v A_v - sum_{l != v} P_l, where n_v counts the targets l != v,

    d loss / d z = 1 / (L (V-1) B temperature) * G t
    d loss / d t = 1 / (L (V-1) B temperature) * G^T z
    loss         = 1 / (L (V-1) B) * sum_{v,i} n_v entropy(A_vi) + <z, d loss / d z>

(the cross-entropy, with the products with P taken from the gradient), so one pass over the images gives the value and
both gradients. The kernel is computed in tiles, small enough for a cache, on which all elementwise work is done; it is
exponentiated once where float32 can hold that, so that Sinkhorn's iterations are products with a vector. Tiles are kept
between the passes if they are few together (64 MiB in float32), else computed again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from solo_bam.core import collectives
from solo_bam.losses.sinkhorn import bounded_column_potential, column_potential, largest_exponent, normalise_, softmax_

# Entries of a tile of similarities: few enough for a CPU's caches, enough for all its threads (8 MiB in float32).
_CPU_TILE_ENTRIES = 2**21
_GPU_TILE_ENTRIES = 2**24
# At least so many rows has a tile, however wide: matrix products of fewer rows are slow.
_TILE_ROWS = 256
# Entries of all tiles together, up to which they are kept between the passes (64 MiB in float32).
_KEPT_ENTRIES = 2**24
# Entries of one dot product: a CPU adds them up in few running sums, which millions would make imprecise.
_CPU_DOT_ENTRIES = 2**16
# Below, float32 can no longer tell similarities / reg apart.
_SMALLEST_SETTING = 1e-6
# As torch's normalize has it.
_SHORTEST_ROW = 1e-12

Statistics = dict[str, Tensor]


@dataclass(frozen=True)
class _Problem:
    """Sizes and settings of one call, in the notation of this module."""

    V: int
    L: int
    T: int
    B: int
    W: int
    rank: int
    reg: float
    temperature: float
    num_sink_iter: int
    top_k: int
    masking: bool

    @property
    def C(self) -> int:
        return self.T * self.W * self.B

    @property
    def scale(self) -> float:
        """Of the loss: one over target views, source views and images."""
        return 1.0 / (self.L * max(self.V - 1, 1) * self.B)

    def images_of_a_tile(self, like: Tensor) -> int:
        """How many images' rows of all crops make a tile."""
        return max(1, min(self.B, max(_tile_entries(like) // self.C, _TILE_ROWS) // self.V))

    def positives(self, S: Tensor, first: int) -> Tensor:
        """View of the entries of ``S`` that pair an image (from image ``first`` on) with itself: (crops, T, images)."""
        return S.view(*S.shape[:2], self.T, -1).diagonal(self.rank * self.B + first, dim1=1, dim2=3)

    @property
    def sharpness(self) -> float:
        """Of the source attention, compared with the log-kernel: its logits are the log-kernel times this."""
        return self.reg / self.temperature

    def masked_value(self, dtype: torch.dtype) -> float:
        """A logit whose exponential is 0, and which stays finite times ``sharpness``."""
        return torch.finfo(dtype).min / 4 * min(1.0, 1 / self.sharpness)


def _tile_entries(like: Tensor) -> int:
    return _CPU_TILE_ENTRIES if like.device.type == "cpu" else _GPU_TILE_ENTRIES


class _Kernel:
    """The log-kernel ``rows @ columns.T / reg`` or its exponential, positives masked, in tiles of images."""

    def __init__(self, p: _Problem, rows: Tensor, columns: Tensor, exponentiated: bool, several_passes: bool):
        self.p, self.rows, self.columns, self.exponentiated = p, rows.view(p.V, p.B, -1), columns, exponentiated
        self.keep = several_passes and p.V * p.B * p.C <= _KEPT_ENTRIES
        self.kept: list[tuple[slice, Tensor]] = []
        self.positive_similarity = rows.new_zeros(())  # cosine of different views of an image, summed over the images

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Images and their part, (V, images, C); where parts are not kept, the next one takes its place."""
        if self.kept:
            yield from self.kept
            return
        p, step = self.p, self.p.images_of_a_tile(self.columns)
        self.positive_similarity = torch.zeros_like(self.positive_similarity)
        memory: Tensor | None = None
        for start in range(0, p.B, step):
            images = slice(start, min(start + step, p.B))
            rows = p.V * (images.stop - start)
            if memory is None or self.keep:
                memory = self.columns.new_empty(rows, p.C)
            tile = self._fill(memory[:rows], images)
            if self.keep:
                self.kept.append((images, tile))
            yield images, tile

    def _fill(self, tile: Tensor, images: slice) -> Tensor:
        p, rows = self.p, self.rows[:, images].flatten(0, 1)
        S = torch.addmm(rows.new_zeros(()), rows, self.columns.T, beta=0, alpha=1 / p.reg, out=tile).view(p.V, -1, p.C)
        positives = p.positives(S, images.start)
        self.positive_similarity += _of_different_views(positives.sum(-1)) * p.reg
        if p.masking:
            positives.fill_(p.masked_value(S.dtype))
        return S.exp_() if self.exponentiated else S

    def logits(self, tile: Tensor, first: int, work: _Workspace) -> Tensor:
        """The log-kernel of a tile (crops, images, C) whose first image is ``first``; finite."""
        if not self.exponentiated:
            return tile
        S = torch.log(tile, out=work("S", tile))
        if self.p.masking:
            self.p.positives(S, first).fill_(self.p.masked_value(S.dtype))
        return S


def _of_different_views(pairs: Tensor) -> Tensor:
    """Mean of the entries of ``pairs`` (V, T) off the diagonal; with one view, of its pair with itself."""
    if pairs.shape[0] == 1:
        return pairs.mean()
    # Not by choosing entries with a mask, for which the host would wait for the device.
    same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0).sum() / (pairs.numel() - min(pairs.shape))


class _Workspace:
    """Memory for results on tiles, by their names; the same for all tiles, of which the first is the largest."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """Memory in the shape of ``like``."""
        if name not in self._memory:
            self._memory[name] = torch.empty_like(like).flatten()
        return self._memory[name][: like.numel()].view(like.shape)


def _potential(p: _Problem, kernel: _Kernel, work: _Workspace) -> Tensor | None:
    """Sinkhorn's column potential over all rows of all processes: (C,)."""

    def tiles(g: Tensor | None) -> Iterator[Tensor]:
        for _, S in kernel.tiles():
            yield _plus(S, g, work("S", S)).flatten(0, 1)

    if kernel.exponentiated:
        return bounded_column_potential(lambda: (K.flatten(0, 1) for _, K in kernel.tiles()), p.num_sink_iter)
    return column_potential(tiles, p.num_sink_iter)


def _fits(largest: float, like: Tensor) -> bool:
    """Whether exponentials of numbers up to ``largest``, their sums and the inverse of these can be represented."""
    return largest <= largest_exponent(like.dtype)


def _plus(S: Tensor, g: Tensor | None, out: Tensor) -> Tensor:
    return out.copy_(S) if g is None else torch.add(S, g, out=out)


def _target_attention(
    kernel: _Kernel, tile: Tensor, S: Tensor, g: Tensor | None, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """P of a tile of the kernel (L, images, C), rows of sum 1; its entropy and its largest entries, summed.

    Args:
        kernel: of the targets.
        tile: of it.
        S: the tile's log-kernel.
        g: column potential (C,).
        out: memory for P.
    """
    if kernel.exponentiated:
        P = out.copy_(tile) if g is None else torch.mul(tile, g.exp(), out=out)
        lse = normalise_(P)
    else:
        P = _plus(tile, g, out)
        lse = softmax_(P)
    p = kernel.p
    if p.top_k == 0:
        logits = _dots(P, S).sum() + (0 if g is None else P.flatten(0, 1).mv(g).sum())
        return P, lse.sum() - logits, P.amax(-1).sum()
    # The columns are chosen by the average over the image's views. Renormalising in the log domain keeps
    # a view whose mass lies elsewhere finite.
    columns = P.mean(0).topk(p.top_k, dim=-1, sorted=False).indices.expand(p.L, -1, -1)
    chosen = S.gather(-1, columns)
    kept = torch.softmax(chosen if g is None else chosen + g[columns], dim=-1)
    return P.zero_().scatter_(-1, columns, kept), torch.special.entr(kept).sum(), kept.amax(-1).sum()


def _source_attention(p: _Problem, S: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """A of a tile of the log-kernel (V, images, C), rows of sum 1, and the log-sum-exp of its logits (V, images)."""
    A = torch.mul(S, p.sharpness, out=out)
    lse = normalise_(A.exp_()) if _fits(1 / p.temperature, A) else softmax_(A)
    return A, lse


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Sums of the products, view by view: (views,)."""
    size = _CPU_DOT_ENTRIES if a.device.type == "cpu" else a[0].numel()
    pieces = zip(torch.split(a.flatten(1), size, 1), torch.split(b.flatten(1), size, 1))
    return torch.stack([torch.stack([torch.dot(x, y) for x, y in zip(*piece)]) for piece in pieces]).sum(0)


class _AttentionMatching(torch.autograd.Function):
    """Loss and statistics of projections; their gradient is computed with them."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, z_teacher: Tensor | None, p: _Problem) -> tuple[Tensor, ...]:
        rows, inverse_norms = _unit_rows(z)
        target_rows = rows if z_teacher is None else _unit_rows(z_teacher)[0].to(rows.dtype)
        columns = _gather_columns(target_rows, p)
        # Above 1, exponentials are so near to 1 that they no longer tell the similarities apart.
        bounded = p.reg <= 1 and _fits(1 / p.reg, columns)
        several_passes = p.num_sink_iter > 0
        target = source = _Kernel(p, target_rows, columns, bounded and several_passes, several_passes)
        if z_teacher is not None:
            source = _Kernel(p, rows, columns, exponentiated=False, several_passes=False)
        totals, dz, dt = _pass(p, source, target, z_teacher is None and ctx.needs_input_grad[0])

        along = _row_dots(dz, rows)
        ctx.p, ctx.dtype, ctx.gradients = p, z.dtype, (rows, inverse_norms, dz, dt, along)
        weighted_entropy, source_entropy, target_entropy, largest = totals
        statistics = (
            target_entropy.clamp(min=0) / (p.L * p.B),
            source_entropy.clamp(min=0) / (p.V * p.B),
            largest / (p.L * p.B),
            source.positive_similarity / p.B,
            _spread(rows[: p.L * p.B].view(p.L, p.B, -1)),
        )
        ctx.mark_non_differentiable(*statistics)
        return (weighted_entropy * p.scale + along.sum(), *statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, None, None]:
        p: _Problem = ctx.p
        rows, inverse_norms, dz, dt, along = ctx.gradients
        along = grad * along
        dz = dz * (grad * inverse_norms)
        if dt is not None:
            first = slice(p.T * p.B)
            own = _own_columns(p, grad * dt)
            along[first] += _row_dots(own, rows[first])
            dz[first].addcmul_(own, inverse_norms[first])
        return dz.addcmul_(rows, along.mul_(inverse_norms), value=-1).to(ctx.dtype), None, None


def _row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Products of the rows of two matrices, (rows, 1); piece by piece, since each piece needs memory of its size."""
    size = max(1, _tile_entries(a) // 8 // a.shape[1])  # an eighth of a tile: products are new memory each time
    pieces = zip(torch.split(a, size), torch.split(b, size))
    return torch.cat([torch.linalg.vecdot(x, y) for x, y in pieces]).unsqueeze(-1)


def _own_columns(p: _Problem, dt: Tensor) -> Tensor:
    """Of a gradient by all columns (C, D), that by this process's (T B, D): every process's loss depends on them."""
    return collectives.own_sum(dt.view(p.T, p.W, p.B, -1).transpose(0, 1).flatten(1, 2))


def _pass(p: _Problem, source: _Kernel, target: _Kernel, need_dt: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums over all images, and the gradients by normalised rows (V B, D) and columns (C, D).

    The sums (4,): entropy of A with the weights n_v and without, entropy of P, P's largest entries. The gradient by
    rows is a part of the loss's value, and computed whether or not anybody asks for a gradient.
    """
    columns, work = source.columns, _Workspace()
    g = _potential(p, target, work)
    totals = columns.new_zeros(4)
    dz = columns.new_empty(p.V, p.B, columns.shape[1])
    dt = torch.empty_like(columns) if need_dt else None
    factor = -p.scale / p.temperature  # of -G
    for images, K, K_target in _pairs(source, target):
        S = source.logits(K, images.start, work)
        S_target = S[: p.L] if source is target else target.logits(K_target, images.start, work)
        P, *of_targets = _target_attention(target, K_target, S_target, g, work("P", K_target))
        minus_G, *of_sources = _match(p, S, P, out=work("A", S))
        totals += torch.stack([*of_sources, *of_targets])
        product = dz.flatten(0, 1) if K.shape[1] == p.B else None
        product = torch.addmm(columns.new_zeros(()), minus_G.flatten(0, 1), columns, beta=0, alpha=factor, out=product)
        dz[:, images] = product.view(p.V, -1, dz.shape[2])
        if dt is not None:
            rows = source.rows[:, images].flatten(0, 1)
            first_tile = images.start == 0
            dt.addmm_(minus_G.flatten(0, 1).T, rows, beta=int(not first_tile), alpha=factor)
    return totals, dz.flatten(0, 1), dt


def _pairs(source: _Kernel, target: _Kernel) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Images, their source kernel (V, images, C) and their target kernel (L, images, C)."""
    L = source.p.L
    if source is target:
        yield from ((images, K, K[:L]) for images, K in source.tiles())
    else:
        yield from ((images, K, K_target[:L]) for (images, K), (_, K_target) in zip(source.tiles(), target.tiles()))


def _match(p: _Problem, S: Tensor, P: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-G of a tile (V, images, C), and A's entropy, summed with the weights n_v and without.

    Args:
        S: the log-kernel (V, images, C).
        P: target attention (L, images, C).
        out: memory for -G.
    """
    A, lse = _source_attention(p, S, out)
    entropy = lse.sum(1) - _dots(A, S) * p.sharpness
    weighted = S.new_zeros(())
    for views, targets, count in _targets_of_views(p, P):
        weighted += count * entropy[views].sum()
        torch.sub(targets, A[views], alpha=count, out=A[views])
    return A, weighted, entropy.sum()


def _targets_of_views(p: _Problem, P: Tensor) -> Iterator[tuple[slice, Tensor, int]]:
    """Source views, the sum of their targets (images, C) and its number: the large views but the source itself."""
    total = sum(P[1:], P[0]) if p.V > 2 else P[0]  # torch's sum over a short first dimension is slow
    for v in range(p.L):
        others = P[0] if p.V == 1 else P[1 - v] if p.L == 2 else total - P[v]
        yield slice(v, v + 1), others, max(p.L - 1, int(p.V == 1))
    if p.V > p.L:
        yield slice(p.L, p.V), total, p.L


def bam_loss(
    z: Tensor,
    z_teacher: Tensor | None = None,
    *,
    num_crops: int,
    num_large_crops: int,
    target_crops_number: int | None = None,
    reg: float = 0.05,
    temperature: float = 0.1,
    num_sink_iter: int = 3,
    top_k_sink: int = 0,
    positive_masking: bool = True,
) -> tuple[Tensor, Statistics]:
    """BAM's loss and what is worth watching beside it. The arguments are those of :class:`BAMLoss`.

    Args:
        z: ``(V B, D)`` projections, crop-major, any floating dtype, any scale. A zero row (in float16, one
            without an entry above 0.008) has no direction: it resembles nothing and gets no gradient.
        z_teacher: the momentum teacher's projections of the same crops, same shape; it gives columns and
            targets and receives no gradient.

    Returns:
        The loss, a scalar in float32 (float64 for float64 features), and statistics without gradient, of
        this process's rows: ``target_entropy`` and ``source_entropy`` (nats, mean over rows),
        ``target_max`` (largest entry of a target row, mean), ``positive_similarity`` (cosine between
        different views of an image) and ``z_std`` (standard deviation over images of the normalised
        features of the large crops, mean over dimensions; 1/sqrt(D) when spread evenly, 0 on collapse).

    Raises:
        ValueError: shapes and settings that do not fit together.
    """
    T = num_large_crops if target_crops_number is None else target_crops_number
    _check_settings(num_crops, num_large_crops, T, reg, temperature, num_sink_iter, top_k_sink)
    _check_shapes(z, z_teacher, num_crops)
    p = _Problem(
        V=num_crops,
        L=num_large_crops,
        T=T,
        B=z.shape[0] // num_crops,
        W=collectives.world_size(),
        rank=collectives.rank(),
        reg=reg,
        temperature=temperature,
        num_sink_iter=num_sink_iter,
        top_k=top_k_sink,
        masking=positive_masking,
    )
    _check_columns(p)
    if p.W > 1:
        _check_equal_batches(torch.distributed.group.WORLD, p.B, z.device)
    with torch.autocast(z.device.type, enabled=False):
        loss, *statistics = _AttentionMatching.apply(z, z_teacher, p)
    names = ("target_entropy", "source_entropy", "target_max", "positive_similarity", "z_std")
    return loss, dict(zip(names, statistics))


def _unit_rows(z: Tensor) -> tuple[Tensor, Tensor]:
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


def _spread(rows: Tensor) -> Tensor:
    """Mean over crops and dimensions of the standard deviation over images: of (crops, images, D)."""
    return (rows - rows.mean(1, keepdim=True)).square_().mean(1).sqrt_().mean()


def _gather_columns(rows: Tensor, p: _Problem) -> Tensor:
    """Rows of the first T crops of all processes, crop-major over the global batch: (C, D)."""
    gathered = collectives.gather(rows[: p.T * p.B])  # (W, T B, D)
    return gathered.view(p.W, p.T, p.B, -1).transpose(0, 1).reshape(p.C, -1)


def _check_settings(V: int, L: int, T: int, reg: float, temperature: float, num_sink_iter: int, top_k: int) -> None:
    if V < 1:
        raise ValueError(f"num_crops must be at least 1, got {V}")
    if not 1 <= L <= V:
        raise ValueError(f"num_large_crops must be 1 to num_crops ({V}), got {L}")
    if not 1 <= T <= V:
        raise ValueError(f"target_crops_number must be 1 to num_crops ({V}), got {T}")
    _check_sharpness("reg", reg)
    _check_sharpness("temperature", temperature)
    if num_sink_iter < 0:
        raise ValueError(f"num_sink_iter must be at least 0, got {num_sink_iter}")
    if top_k < 0:
        raise ValueError(f"top_k_sink must be at least 0, got {top_k}")


def _check_sharpness(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    if not _SMALLEST_SETTING <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least {_SMALLEST_SETTING:g}, got {value}")


def _check_shapes(z: Tensor, z_teacher: Tensor | None, num_crops: int) -> None:
    if z.ndim != 2 or z.numel() == 0 or z.shape[0] % num_crops:
        raise ValueError(f"z must be (num_crops * batch, dim) with num_crops {num_crops}, got shape {tuple(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"z must be floating point, got {z.dtype}")
    if z_teacher is None:
        return
    if not z_teacher.is_floating_point():
        raise ValueError(f"z_teacher must be floating point, got {z_teacher.dtype}")
    if z_teacher.shape != z.shape:
        raise ValueError(f"z_teacher must have z's shape {tuple(z.shape)}, got {tuple(z_teacher.shape)}")


def _check_columns(p: _Problem) -> None:
    if p.masking and p.W * p.B < 2:
        raise ValueError("positive_masking leaves no column for a global batch of 1 image; use at least 2 images")
    unmasked = p.C - p.T if p.masking else p.C
    if p.top_k > unmasked:
        raise ValueError(f"top_k_sink must be at most the {unmasked} unmasked columns, got {p.top_k}")


@functools.cache
def _check_equal_batches(group: object, B: int, device: torch.device) -> None:
    """Once per process group and size: unequal rows would abort the collectives, or mix them up unseen."""
    sizes = collectives.gather(torch.tensor([B], device=device)).flatten().tolist()
    if len(set(sizes)) > 1:
        raise ValueError(f"every process must have the same number of images, got {sizes}")


class BAMLoss(nn.Module):
    """Balanced attention matching over the crops of a batch, across all processes.

    Args:
        num_crops: V, crops per image, at least 1.
        num_large_crops: L, the first of them that are large and give targets, 1 to V.
        target_crops_number: T, the first of them that are columns, 1 to V (default: L).
        reg: entropy regularisation of the target attention, at least 1e-6. May be set between steps.
        temperature: of the source attention, at least 1e-6.
        num_sink_iter: Sinkhorn iterations, at least 0 (0: targets are a plain softmax).
        top_k_sink: keep an image's k largest target columns, 0 for all.
        positive_masking: whether an image's own views are hidden from its attention.

    Raises:
        ValueError: a setting out of its range.

    Example:
        >>> loss_fn = BAMLoss(num_crops=2, num_large_crops=2)
        >>> loss = loss_fn(projector(backbone(torch.cat([view_1, view_2]))))
    """

    def __init__(
        self,
        num_crops: int,
        num_large_crops: int,
        target_crops_number: int | None = None,
        reg: float = 0.05,
        temperature: float = 0.1,
        num_sink_iter: int = 3,
        top_k_sink: int = 0,
        positive_masking: bool = True,
    ):
        super().__init__()
        T = num_large_crops if target_crops_number is None else target_crops_number
        _check_settings(num_crops, num_large_crops, T, reg, temperature, num_sink_iter, top_k_sink)
        self.num_crops = num_crops
        self.num_large_crops = num_large_crops
        self.target_crops_number = T
        self.temperature = temperature
        self.num_sink_iter = num_sink_iter
        self.top_k_sink = top_k_sink
        self.positive_masking = positive_masking
        self.reg = reg

    @property
    def reg(self) -> float:
        """Entropy regularisation of the target attention."""
        return self._reg

    @reg.setter
    def reg(self, value: float) -> None:
        _check_sharpness("reg", value)
        self._reg = float(value)

    def forward(self, z: Tensor, z_teacher: Tensor | None = None) -> Tensor:
        """The loss of :func:`bam_loss`, a scalar."""
        return self.with_statistics(z, z_teacher)[0]

    def with_statistics(self, z: Tensor, z_teacher: Tensor | None = None) -> tuple[Tensor, Statistics]:
        """The loss and the statistics of :func:`bam_loss`, in one computation."""
        return bam_loss(
            z,
            z_teacher,
            num_crops=self.num_crops,
            num_large_crops=self.num_large_crops,
            target_crops_number=self.target_crops_number,
            reg=self.reg,
            temperature=self.temperature,
            num_sink_iter=self.num_sink_iter,
            top_k_sink=self.top_k_sink,
            positive_masking=self.positive_masking,
        )

    def extra_repr(self) -> str:
        return (
            f"num_crops={self.num_crops}, num_large_crops={self.num_large_crops}, "
            f"target_crops_number={self.target_crops_number}, reg={self.reg}, temperature={self.temperature}, "
            f"num_sink_iter={self.num_sink_iter}, top_k_sink={self.top_k_sink}, "
            f"positive_masking={self.positive_masking}"
        )
