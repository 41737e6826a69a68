"""What methods share that compare the projections of an image's views.

One training step:

    z      = projector(backbone(crops))      all large crops in one batch, all small in another: were they one, a
                                             head's batch norm would tell sizes apart, not images
    target = the teacher's, of the same crops, without gradient; without a teacher, but with a predictor: z itself,
             without gradient
    loss   = compare(predictor(z), target) + loss of the online classifier (on detached features)
"""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchvision.ops import MLP

from solo_bam.config.section import Count, Section
from solo_bam.solo_learn import BaseMethod, BaseMomentumMethod, CropRule


class ProjectorOptions(Section):
    """An MLP head: linear layers with batch norm and ReLU between."""

    proj_hidden_dim: Count = 2048
    proj_output_dim: Count = 256
    proj_num_layers: Count = 2


class Views(BaseMethod):
    """A backbone, a projector, and a loss of the projections of all crops.

    A subclass has ``Options``, ``headline`` (first the name of its loss) and :meth:`compare`.

    Args:
        cfg: recipe; ``method_kwargs`` are those of ``Options``.
    """

    crops = CropRule(large=None, small=True, least=2)
    by_row = True

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        self.options: Any = self.Options.model_validate(OmegaConf.to_container(self.cfg.method_kwargs))
        self.projector = self.build_projector()
        self.predictor: nn.Module | None = None

    def build_projector(self) -> nn.Module:
        """The head of the student, and again of a teacher."""
        return mlp(self.features_dim, self.options, self.options.proj_num_layers)

    def compare(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss, and what else it logs.

        Args:
            z: ``(V B, D)`` the student's projections, or predictions where there is a predictor; crop-major, of any
                precision.
            target: ``(V B, D)`` what they are compared with, without gradient; None: with one another.
        """
        raise NotImplementedError

    @classmethod
    def add_and_assert_specific_cfg(cls, cfg: DictConfig) -> DictConfig:
        """Fill in the defaults, so that the class also works from solo-learn's own scripts."""
        cfg = super().add_and_assert_specific_cfg(cfg)
        given = OmegaConf.to_container(cfg.method_kwargs) if cfg.get("method_kwargs") else {}
        cfg.method_kwargs = cls.Options.model_validate(given).model_dump()
        return cfg

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        """The base class's groups and the heads'."""
        heads = {"projector": self.projector, "predictor": self.predictor}
        own = [{"name": name, "params": head.parameters()} for name, head in heads.items() if head is not None]
        return [*super().learnable_params, *own]

    def forward(self, X: Tensor) -> dict[str, Any]:
        """``{"feats", "logits", "z"}`` of one batch of images."""
        out = super().forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        """``{"feats", "z"}`` of crops of one size."""
        out = super().multicrop_forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Total loss of one batch ``[indexes, [crops], labels]``; logs what the loss can tell."""
        _, crops, labels = batch
        feats, z = concatenated([self.multicrop_forward(same) for same in by_size(crops)])
        target, teacher_loss = self.teach(crops, labels)
        if self.predictor is not None:
            target = z.detach() if target is None else target
            z = self.predictor(z)
        with torch.autocast(z.device.type, enabled=False):
            loss, statistics = self.compare(z, target)
        self.log_dict({self.headline[0]: loss, **statistics}, on_epoch=True, sync_dist=True)
        large = feats[: self.num_large_crops * len(labels)]
        return loss + teacher_loss + self.online_classification(large, labels)

    def teach(self, crops: list[Tensor], labels: Tensor) -> tuple[Tensor | None, Tensor | float]:
        """The teacher's projections of all crops, ``(V B, D)``, and its classifier's loss: none here."""
        return None, 0.0


class MomentumViews(Views, BaseMomentumMethod):
    """As :class:`Views`, with a teacher: an exponential moving average of backbone and projector.

    Args:
        cfg: as there, with ``momentum.base_tau`` and ``momentum.final_tau``.
    """

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        self.momentum_projector = self.build_projector()
        self.momentum_projector.load_state_dict(self.projector.state_dict())
        self.momentum_projector.requires_grad_(False)

    @classmethod
    def add_and_assert_specific_cfg(cls, cfg: DictConfig) -> DictConfig:
        """As :class:`Views`', with solo-learn's defaults for the teacher."""
        cfg.momentum = cfg.get("momentum") or {}
        return super().add_and_assert_specific_cfg(cfg)

    @property
    def momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The base class's pairs and the projectors."""
        return [*super().momentum_pairs, (self.projector, self.momentum_projector)]

    @torch.no_grad()
    def momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """``{"feats", "z"}`` of the teacher, without gradient."""
        out = super().momentum_forward(X)
        return {**out, "z": self.momentum_projector(out["feats"])}

    def teach(self, crops: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's projections of all crops, ``(V B, D)``, and its classifier's loss."""
        feats, z = concatenated([self.momentum_forward(same) for same in by_size(crops)])
        return z, self.momentum_classification(feats[: self.num_large_crops * len(labels)], labels)


def mlp(features_dim: int, options: ProjectorOptions, layers: int) -> nn.Module:
    """Linear layers with batch norm and ReLU between, as wide as the options say."""
    hidden = [options.proj_hidden_dim] * (layers - 1)
    return MLP(features_dim, [*hidden, options.proj_output_dim], norm_layer=nn.BatchNorm1d)


def full(rows: Tensor) -> Tensor:
    """Rows in float32 at least, for a loss."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def concatenated(outs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Features and projections of all crops, from those of each size."""
    feats, z = (torch.cat([out[key] for out in outs]) for key in ("feats", "z"))
    return feats, z


def by_size(crops: list[Tensor]) -> list[Tensor]:
    """Consecutive crops of one size as one batch each, so that batch norm sees them together.

    Args:
        crops: ``(B, channels, height, width)`` each.
    """
    groups: list[list[Tensor]] = []
    for crop in crops:
        if groups and groups[-1][0].shape == crop.shape:
            groups[-1].append(crop)
        else:
            groups.append([crop])
    return [torch.cat(group) for group in groups]
