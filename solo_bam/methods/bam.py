"""BAM and BAM with a momentum teacher (Shalam & Korman, ECCV 2024, arXiv 2408.02014) for solo-learn.

One training step:

    z         = projector(backbone(crops))             all large crops in one batch, all small in another: were they
                                                       one, a head's batch norm would tell sizes apart, not images
    z_teacher = the teacher's, of the same crops       BAM momentum only, without gradient
    loss      = BAMLoss(z, z_teacher) + loss of the online classifier (on detached features)

``reg`` moves linearly from ``reg`` to ``reg_final`` over the first ``reg_warmup_epochs`` epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from solo_bam.config.schema import Count, Index, Recipe, Share, Sharpness
from solo_bam.config.section import Section
from solo_bam.core.errors import UserError
from solo_bam.losses import BAMLoss
from solo_bam.solo_learn import BaseMethod, BaseMomentumMethod, CropRule, Panel

_UNIFORM = 0.95  # perplexity of the target attention, as a share of its columns
_ONE_HOT = 0.8  # largest entry of a target row


class BAMOptions(Section):
    """``method_kwargs`` of bam and bam_momentum; names and defaults are those of the published flags."""

    proj_hidden_dim: Count = 4096
    proj_output_dim: Count = 4096
    proj_num_layers: Count = 3
    proj_use_bn: bool = True
    proj_last_bn: bool = True
    proj_act: Literal["gelu", "relu"] = "gelu"
    reg: Sharpness = 0.05
    reg_final: Sharpness | None = None
    reg_warmup_epochs: Index = 30
    temperature: Sharpness = 0.1
    num_sink_iter: Index = 3
    top_k_sink: Index = 0
    positive_masking: Literal[True, False, "self"] = True
    positive_weight: Share = 0.0
    target_crops_number: Count | None = None

    def reg_at(self, epoch: int) -> float:
        """``reg`` in an epoch (from 0): linear from ``reg``, and ``reg_final`` from the last warm-up epoch on."""
        final = self.reg if self.reg_final is None else self.reg_final
        if epoch >= self.reg_warmup_epochs - 1:
            return final
        return self.reg + (final - self.reg) * epoch / (self.reg_warmup_epochs - 1)


class BAM(BaseMethod):
    """Balanced attention matching between the views of an image, without a teacher.

    Args:
        cfg: recipe; ``method_kwargs`` are :class:`BAMOptions`.
    """

    Options = BAMOptions
    Loss = BAMLoss  # an experiment may have another
    crops = CropRule(large=None, small=True, least=2)
    by_row = True
    headline = ("bam_loss",)
    alike_below = 0.7  # healthy runs stay above 0.9
    panels = (
        Panel(
            "Attention entropy", "entropy (nats)", {"source_entropy_step": "source", "target_entropy_step": "target"}
        ),
        Panel(
            "Features",
            "cosine, standard deviation",
            {"positive_similarity_step": "cosine of positives", "z_std_step": "std of features"},
        ),
    )

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        self.options = BAMOptions.model_validate(dict(self.cfg.method_kwargs))
        if self.options.positive_weight > 0:
            self.alike_below = BaseMethod.alike_below  # InfoNCE's projections are nearer to one another
        self.projector = build_projector(self.features_dim, self.options)
        self.loss_fn = self.Loss(
            num_crops=self.num_crops,
            num_large_crops=self.num_large_crops,
            target_crops_number=self.options.target_crops_number,
            reg=self.options.reg,
            temperature=self.options.temperature,
            num_sink_iter=self.options.num_sink_iter,
            top_k_sink=self.options.top_k_sink,
            positive_masking=self.options.positive_masking,
            positive_weight=self.options.positive_weight,
        )

    @classmethod
    def check(cls, recipe: Recipe, global_batch: int) -> None:
        """Check the options against the crops and the batch.

        Raises:
            UserError: they do not fit.
        """
        options = BAMOptions.model_construct(**recipe.method_kwargs)
        targets = options.target_crops_number or recipe.num_large_crops
        if targets > recipe.num_large_crops:
            problem = f"got {targets}, must be at most the {recipe.num_large_crops} large crops"
            raise UserError("method_kwargs.target_crops_number", problem, "lower it")
        if global_batch < 2 and (hiding := _hides_all_of_one_image(options, targets)):
            problem = f"got {global_batch}, must be at least 2 with method_kwargs.{hiding}"
            raise UserError("optimizer.batch_size", problem, "raise it")
        columns = targets * (global_batch - (options.positive_masking is True))
        if options.top_k_sink > columns:
            problem = (
                f"got {options.top_k_sink}, must be at most the {columns} columns "
                f"({targets} target crops x {global_batch} images, less an image's own)"
            )
            raise UserError("method_kwargs.top_k_sink", problem, "lower it or raise optimizer.batch_size")

    def symptoms(self, logged: Mapping[str, Tensor], measured: dict[str, float], batch: int) -> dict[str, str]:
        """A target attention that is almost uniform or one-hot."""
        columns = attention_columns(self.loss_fn, batch)
        measured["attention_columns"] = float(columns)
        if "target_entropy_epoch" not in logged:
            return {}
        entropy, largest = float(logged["target_entropy_epoch"]), float(logged["target_max_epoch"])
        return symptoms_of_attention(entropy, largest, columns, self.loss_fn.reg)

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Fill in BAM's defaults, so that the class also works from solo-learn's own scripts."""
        cfg = BaseMethod.add_and_assert_specific_cfg(cfg)
        cfg.method_kwargs = BAMOptions.model_validate(dict(cfg.get("method_kwargs") or {})).model_dump()
        return cfg

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        """The base class's groups and the projector's."""
        return [*super().learnable_params, {"name": "projector", "params": self.projector.parameters()}]

    def forward(self, X: Tensor) -> dict[str, Any]:
        """``{"feats", "logits", "z"}`` of one batch of images."""
        out = super().forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        """``{"feats", "z"}`` of crops of one size."""
        out = super().multicrop_forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def on_train_epoch_start(self) -> None:
        """Set the epoch's ``reg``."""
        self.loss_fn.reg = self.options.reg_at(self.current_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Total loss of one batch ``[indexes, [crops], labels]``; logs what the loss can tell."""
        _, crops, labels = batch
        feats, z = together([self.multicrop_forward(same) for same in by_size(crops)])
        z_teacher, teacher_loss = self.teach(crops, labels)
        loss, statistics = self.loss_fn.with_statistics(z, z_teacher)

        self.log_dict({"bam_loss": loss, **statistics}, on_epoch=True, sync_dist=True)
        self.log("reg", self.loss_fn.reg)
        large = feats[: self.num_large_crops * len(labels)]
        return loss + teacher_loss + self.online_classification(large, labels)

    def teach(self, crops: list[Tensor], labels: Tensor) -> tuple[Tensor | None, Tensor | float]:
        """The teacher's projections of all crops, ``(V B, D)``, and its classifier's loss: none here."""
        return None, 0.0


class BAMMomentum(BAM, BaseMomentumMethod):
    """BAM whose columns and targets come from an exponential moving average of the network.

    Args:
        cfg: as for :class:`BAM`, with ``momentum.base_tau`` and ``momentum.final_tau``.
    """

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        self.momentum_projector = build_projector(self.features_dim, self.options)
        self.momentum_projector.load_state_dict(self.projector.state_dict())
        self.momentum_projector.requires_grad_(False)

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """As :class:`BAM`'s, with solo-learn's defaults for the teacher."""
        cfg.momentum = cfg.get("momentum") or {}
        return BAM.add_and_assert_specific_cfg(BaseMomentumMethod.add_and_assert_specific_cfg(cfg))

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
        feats, z = together([self.momentum_forward(same) for same in by_size(crops)])
        return z, self.momentum_classification(feats[: self.num_large_crops * len(labels)], labels)


def _hides_all_of_one_image(options: BAMOptions, targets: int) -> str:
    """The option that leaves a batch of one image no column for the source, and why; empty where there is none."""
    if options.positive_masking is True:
        return "positive_masking (an image's own views are hidden)"
    if targets > 1 or (options.positive_masking is False and options.positive_weight == 0):
        return ""
    option = "positive_masking=self" if options.positive_masking else f"positive_weight={options.positive_weight:g}"
    return f"{option} (a view's own column is hidden, and one target crop gives no other)"


def attention_columns(loss: BAMLoss, batch_size: int) -> int:
    """How many columns a row of the target attention may put weight on.

    Args:
        loss: of the run.
        batch_size: images per step, over all processes.
    """
    if loss.top_k_sink:
        return loss.top_k_sink
    return loss.target_crops_number * (batch_size - (loss.positive_masking is True))


def symptoms_of_attention(entropy: float, largest: float, columns: int, reg: float) -> dict[str, str]:
    """What an epoch's target attention shows: symptom -> a sentence.

    Args:
        entropy: nats, mean over the rows.
        largest: largest entry of a row, mean.
        columns: :func:`attention_columns`.
        reg: of the loss.
    """
    if columns < 2:
        return {}
    if math.exp(entropy) > _UNIFORM * columns:
        return {
            "uniform": f"the target attention is almost uniform: entropy {entropy:.2f} nats of at most "
            f"{math.log(columns):.2f} over {columns} columns, so no image stands out from the others. Lower "
            f"method_kwargs.reg (now {reg:g}) and method_kwargs.temperature, or optimizer.lr."
        }
    if largest > _ONE_HOT:
        return {
            "one-hot": f"the target attention is almost one-hot: its largest entry is {largest:.2f} and its entropy "
            f"{entropy:.2f} nats, so each image follows a single other one. Raise method_kwargs.reg (now {reg:g})."
        }
    return {}


def together(outs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
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


def build_projector(features_dim: int, options: BAMOptions) -> nn.Sequential:
    """The MLP head: linear layers with truncated-normal weights, batch norm and an activation between.

    Args:
        features_dim: width of the backbone's features.
        options: ``proj_…`` keys; the last batch norm has no affine parameters and needs ``proj_use_bn``.
    """
    hidden = [options.proj_hidden_dim] * (options.proj_num_layers - 1)
    widths = [features_dim, *hidden, options.proj_output_dim]
    layers: list[nn.Module] = []
    for i, (wide_in, wide_out) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        linear = nn.Linear(wide_in, wide_out)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if options.proj_use_bn and (options.proj_last_bn or not last):
            layers.append(nn.BatchNorm1d(wide_out, affine=not last))
        if not last:
            layers.append(nn.GELU() if options.proj_act == "gelu" else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
