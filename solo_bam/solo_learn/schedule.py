"""Optimiser and learning-rate schedule by the head edition's rules, for any edition's methods.

The release edition's own part is not used: its LARS scales stale gradients and loses the weight decay, it
steps the schedule by epoch, and its partial functions in the scheduler keep checkpoints from loading.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from timm.optim.lars import Lars
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from solo_bam.core.errors import UserError

ParamGroup = dict[str, Any]


class LinearWarmupCosineAnnealingLR(LRScheduler):
    """Linear warm-up from an absolute rate to each group's own, then a cosine down to ``eta_min``.

    Computed from the step alone, so it resumes exactly. Groups marked ``static_lr`` keep the optimiser's
    rate throughout.

    Args:
        optimizer: the optimiser to drive.
        warmup_epochs: length of the warm-up, in calls of ``step``; the last of them reaches the full rate.
        max_epochs: length of the whole schedule, in calls of ``step``.
        warmup_start_lr: rate at step 0 of a warm-up, the same for every group.
        eta_min: rate at the end.
        last_epoch: index of the last step, -1 at the start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_epochs: float,
        max_epochs: float,
        warmup_start_lr: float = 0.0,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ):
        self.warmup_epochs = warmup_epochs
        self.max_epochs = max_epochs
        self.warmup_start_lr = warmup_start_lr
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Rates of all groups at the current step."""
        return [
            self.optimizer.defaults["lr"] if group.get("static_lr") else self._rate(float(base))
            for base, group in zip(self.base_lrs, self.optimizer.param_groups)
        ]

    def _rate(self, base: float) -> float:
        step = self.last_epoch
        if step < self.warmup_epochs:
            share = step / max(self.warmup_epochs - 1, 1)
            return self.warmup_start_lr + min(share, 1.0) * (base - self.warmup_start_lr)
        progress = (step - self.warmup_epochs) / max(self.max_epochs - self.warmup_epochs, 1)
        return self.eta_min + 0.5 * (base - self.eta_min) * (1 + math.cos(math.pi * min(progress, 1.0)))


def split_by_rank(groups: list[ParamGroup], without_decay: dict[str, Any]) -> list[ParamGroup]:
    """Give biases and norms (tensors of at most one dimension) groups of their own.

    Args:
        groups: parameter groups; ``params`` may be iterators and are used up.
        without_decay: settings of the split-off groups; their names end in ``_no_decay``.
    """
    out: list[ParamGroup] = []
    for group in groups:
        params = list(group["params"])
        flat = [p for p in params if p.ndim <= 1]
        if deep := [p for p in params if p.ndim > 1]:
            out.append({**group, "params": deep})
        if flat:
            name = {"name": f"{group['name']}_no_decay"} if "name" in group else {}
            out.append({**group, **name, **without_decay, "params": flat})
    return out


def by_layer(backbone: nn.Module, name: str, rate: float, weight_decay: float, layer_decay: float) -> list[ParamGroup]:
    """A backbone's groups: a layer's rate is the next one's times ``layer_decay``, biases and norms are not decayed.

    Raises:
        UserError: timm does not know the layers of the backbone of this name.
    """
    if not hasattr(backbone, "group_matcher") and not getattr(backbone, "pretrained_cfg", {}).get("classifier"):
        problem = f"got {layer_decay}, {name} does not say which layers it has"
        raise UserError("optimizer.layer_decay", problem, "set it to 0 or use a backbone of timm")
    # A method in solo-learn's and timm's ViTs.
    skipped = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()  # type: ignore[operator]
    groups = param_groups_layer_decay(backbone, weight_decay, skipped, layer_decay=layer_decay)
    return [
        {
            "name": f"backbone_{number}",
            "params": group["params"],
            "weight_decay": group["weight_decay"],
            "lr": rate * layer_decay * group["lr_scale"],  # the head or projector is the layer after the last
        }
        for number, group in enumerate(groups)
    ]


def build_optimizer(
    groups: list[ParamGroup],
    name: str,
    lr: float,
    weight_decay: float,
    kwargs: dict[str, Any],
    exclude_bias_n_norm_wd: bool,
) -> Optimizer:
    """An optimiser from solo-learn's recipe keys.

    Args:
        groups: a method's ``learnable_params``.
        name: ``sgd``, ``lars``, ``adam`` or ``adamw``.
        lr: rate of the groups that name none.
        weight_decay: of the groups that name none.
        kwargs: ``optimizer.kwargs``; SGD's and LARS's ``momentum`` is 0.9 unless given; for ``lars`` also ``eta``,
            ``clip_lr`` and ``exclude_bias_n_norm``.
        exclude_bias_n_norm_wd: no weight decay on biases and norms.
    """
    if exclude_bias_n_norm_wd:
        groups = split_by_rank(groups, {"weight_decay": 0})
    if name != "lars":
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        defaults = {"momentum": 0.9} if name == "sgd" else {}
        return kinds[name](groups, lr=lr, weight_decay=weight_decay, **defaults | kwargs)
    kwargs = dict(kwargs)
    trust_coeff, trust_clip = kwargs.pop("eta", 1e-3), kwargs.pop("clip_lr", False)
    groups = [{"always_adapt": True, **group} for group in groups]
    if kwargs.pop("exclude_bias_n_norm", False):
        # As in solo-learn, these are plain SGD: neither adapted nor decayed.
        groups = split_by_rank(groups, {"always_adapt": False, "weight_decay": 0})
    return Lars(
        groups,
        lr=lr,
        weight_decay=weight_decay,
        trust_coeff=trust_coeff,
        trust_clip=trust_clip,
        **{"momentum": 0.9, **kwargs},
    )


def build_scheduler(
    optimizer: Optimizer,
    name: str,
    interval: str,
    max_epochs: int,
    total_steps: float,
    warmup_epochs: float,
    warmup_start_lr: float,
    min_lr: float,
    lr_decay_steps: list[int] | None,
) -> dict[str, Any] | None:
    """A Lightning scheduler dict, or None for ``none``; ``total_steps`` are those of the whole training."""
    if name == "none":
        return None
    if name == "step":
        return {"scheduler": MultiStepLR(optimizer, lr_decay_steps or []), "interval": "epoch"}
    per_epoch = total_steps / max_epochs if interval == "step" else 1
    scheduler = LinearWarmupCosineAnnealingLR(
        optimizer,
        warmup_epochs=(0 if name == "cosine" else warmup_epochs) * per_epoch,
        max_epochs=max_epochs * per_epoch,
        warmup_start_lr=warmup_start_lr,
        eta_min=min_lr,
    )
    return {"scheduler": scheduler, "interval": interval, "frequency": 1}
