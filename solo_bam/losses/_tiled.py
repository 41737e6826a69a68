"""BAM's loss in tiles, with its gradient; :mod:`solo_bam.losses.bam` has the definition and the notation.

With Q_v the targets of view v together (for positive_weight 0 the sum of P_l over l != v), m_v their mass, and
G_v = m_v A_v - Q_v,

    d loss / d z = 1 / (L (V-1) B temperature) * G t
    d loss / d t = 1 / (L (V-1) B temperature) * G^T z
    loss         = 1 / (L (V-1) B) * sum_{v,i} m_v entropy(A_vi) + <G_v, S_v> / temperature

(the cross-entropy, with the products with Q taken from those with G), so one pass over the images gives the value and
both gradients. The kernel is computed in tiles, small enough for a cache, on which all elementwise work is done; it is
exponentiated once where float32 can hold that, so that Sinkhorn's iterations are products with a vector. Tiles are kept
between the passes if they are few together (64 MiB in float32 on a CPU, 1 GiB on a GPU), else computed again. For the
backward the smaller of G and G t is kept: with features wider than the columns, nothing as large as z is made twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from solo_bam.core import collectives
from solo_bam.losses._kernel import Kernel
from solo_bam.losses._problem import Problem, own_view
from solo_bam.losses._rows import (
    SHORT,
    Rows,
    Workspace,
    dots,
    measure_rows,
    project_,
    short_columns,
    spread,
    tensor_cores,
)
from solo_bam.losses.sinkhorn import bounded_column_potential, column_potential, largest_exponent, normalise_, softmax_

STATISTICS = ("target_entropy", "source_entropy", "target_max", "positive_similarity", "positive_mass", "z_std")


def tiled_loss(z: Tensor, z_teacher: Tensor | None, p: Problem) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, a scalar, and its :data:`STATISTICS` without gradient.

    Args:
        z: ``(V B, D)`` projections, any floating dtype.
        z_teacher: likewise, or None.
        p: checked sizes and settings.
    """
    loss, *statistics = _AttentionMatching.apply(z, z_teacher, p)
    return loss, dict(zip(STATISTICS, statistics))


def _potential(p: Problem, kernel: Kernel) -> Tensor | None:
    """Sinkhorn's column potential over all rows of all processes: (C,)."""

    def tiles(g: Tensor | None) -> Iterator[Tensor]:
        for _, S in kernel.tiles():
            yield _plus(S, g, kernel.work("S", S.shape)).flatten(0, 1)

    if kernel.exponentiated:
        return bounded_column_potential(lambda: (K.flatten(0, 1) for _, K in kernel.tiles()), p.num_sink_iter)
    return column_potential(tiles, p.num_sink_iter)


def _fits(largest: float, like: Tensor) -> bool:
    """Whether exponentials of numbers up to ``largest``, their sums and the inverse of these can be represented."""
    return largest <= largest_exponent(like.dtype)


def _plus(S: Tensor, g: Tensor | None, out: Tensor) -> Tensor:
    return out.copy_(S) if g is None else torch.add(S, g, out=out)


