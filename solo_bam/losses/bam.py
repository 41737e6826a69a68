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

    loss         = 1 / (L (V-1) B)        * sum_{v,i} [ n_v lse_vi - sum_{l != v} sum_c P_lic S_vic / temperature ]
    d loss / d z = 1 / (L (V-1) B temperature) * G t
    d loss / d t = 1 / (L (V-1) B temperature) * G^T z

so one pass over tiles of images gives the value and both gradients, and no rows x columns matrix outlives
its tile. Small similarity matrices are kept between the Sinkhorn passes, large ones are computed again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solo_bam import distributed
from solo_bam.losses.sinkhorn import column_potential

# Entries of one tile: about the size of a CPU's cache, and enough work for a GPU kernel.
_CPU_TILE_ENTRIES = 2**19
_GPU_TILE_ENTRIES = 2**25
# A similarity matrix of at most this many entries is kept between passes (64 MiB in float32).
_KEPT_ENTRIES = 2**24
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

    def tiles(self, device: torch.device) -> Iterator[slice]:
        """Slices of images whose rows of all crops fill one tile."""
        entries = _CPU_TILE_ENTRIES if device.type == "cpu" else _GPU_TILE_ENTRIES
        step = max(1, entries // (self.V * self.C))
        for start in range(0, self.B, step):
            yield slice(start, min(start + step, self.B))

    def positives(self, x: Tensor, images: slice) -> Tensor:
        """View of the entries of ``x`` (crops, images, C) that pair an image with itself: (crops, T, images)."""
        blocks = x.view(x.shape[0], x.shape[1], self.T, self.W * self.B)
        return blocks.diagonal(self.rank * self.B + images.start, dim1=1, dim2=3)

    def mask(self, x: Tensor, images: slice) -> Tensor:
        """Set the positives of ``x`` to -inf, in place, where positive masking is on."""
        if self.masking:
            self.positives(x, images).fill_(-torch.inf)
        return x


class _Similarities:
    """``rows @ columns.T`` by tiles of images; kept whole where it is small."""

    def __init__(self, rows: Tensor, columns: Tensor, V: int):
        self.rows = rows.view(V, -1, rows.shape[-1])
        self.columns = columns
        kept = rows.shape[0] * columns.shape[0] <= _KEPT_ENTRIES
        self.dense = (rows @ columns.T).view(V, -1, columns.shape[0]) if kept else None

    def __call__(self, images: slice, crops: int | None = None) -> Tensor:
        """``(crops, images, C)`` of the first ``crops`` crops (default: all); not to be written to."""
        if self.dense is not None:
            return self.dense[:crops, images]
        return self.rows[:crops, images] @ self.columns.T


def _potential(p: _Problem, similarities: _Similarities) -> Tensor | None:
    """Sinkhorn's column potential over all rows of all processes: (C,)."""

    def log_kernel() -> Iterator[Tensor]:
        for images in p.tiles(similarities.rows.device):
            yield p.mask(similarities(images) / p.reg, images).flatten(0, 1)

    return column_potential(log_kernel, p.num_sink_iter)


def _target_attention(p: _Problem, similarities: Tensor, g: Tensor | None, images: slice) -> Tensor:
    """P of one tile, (L, images, C), from similarities of the same shape; rows sum to 1."""
    logits = p.mask(similarities / p.reg, images)
    if g is not None:
        logits += g
    P = torch.softmax(logits, dim=-1)
    if p.top_k == 0:
        return P
    # The columns are chosen by the average over the image's views. Renormalising in the log domain keeps
    # a view whose mass lies elsewhere finite.
    columns = P.mean(0).topk(p.top_k, dim=-1).indices.expand(p.L, -1, -1)
    kept = torch.softmax(logits.gather(-1, columns), dim=-1)
    return torch.zeros_like(P).scatter_(-1, columns, kept)


class _AttentionMatching(torch.autograd.Function):
    """Loss and statistics of normalised rows; the gradients are computed in the forward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, columns: Tensor, target_rows: Tensor | None, p: _Problem) -> tuple[Tensor, ...]:
        source = _Similarities(z, columns, p.V)
        target = source if target_rows is None else _Similarities(target_rows, columns, p.V)
        g = _potential(p, target)
        need_dz, need_dt = ctx.needs_input_grad[:2]
        dz = torch.zeros_like(source.rows) if need_dz else None
        dt = torch.zeros_like(columns) if need_dt else None
        n_targets = z.new_tensor([p.L - (v < p.L) for v in range(p.V)]) if p.V > 1 else z.new_ones(1)
        scale = 1.0 / (p.L * max(p.V - 1, 1) * p.B)
        totals = z.new_zeros(5)  # loss and the sums behind the statistics

        for images in p.tiles(z.device):
            S = source(images)
            P = _target_attention(p, S[: p.L] if target is source else target(images, p.L), g, images)
            logits = p.mask(S / p.temperature, images)
            lse = logits.logsumexp(-1, keepdim=True)
            A = logits.sub_(lse).exp_()

            others = _targets_of_other_views(P, p.V)
            matched = (others * S).sum()
            attended = torch.dot(A.flatten(), S.flatten()) if S.is_contiguous() else (A * S).sum()
            totals += torch.stack(
                [
                    (n_targets[:, None, None] * lse).sum() - matched / p.temperature,
                    torch.special.entr(P).sum(),
                    lse.sum() - attended / p.temperature,
                    P.amax(-1).sum(),
                    _positive_similarity(p, S, images),
                ]
            )
            if need_dz or need_dt:
                G = A.mul_(n_targets[:, None, None]).sub_(others)
                if dz is not None:
                    dz[:, images] = G @ columns
                if dt is not None:
                    dt.addmm_(G.flatten(0, 1).T, source.rows[:, images].flatten(0, 1))

        ctx.gradients = [None if d is None else d.mul_(scale / p.temperature) for d in (dz, dt)]
        loss = totals[0] * scale
        statistics = (
            totals[1] / (p.L * p.B),
            totals[2] / (p.V * p.B),
            totals[3] / (p.L * p.B),
            totals[4] / p.B,
        )
        ctx.mark_non_differentiable(*statistics)
        return (loss, *statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        dz, dt = ctx.gradients
        return None if dz is None else (grad * dz).flatten(0, 1), None if dt is None else grad * dt, None, None


def _targets_of_other_views(P: Tensor, V: int) -> Tensor:
    """For each source view, the sum of the targets of the other views: (V, images, C)."""
    L = P.shape[0]
    if V == 1:
        return P
    if L == 1:
        return torch.cat([torch.zeros_like(P), P.expand(V - 1, -1, -1)])
    if L == 2 and V == 2:
        return P.flip(0)
    total = P.sum(0, keepdim=True)
    return torch.cat([total - P, total.expand(V - L, -1, -1)])


def _positive_similarity(p: _Problem, S: Tensor, images: slice) -> Tensor:
    """Sum over images of the mean cosine between different views of the same image."""
    pairs = p.positives(S, images).sum(-1)  # (V, T)
    if p.V == 1:
        return pairs.mean()
    different = ~torch.eye(p.V, p.T, dtype=torch.bool, device=S.device)
    return pairs[different].mean()


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
        W=distributed.world_size(),
        rank=distributed.rank(),
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
        rows = _unit_rows(z)
        teacher_rows = None if z_teacher is None else _unit_rows(z_teacher.detach()).to(rows.dtype)
        columns = _gather_columns(rows if teacher_rows is None else teacher_rows, p)
        loss, target_entropy, source_entropy, target_max, positive_similarity = _AttentionMatching.apply(
            rows, columns, teacher_rows, p
        )
        z_std = rows.detach()[: p.L * p.B].view(p.L, p.B, -1).std(dim=1, correction=0).mean()
    return loss, {
        "target_entropy": target_entropy,
        "source_entropy": source_entropy,
        "target_max": target_max,
        "positive_similarity": positive_similarity,
        "z_std": z_std,
    }


def _unit_rows(z: Tensor) -> Tensor:
    """Rows of unit length in float32 or float64; a row too short to have a direction is zero, its gradient too."""
    x = z if z.dtype == torch.float64 else z.float()
    largest = x.detach().abs().amax(-1, keepdim=True)
    # Half precision holds no gradient of 1 / length below the root of its smallest number.
    shortest = max(_SHORTEST_ROW, math.sqrt(torch.finfo(z.dtype).tiny))
    long_enough = largest > shortest
    # By its largest entry first, so that no square overflows.
    scaled = torch.where(long_enough, x, torch.zeros_like(x)) / torch.where(long_enough, largest, 1)
    return F.normalize(scaled, dim=-1)


def _gather_columns(rows: Tensor, p: _Problem) -> Tensor:
    """Rows of the first T crops of all processes, crop-major over the global batch: (C, D)."""
    gathered = distributed.gather(rows[: p.T * p.B])  # (W, T B, D)
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
    sizes = distributed.gather(torch.tensor([B], device=device)).flatten().tolist()
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
