"""A method of one's own, as docs/adding-a-method.md shows it: views of an image align, features stay spread out.

(Wang & Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity*, ICML 2020.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from solo_bam.solo_learn import METHODS, BaseMethod, CropRule


class AlignmentOptions(BaseModel):
    """``method_kwargs``: unknown keys and values out of range are refused in one line."""

    model_config = ConfigDict(extra="forbid")
    proj_output_dim: int = Field(128, ge=1)
    uniformity: float = Field(1.0, ge=0)


class Alignment(BaseMethod):
    Options = AlignmentOptions
    crops = CropRule(large=2, small=False)

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        self.options = AlignmentOptions.model_validate(dict(self.cfg.method_kwargs))
        self.projector = nn.Linear(self.features_dim, self.options.proj_output_dim)

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        return [*super().learnable_params, {"name": "projector", "params": self.projector.parameters()}]

    def forward(self, X: Tensor) -> dict[str, Any]:
        out = super().forward(X)
        return {**out, "z": F.normalize(self.projector(out["feats"]), dim=-1)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out = super().training_step(batch, batch_idx)
        z1, z2 = out["z"]
        align = (z1 - z2).pow(2).sum(1).mean()
        spread = sum(torch.pdist(z).pow(2).mul(-2).exp().mean().log() for z in (z1, z2)) / 2
        self.log_dict({"align": align, "spread": spread}, on_epoch=True, sync_dist=True)
        return out["loss"] + align + self.options.uniformity * spread


METHODS["alignment"] = Alignment
