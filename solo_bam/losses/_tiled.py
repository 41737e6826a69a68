"""BAM's loss in tiles, with its gradient; :mod:`solo_bam.losses.bam` has the definition and the notation.

With Q_v the targets of view v together (for positive_weight 0 the sum of P_l over l != v), m_v their mass, and
G_v = m_v A_v - Q_v,

    d loss / d z = 1 / (L (V-1) B temperature) * G t
    d loss / d t = 1 / (L (V-1) B temperature) * G^T z
    loss         = 1 / (L (V-1) B) * sum_{v,i} m_v entropy(A_vi) + <z, d loss / d z>

(the cross-entropy, with the products with Q taken from the gradient), so one pass over the images gives the value and
both gradients. The kernel is computed in tiles, small enough for a cache, on which all elementwise work is done; it is
exponentiated once where float32 can hold that, so that Sinkhorn's iterations are products with a vector. Tiles are kept
between the passes if they are few together (64 MiB in float32 on a CPU, 1 GiB on a GPU), else computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from solo_bam.core import collectives
from solo_bam.losses._kernel import Kernel, Workspace
from solo_bam.losses._problem import Problem, own_view
from solo_bam.losses._rows import dots, gather_columns, row_dots, spread, tensor_cores, unit_rows
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


def _potential(p: Problem, kernel: Kernel, work: Workspace) -> Tensor | None:
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
        rows, inverse_norms = unit_rows(z)
        target_rows = rows if z_teacher is None else unit_rows(z_teacher)[0].to(rows.dtype)
        columns = gather_columns(target_rows, p)
        # Above 1, exponentials are so near to 1 that they no longer tell the similarities apart.
        bounded = p.reg <= 1 and _fits(1 / p.reg, columns)
        several_passes = p.num_sink_iter > 0
        target = source = Kernel(p, target_rows, columns, p.target_hides, bounded and several_passes, several_passes)
        if z_teacher is not None:
            source = Kernel(p, rows, columns, p.source_hides, exponentiated=False, several_passes=False)
        with tensor_cores(z):
            totals, dz, dt = _pass(p, source, target, z_teacher is None and ctx.needs_input_grad[0])

        along = row_dots(dz, rows)
        ctx.p, ctx.dtype, ctx.gradients = p, z.dtype, (rows, inverse_norms, dz, dt, along)
        weighted_entropy, source_entropy, mass, target_entropy, largest = totals
        pairs = torch.cat(list(source.positives.values()), dim=2) * p.reg
        statistics = (
            target_entropy.clamp(min=0) / (p.L * p.B),
            source_entropy.clamp(min=0) / (p.V * p.B),
            largest / (p.L * p.B),
            _of_different_views(pairs.sum(-1)) / p.B,
            mass / (p.V * p.B),
            spread(rows[: p.L * p.B].view(p.L, p.B, -1)),
        )
        ctx.mark_non_differentiable(*statistics)
        return (weighted_entropy * p.scale + along.sum(), *statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, None, None]:
        p: Problem = ctx.p
        rows, inverse_norms, dz, dt, along = ctx.gradients
        along = grad * along
        dz = dz * (grad * inverse_norms)
        if dt is not None:
            first = slice(p.T * p.B)
            own = _own_columns(p, grad * dt)
            along[first] += row_dots(own, rows[first])
            dz[first].addcmul_(own, inverse_norms[first])
        return dz.addcmul_(rows, along.mul_(inverse_norms), value=-1).to(ctx.dtype), None, None


def _own_columns(p: Problem, dt: Tensor) -> Tensor:
    """Of a gradient by all columns (C, D), that by this process's (T B, D): every process's loss depends on them."""
    return collectives.own_sum(dt.view(p.T, p.W, p.B, -1).transpose(0, 1).flatten(1, 2))


def _pass(p: Problem, source: Kernel, target: Kernel, need_dt: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums over all images, and the gradients by normalised rows (V B, D) and columns (C, D).

    The sums (5,): entropy of A with the weights m_v and without, A's mass on positives, entropy of P, P's largest
    entries. The gradient by rows is a part of the loss's value: it is computed whether or not anybody asks for it.
    """
    columns, work = source.columns, Workspace()
    g = _potential(p, target, work)
    totals = columns.new_zeros(5)
    dz = columns.new_empty(p.V, p.B, columns.shape[1])
    dt = torch.empty_like(columns) if need_dt else None
    factor = -p.scale / p.temperature  # of -G
    for images, K, K_target in _pairs(source, target):
        S = source.logits(K, images.start, work)
        S_target = S[: p.L] if source is target else target.logits(K_target, images.start, work)
        P, *of_targets = _target_attention(target, K_target, S_target, g, work("P", K_target))
        S = source.hide_as_source(S, images.start)
        minus_G, *of_sources = _match(p, S, P, source.positives[images.start], images.start, out=work("A", S))
        totals += torch.stack([*of_sources, *of_targets])
        product = dz.flatten(0, 1) if K.shape[1] == p.B else None
        product = torch.addmm(columns.new_zeros(()), minus_G.flatten(0, 1), columns, beta=0, alpha=factor, out=product)
        dz[:, images] = product.view(p.V, -1, dz.shape[2])
        if dt is not None:
            rows = source.rows[:, images].flatten(0, 1)
            first_tile = images.start == 0
            dt.addmm_(minus_G.flatten(0, 1).T, rows, beta=int(not first_tile), alpha=factor)
    return totals, dz.flatten(0, 1), dt


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
