"""The loss of BAM: *Unsupervised Representation Learning by Balanced Self Attention Matching*
(Shalam & Korman, ECCV 2024, arXiv 2408.02014).

Each view of an image attends to a batch of columns, the views of all images. V crops per image, of which the first L
are large (targets) and the first T are columns; B images per process and crop on W processes, D dimensions,
C = T W B columns. Rows are crop-major: row v B + i is view v of image i, column k W B + w B + i is view k of image i
of process w. Rows have unit length, S = z t^T are their cosines with the columns.

    target attention   P = Sinkhorn(S / reg): columns balanced, each row of sum 1; no gradient            (V B, C)
    source attention   A = softmax(S / temperature)                                                       (V B, C)
    loss               mean over l <= L, v != l and images i of   - sum_c P[(l,i), c] log A[(v,i), c]

``positive_masking=True`` (as published) hides the columns of a row's own image from both attentions, ``False`` nothing,
``"self"`` only the row's own column, and from the source alone. With ``positive_weight`` w > 0 the positives, other
views of the image, are targets too; the source then hides the row's own column alone, and the loss of a row is

    w * mean over columns k != v of - log A[(v,i), (k,i)]  +  (1 - w) * (- sum_c P[(l,i), c] log A[(v,i), c])

w = 1 is InfoNCE with all positives. Targets in columns that the source hides are dropped, nothing is rescaled.

:func:`dense_loss` is this definition, spelled out; :func:`bam_loss` computes the same in tiles (:mod:`._tiled`), in a
third of the time and without a matrix of all rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solo_bam.core import collectives
from solo_bam.losses._problem import (
    Masking,
    Problem,
    check_columns,
    check_equal_batches,
    check_settings,
    check_shapes,
    check_sharpness,
)
from solo_bam.losses._rows import gather_columns
from solo_bam.losses._tiled import tiled_loss
from solo_bam.losses.sinkhorn import sinkhorn

Statistics = dict[str, Tensor]


def dense_loss(
    z: Tensor, z_teacher: Tensor | None, p: Problem, change: Callable[[Tensor], Tensor] = lambda P: P
) -> Tensor:
    """The loss by its definition, its gradient by autograd: what the fast form is held against.

    Args:
        z: ``(V B, D)`` projections, crop-major.
        z_teacher: the momentum teacher's, which gives columns and targets and gets no gradient; or None.
        p: sizes and settings.
        change: of the target attention ``(L, B, C)``, for experiments.

    Returns:
        a scalar.
    """
    z = F.normalize(z)
    rows = z if z_teacher is None else F.normalize(z_teacher).detach()
    t = gather_columns(rows[: p.T * p.B], p)
    S = (z @ t.T).view(p.V, p.B, p.C)
    with torch.no_grad():
        K = p.hide((rows @ t.T / p.reg).view(p.V, p.B, p.C), p.target_hides)
        P = sinkhorn(K.flatten(0, 1), p.num_sink_iter).view_as(K)[: p.L]
        if p.top_k:
            columns = P.mean(0).topk(p.top_k).indices.expand(p.L, -1, -1)  # of the average over an image's targets
            P = torch.zeros_like(P).scatter(-1, columns, P.gather(-1, columns))
            P = P / P.sum(-1, keepdim=True)
        P = change(P)
        everywhere = torch.ones_like(S, dtype=torch.bool)
        seen = p.hide(everywhere.clone(), p.source_hides, value=False)
        positive = p.hide(~p.hide(everywhere, "image", value=False), "own", value=False)
        count = positive.sum(-1)
    log_A = torch.log_softmax(S.masked_fill(~seen, -torch.inf) / p.temperature, dim=-1).masked_fill(~seen, 0)
    matching = -torch.einsum("lic,vic->lv", P, log_A) / p.B  # a target view l, a source view v
    if p.positive_weight > 0:
        contrastive = -(log_A * positive).sum(-1) / count.clamp(min=1)
        matching = (1 - p.positive_weight) * matching + p.positive_weight * contrastive.mean(-1)
    pairs = 1 - torch.eye(p.L, p.V, dtype=S.dtype, device=S.device) if p.V > 1 else S.new_ones(1, 1)
    return (matching * pairs).sum() / pairs.sum()


def bam_loss(z: Tensor, z_teacher: Tensor | None = None, **settings: Any) -> tuple[Tensor, Statistics]:
    """:meth:`BAMLoss.with_statistics` as a function; the settings are those of :class:`BAMLoss`."""
    return BAMLoss(**settings).with_statistics(z, z_teacher)


class BAMLoss(nn.Module):
    """Balanced attention matching over the crops of a batch, across all processes.

    Args:
        num_crops: V, crops per image, at least 1.
        num_large_crops: L, the first of them that are large and give targets, 1 to V.
        target_crops_number: T, the first of them that are columns, 1 to V (default: L).
        reg: entropy regularization of the target attention, at least 1e-6. May be set between steps.
        temperature: of the source attention, at least 1e-6.
        num_sink_iter: Sinkhorn iterations, at least 0 (0: targets are a plain softmax).
        top_k_sink: keep an image's k largest target columns, 0 for all.
        positive_masking: True: an image's own views are hidden from both attentions (as published). False: nothing
            is hidden. ``"self"``: the source hides its own column, the targets nothing.
        positive_weight: w, 0 to 1: weight of the positives among the targets; above 0 the source hides its own
            column alone. 0: as published; 1: InfoNCE.

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
        positive_masking: Masking = True,
        positive_weight: float = 0.0,
    ):
        super().__init__()
        self.num_crops = num_crops
        self.num_large_crops = num_large_crops
        self.target_crops_number = num_large_crops if target_crops_number is None else target_crops_number
        self.temperature = temperature
        self.num_sink_iter = num_sink_iter
        self.top_k_sink = top_k_sink
        self.positive_masking = positive_masking
        self.positive_weight = positive_weight
        self.reg = reg
        check_settings(self._problem(images=2))

    @property
    def reg(self) -> float:
        """Entropy regularization of the target attention."""
        return self._reg

    @reg.setter
    def reg(self, value: float) -> None:
        check_sharpness("reg", value)
        self._reg = float(value)

    def forward(self, z: Tensor, z_teacher: Tensor | None = None) -> Tensor:
        """The loss of :meth:`with_statistics`, a scalar."""
        return self.with_statistics(z, z_teacher)[0]

    def with_statistics(self, z: Tensor, z_teacher: Tensor | None = None) -> tuple[Tensor, Statistics]:
        """The loss and what is worth watching beside it, in one computation.

        Args:
            z: ``(V B, D)`` projections, crop-major, any floating dtype, any scale. A zero row (in float16, one
                without an entry above 0.008) has no direction: it resembles nothing and gets no gradient.
            z_teacher: the momentum teacher's projections of the same crops, same shape; it gives columns and
                targets and receives no gradient.

        Returns:
            The loss, a scalar in float32 (float64 for float64 features), and statistics without gradient, of this
            process's rows: ``target_entropy`` and ``source_entropy`` (nats, mean over rows), ``target_max`` (largest
            entry of a target row, mean), ``positive_similarity`` (cosine between different views of an image),
            ``positive_mass`` (share of a row's softmax that falls on other views of its image; where they are
            hidden, the share that they would have) and ``z_std`` (standard deviation over images of the normalized
            features of the large crops, mean over dimensions; 1/sqrt(D) when spread evenly, 0 on collapse).

        Raises:
            ValueError: shapes and settings that do not fit together, or unequal batches of the processes.
        """
        check_shapes(z, z_teacher, self.num_crops)
        p = self._problem(images=z.shape[0] // self.num_crops)
        check_equal_batches(p)  # first: a refusal that depends on the batch would leave the other processes waiting
        check_columns(p)
        with torch.autocast(z.device.type, enabled=False):
            return tiled_loss(z, z_teacher, p)

    def _problem(self, images: int) -> Problem:
        return Problem(
            V=self.num_crops,
            L=self.num_large_crops,
            T=self.target_crops_number,
            B=images,
            W=collectives.world_size(),
            rank=collectives.rank(),
            reg=self.reg,
            temperature=self.temperature,
            num_sink_iter=self.num_sink_iter,
            top_k=self.top_k_sink,
            masking=self.positive_masking,
            positive_weight=self.positive_weight,
        )

    def extra_repr(self) -> str:
        p = self._problem(images=0)
        sizes = f"num_crops={p.V}, num_large_crops={p.L}, target_crops_number={p.T}"
        attention = f"reg={p.reg}, temperature={p.temperature}, num_sink_iter={p.num_sink_iter}, top_k_sink={p.top_k}"
        return f"{sizes}, {attention}, positive_masking={p.masking!r}, positive_weight={p.positive_weight}"