def _target_attention(
    kernel: Kernel, tile: Tensor, S: Tensor, g: Tensor | None, out: Tensor
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
        logits = dots(P, S).sum() + (0 if g is None else P.flatten(0, 1).mv(g).sum())
        return P, lse.sum() - logits, P.amax(-1).sum()
    # The columns are chosen by the average over the image's views. Renormalising in the log domain keeps
    # a view whose mass lies elsewhere finite.
    columns = P.mean(0).topk(p.top_k, dim=-1, sorted=False).indices.expand(p.L, -1, -1)
    chosen = S.gather(-1, columns)
    kept = torch.softmax(chosen if g is None else chosen + g[columns], dim=-1)
    return P.zero_().scatter_(-1, columns, kept), torch.special.entr(kept).sum(), kept.amax(-1).sum()


def _source_attention(p: Problem, S: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """A of a tile of the log-kernel (V, images, C), rows of sum 1, and the log-sum-exp of its logits (V, images)."""
    A = torch.mul(S, p.sharpness, out=out)
    lse = normalise_(A.exp_()) if _fits(1 / p.temperature, A) else softmax_(A)
    return A, lse


class _AttentionMatching(torch.autograd.Function):
    """Loss and statistics of projections; their gradient is computed with them."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, z_teacher: Tensor | None, p: Problem) -> tuple[Tensor, ...]:
        z = z.contiguous()
        rows = measure_rows(z, p)
        target_rows = rows if z_teacher is None else measure_rows(z_teacher.contiguous(), p)
        crops = rows.short(max(p.L, p.T))
        columns = short_columns(target_rows, p, crops if z_teacher is None else None).to(crops.dtype)
        # Above 1, exponentials are so near to 1 that they no longer tell the similarities apart.
        bounded = p.reg <= 1 and _fits(1 / p.reg, columns)
        several_passes = p.num_sink_iter > 0
        target = source = Kernel(p, target_rows, columns, p.target_hides, bounded and several_passes, several_passes)
        if z_teacher is not None:
            source = Kernel(p, rows, columns, p.source_hides, exponentiated=False, several_passes=False)
        with tensor_cores(z):
            totals, kept, dt = _pass(p, source, target, ctx.needs_input_grad[0])
        ctx.save_for_backward(*rows, columns, dt, *kept)
        ctx.p = p
        logits, weighted_entropy, source_entropy, mass, target_entropy, largest = totals
        pairs = torch.cat(list(source.positives.values()), dim=2) * p.reg
        statistics = (
            target_entropy.clamp(min=0) / (p.L * p.B),
            source_entropy.clamp(min=0) / (p.V * p.B),
            largest / (p.L * p.B),
            _of_different_views(pairs.sum(-1)) / p.B,
            mass / (p.V * p.B),
            spread(crops[: p.L]) / SHORT,
        )
        ctx.mark_non_differentiable(*statistics)
        return (p.scale * (weighted_entropy - p.sharpness * logits), *statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        p: Problem = ctx.p
        z, inverse, columns, dt, *kept = ctx.saved_tensors
        scale = inverse * grad
        gradient, work, first = columns.new_empty(z.shape), Workspace(columns), 0
        with tensor_cores(z):
            for part in kept:
                images = slice(first, first + part.shape[1])
                first = images.stop
                part = torch.mul(part, scale[:, images], out=work("part", part.shape))
                if _keeps_G(p, columns):
                    out = gradient if len(kept) == 1 else work("dz", (*part.shape[:2], columns.shape[1]))
                    part = _by_rows(p, part, columns, out)
                if part is not gradient:
                    gradient[:, images] = part
        if dt is not None:
            gradient[: p.T].addcmul_(_own_columns(p, grad * dt), inverse[: p.T])
        return project_(gradient, Rows(z, inverse)).flatten(0, 1).to(z.dtype), None, None


def _own_columns(p: Problem, dt: Tensor) -> Tensor:
    """Of a gradient by all columns (C, D), that by this process's (T, B, D): every process's loss depends on them."""
    return collectives.own_sum(dt.view(p.T, p.W, p.B, -1).transpose(0, 1))


def _keeps_G(p: Problem, columns: Tensor) -> bool:
    return columns.shape[1] >= p.C


def _by_rows(p: Problem, minus_G: Tensor, columns: Tensor, out: Tensor) -> Tensor:
    """The loss's gradient by the unit rows of a tile: (V, images, D)."""
    zero = columns.new_zeros(())
    factor = -p.scale / p.temperature / SHORT
    torch.addmm(zero, minus_G.flatten(0, 1), columns, beta=0, alpha=factor, out=out.flatten(0, 1))
    return out


def _pass(
    p: Problem, source: Kernel, target: Kernel, need_gradient: bool
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Sums over all images, what the backward needs of each tile, and the gradient by columns (C, D).

    The sums (6,): G by the log-kernel, entropy of A with the weights m_v and without, A's mass on positives, entropy
    of P, P's largest entries. Of a tile -G (V, images, C) is kept, or, if it is smaller, the gradient by its rows.
    """
    columns, work = source.columns, source.work
    g = _potential(p, target)
    totals = columns.new_zeros(6)
    kept: list[Tensor] = []
    dt = torch.empty_like(columns) if need_gradient and source is target else None
    keeps_G = need_gradient and _keeps_G(p, columns)
    for images, K, K_target in _pairs(source, target):
        S = source.logits(K, images.start)
        S_target = S[: p.L] if source is target else target.logits(K_target, images.start)
        P, *of_targets = _target_attention(target, K_target, S_target, g, work("P", K_target.shape))
        S = source.hide_as_source(S, images.start)
        out = torch.empty_like(S) if keeps_G else work("A", S.shape)
        minus_G, *of_sources = _match(p, S, P, source.positives[images.start], images.start, out)
        totals += torch.stack([dots(minus_G, S).sum(), *of_sources, *of_targets])
        if not need_gradient:
            continue
        if keeps_G:
            kept.append(minus_G)
        else:
            kept.append(_by_rows(p, minus_G, columns, columns.new_empty(*minus_G.shape[:2], columns.shape[1])))
        if dt is not None:
            source.rows.add_by_rows(minus_G, images, -p.scale / p.temperature, work, dt)
    return totals, kept, dt


def _pairs(source: Kernel, target: Kernel) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Images, their source kernel (V, images, C) and their target kernel (L, images, C)."""
    L = source.p.L
    if source is target:
        yield from ((images, K, K[:L]) for images, K in source.tiles())
    else:
        yield from ((images, K, K_target[:L]) for (images, K), (_, K_target) in zip(source.tiles(), target.tiles()))


def _match(
    p: Problem, S: Tensor, P: Tensor, positives: Tensor, first: int, out: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-G of a tile (V, images, C); A's entropy, summed with the weights m_v and without; A's mass on positives.

    Args:
        S: the log-kernel (V, images, C), as the source attention sees it.
        P: target attention (L, images, C).
        positives: the log-kernel of an image's views with one another (V, T, images).
        first: of the images.
        out: memory for -G.
    """
    A, lse = _source_attention(p, S, out)
    entropy = lse.sum(1) - dots(A, S) * p.sharpness
    mass = _positive_mass(p, positives, lse)
    if p.source_hides == "own":
        weighted = _subtract_targets_but_own(p, S, P, A, lse, first)
        return A, weighted, entropy.sum(), mass
    weighted = S.new_zeros(())
    for views, targets, count in _targets_of_views(p, P):
        weighted += count * entropy[views].sum()
        torch.sub(targets, A[views], alpha=count, out=A[views])
    return A, weighted, entropy.sum(), mass


def _subtract_targets_but_own(p: Problem, S: Tensor, P: Tensor, A: Tensor, lse: Tensor, first: int) -> Tensor:
    """Turn A into -G where the source hides its own column; the sum of m_v times A's entropy.

    Targets in a row's own column are dropped; with ``positive_weight`` the image's other columns are targets, too.
    """
    w, T = p.positive_weight, p.T
    count, others = _counts(p, A)
    on_positives = p.positives(P, first)
    dropped = A.new_zeros(p.V, A.shape[1])
    dropped[:T] = on_positives.sum(0)
    if p.V > 1:  # a view is no target of its own
        dropped[: min(p.L, T)] -= own_view(on_positives).T
    m = (1 - w) * (count - dropped) + w * count * (others > 0)
    A.mul_(m.unsqueeze(-1))
    weighted = (m * lse).sum() - dots(A, S).sum() * p.sharpness
    for views, targets, _ in _targets_of_views(p, P):
        A[views].neg_().add_(targets, alpha=1 - w)
    in_positives = p.positives(A, first)
    if w > 0:
        in_positives += (w * count / others.clamp(min=1)).unsqueeze(-1)
    own_view(in_positives).zero_()
    return weighted


def _counts(p: Problem, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each view, how many targets it has, n_v, and how many columns are other views of its image: (V, 1) each."""
    view = torch.arange(p.V, device=like.device).unsqueeze(-1)
    targets = p.L - (view < p.L).to(like.dtype) if p.V > 1 else torch.ones_like(view, dtype=like.dtype)
    return targets, p.T - (view < p.T).to(like.dtype)


def _positive_mass(p: Problem, positives: Tensor, lse: Tensor) -> Tensor:
    """Share of a row's softmax that falls on other views of its image, summed; where these are hidden, as if shown."""
    logits = (positives * p.sharpness).permute(2, 0, 1).clone()  # (images, V, T)
    logits.diagonal(dim1=1, dim2=2).fill_(p.masked_value(logits.dtype))
    on_positives = logits.logsumexp(-1).T
    whole = torch.logaddexp(lse, on_positives) if p.source_hides == "image" else lse
    return (on_positives - whole).exp().sum()


def _of_different_views(pairs: Tensor) -> Tensor:
    """Mean of the entries of ``pairs`` (V, T) off the diagonal; with one view, of its pair with itself."""
    if pairs.shape[0] == 1:
        return pairs.mean()
    # Not by choosing entries with a mask, for which the host would wait for the device.
    same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0).sum() / (pairs.numel() - min(pairs.shape))


def _targets_of_views(p: Problem, P: Tensor) -> Iterator[tuple[slice, Tensor, int]]:
    """Source views, the sum of their targets (images, C) and its number: the large views but the source itself."""
    total = sum(P[1:], P[0]) if p.V > 2 else P[0]  # torch's sum over a short first dimension is slow
    for v in range(p.L):
        others = P[0] if p.V == 1 else P[1 - v] if p.L == 2 else total - P[v]
        yield slice(v, v + 1), others, max(p.L - 1, int(p.V == 1))
    if p.V > p.L:
        yield slice(p.L, p.V), total, p.L
