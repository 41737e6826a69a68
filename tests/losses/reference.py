"""BAM's loss spelled out, step by step as in the paper, entry by entry, slow and independent of the package."""

from __future__ import annotations

import torch
from torch import Tensor


def reference_loss(
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
    positive_masking: bool | str = True,
    positive_weight: float = 0.0,
) -> Tensor:
    """One process; the arguments of ``BAMLoss``."""
    V, L, T = num_crops, num_large_crops, target_crops_number or num_large_crops
    B = len(z) // V
    z = z / z.norm(dim=1, keepdim=True)
    targets = z if z_teacher is None else z_teacher / z_teacher.norm(dim=1, keepdim=True)
    t = targets[: T * B]
    if z_teacher is not None:
        t = t.detach()
    P = reference_targets(targets.detach() @ t.detach().T, B, reg, num_sink_iter, positive_masking is True)[: L * B]
    if top_k_sink:
        for i in range(B):
            rows = [crop * B + i for crop in range(L)]
            kept = P[rows].mean(0).argsort(descending=True)[:top_k_sink]
            for row in rows:
                only = torch.zeros_like(P[row])
                only[kept] = P[row, kept]
                P[row] = only / only.sum()
    loss = z.new_zeros(())
    for crop in range(L):
        others = [v for v in range(V) if v != crop] or [crop]
        for v in others:
            for i in range(B):
                hidden = _hidden_from_source(v, i, T, B, positive_masking, positive_weight)
                visible = [c for c in range(T * B) if c not in hidden]
                logits = (t[visible] @ z[v * B + i]) / temperature
                log_A = dict(zip(visible, logits - torch.logsumexp(logits, 0)))
                matching = -sum(P[crop * B + i, c] * log_A[c] for c in visible)
                positives = [k * B + i for k in range(T) if k != v]
                if positive_weight > 0:
                    contrastive = -sum(log_A[c] for c in positives) / len(positives) if positives else 0.0
                    matching = positive_weight * contrastive + (1 - positive_weight) * matching
                loss = loss + matching / (L * len(others) * B)
    return loss


def _hidden_from_source(v: int, i: int, T: int, B: int, positive_masking: bool | str, weight: float) -> set[int]:
    if weight > 0 or positive_masking == "self":
        return {v * B + i} if v < T else set()
    return {k * B + i for k in range(T)} if positive_masking else set()


def reference_targets(S: Tensor, B: int, reg: float, num_sink_iter: int, positive_masking: bool) -> Tensor:
    """Plain Sinkhorn on exp(S / reg), to uniform marginals, columns first; rows of sum 1."""
    rows, columns = S.shape
    Q = torch.exp((S - S.max()) / reg)
    if positive_masking:
        for r in range(rows):
            for c in range(columns):
                if r % B == c % B:
                    Q[r, c] = 0
    Q = Q / Q.sum()
    for _ in range(num_sink_iter):
        Q = Q / Q.sum(0, keepdim=True) / columns
        Q = Q / Q.sum(1, keepdim=True) / rows
    return Q / Q.sum(1, keepdim=True)
