"""The baseline of ``benchmarks/loss.py``: BAM's loss with the whole similarity matrix, step by step as published.

Follows the order of operations of the published code (github.com/DanielShalam/BAM, ``bam/bam_loss.py``): the matrix is
scaled in place at each Sinkhorn iteration, source attention is a masked log-softmax, and crops are multiplied with P
pair by pair. Checked against the golden cases by ``tests/benchmarks/test_published.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def published_loss(
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
) -> Tensor:
    """The loss of one process; arguments as for :class:`solo_bam.losses.BAMLoss`."""
    T = num_large_crops if target_crops_number is None else target_crops_number
    B = len(z) // num_crops
    z = F.normalize(z, dim=-1)
    teacher = None if z_teacher is None else F.normalize(z_teacher, dim=-1)
    columns = (z if teacher is None else teacher)[: T * B]
    S = z @ columns.T
    S_target = S.detach() if teacher is None else teacher @ columns.T
    masked = torch.eye(B, dtype=torch.bool).repeat(num_crops, T).to(z.device) if positive_masking else None

    P = _targets(S_target, masked, reg, num_sink_iter)[: num_large_crops * B]
    if top_k_sink:
        P = _keep_top(P, num_large_crops, top_k_sink)
        P = P / P.sum(dim=-1, keepdim=True)
    logits = S / temperature
    if masked is not None:
        logits.masked_fill_(masked, torch.finfo(S.dtype).min)
    log_A = F.log_softmax(logits, dim=-1).chunk(num_crops)
    visible = 1.0 if masked is None else (~masked[:B]).to(S.dtype)

    loss = z.new_zeros(())
    for target, P_of_crop in enumerate(P.chunk(num_large_crops)):
        others = [v for v in range(num_crops) if v != target] or [target]
        for source in others:
            cross_entropy = -((P_of_crop * log_A[source]) * visible).sum(-1).mean()
            loss = loss + cross_entropy / (len(others) * num_large_crops)
    return loss


@torch.no_grad()
def _targets(S: Tensor, masked: Tensor | None, reg: float, num_iter: int) -> Tensor:
    """Rows of sum 1, after ``num_iter`` times columns, then rows, to uniform sums."""
    logits = S / reg
    if masked is not None:
        logits.masked_fill_(masked, torch.finfo(S.dtype).min)
    Q = torch.exp(logits - logits.max()).T
    Q /= Q.sum()
    for _ in range(num_iter):
        Q *= (1 / (len(Q) * Q.sum(1)))[:, None]
        Q *= (1 / (Q.shape[1] * Q.sum(0)))[None]
    return (Q / Q.sum(0, keepdim=True)).T


def _keep_top(P: Tensor, crops: int, k: int) -> Tensor:
    chosen = torch.stack(P.chunk(crops)).mean(0).topk(k, dim=-1).indices.repeat(crops, 1)
    return torch.zeros_like(P).scatter_(-1, chosen, P.gather(-1, chosen))
