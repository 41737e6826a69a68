"""Losses and heads of the package lightly, by name, for two views; without a teacher, or with a momentum teacher.

z₁, z₂ are the student's projections of the views, p₁, p₂ its predictions, k₁, k₂ the teacher's projections:

    lightly              loss = ½ (ℓ(z₁, z₂) + ℓ(z₂, z₁))           as SimCLR, VICReg, Barlow Twins
      with a predictor   loss = ½ (ℓ(p₁, z₂) + ℓ(p₂, z₁))           z without gradient, as SimSiam
    lightly_momentum     loss = ½ (ℓ(p₁, k₂) + ℓ(p₂, k₁))           as BYOL; without a predictor z for p, as MoCo

ℓ is any class of ``lightly.loss`` that is called with two views, ``(z_a, z_b)`` by whatever names, or ``(z_views)``.
Where it can gather the batch of all processes, it does.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from solo_bam.config.schema import Recipe
from solo_bam.config.section import Section
from solo_bam.core.errors import UserError, nearest
from solo_bam.methods.views import MomentumViews, Views, full
from solo_bam.solo_learn import CropRule

_ENDINGS = {"loss": "", "projector": "ProjectionHead", "predictor": "PredictionHead"}


class LightlyOptions(Section):
    """``method_kwargs`` of lightly and lightly_momentum; each ``…_kwargs`` are arguments of what is named before."""

    loss: str = "NTXentLoss"
    loss_kwargs: dict[str, Any] = {}
    projector: str = "SimCLRProjectionHead"
    projector_kwargs: dict[str, Any] = {}
    predictor: str | None = None
    predictor_kwargs: dict[str, Any] = {}


class Lightly(Views):
    """A loss and heads of the package lightly, by name."""

    Options = LightlyOptions
    crops = CropRule(large=2, small=False)
    headline = ("lightly_loss",)

    def __init__(self, cfg: DictConfig):
        super().__init__(cfg)
        self.loss_fn = build("loss", self.options)
        if self.options.predictor:
            width = [layer for layer in self.projector.modules() if isinstance(layer, nn.Linear)][-1].out_features
            self.predictor = build("predictor", self.options, input_dim=width, output_dim=width)

    def build_projector(self) -> nn.Module:
        """The head that the options name."""
        return build("projector", self.options, input_dim=self.features_dim)

    @classmethod
    def check(cls, recipe: Recipe, global_batch: int) -> None:
        """Build every part once, without memory; UserError where :func:`build` has one."""
        options = LightlyOptions.model_validate(recipe.method_kwargs)
        with torch.device("meta"):
            for part in _ENDINGS:
                if getattr(options, part):
                    build(part, options, **({} if part == "loss" else {"input_dim": 1}))

    @staticmethod
    def note(options: Mapping[str, Any]) -> str:
        """That the loss has a memory bank."""
        bank = options["loss_kwargs"].get("memory_bank_size")
        return f"also compares with {bank[0]:,} images of earlier batches" if bank else ""

    def compare(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over both orders of the views."""
        (z1, z2), (t1, t2) = (full(rows).chunk(2) for rows in (z, z if target is None else target))
        as_list = len(_views(type(self.loss_fn))) == 1
        losses = [self.loss_fn(list(pair)) if as_list else self.loss_fn(*pair) for pair in ((z1, t2), (z2, t1))]
        return sum(losses) / 2, {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what lightly's losses leave out of their state: a memory bank, a covariance."""
        checkpoint["lightly"] = {
            name: {key: value for key, value in (vars(part) | part._buffers).items() if isinstance(value, Tensor)}
            for name, part in self.loss_fn.named_modules()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give it back, as buffers, which follow the module to its device."""
        for name, values in checkpoint["lightly"].items():
            part = self.loss_fn.get_submodule(name)
            for key, value in values.items():
                vars(part).pop(key, None)
                part.register_buffer(key, value, persistent=key in part.state_dict())


class LightlyMomentum(Lightly, MomentumViews):
    """A loss and heads of the package lightly, by name, with a momentum teacher."""


def build(part: str, options: LightlyOptions, **given: Any) -> nn.Module:
    """The ``loss``, ``projector`` or ``predictor`` that the options name, with their arguments and those given.

    Raises:
        UserError: lightly is not installed, has no such part, or the part does not take the arguments.
    """
    name, kwargs, known = getattr(options, part), getattr(options, f"{part}_kwargs"), known_parts(part)
    if name not in known:
        problem = f"got {name!r}{nearest(name, known)}, allowed: {', '.join(known)}"
        raise UserError(f"method_kwargs.{part}", problem, "correct it")
    allowed = [key for key in inspect.signature(known[name]).parameters if key != "input_dim"]
    for key in kwargs.keys() - allowed:
        told = f"(value {kwargs[key]!r}){nearest(key, allowed)}, allowed: {', '.join(allowed)}"
        raise UserError(
            f"method_kwargs.{part}_kwargs.{key}", f"unknown argument of {name} {told}", "remove it or correct its name"
        )
    gather = {"gather_distributed": True} if "gather_distributed" in allowed else {}
    try:
        return known[name](**{**gather, **given, **kwargs})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"method_kwargs.{part}_kwargs", f"got {kwargs}, {name} says: {error}", "correct it") from None


def known_parts(part: str) -> dict[str, Any]:
    """lightly's losses of two views, or its heads of one kind for vectors: name -> class."""
    try:
        found = vars(import_module("lightly.loss" if part == "loss" else "lightly.models.modules"))
    except ImportError:
        raise UserError("method", "lightly is not installed", "pip install 'solo-bam[lightly]'") from None
    modules = {n: cls for n, cls in found.items() if inspect.isclass(cls) and n.endswith(_ENDINGS[part])}
    if part == "loss":
        return {name: cls for name, cls in modules.items() if _views(cls)}
    return {name: cls for name, cls in modules.items() if "output_dim" in inspect.signature(cls).parameters}


def _views(cls: Any) -> list[str]:
    """What a loss of two views takes: ``[z_a, z_b]``, alike but for the last letter, or ``[z_views]``; else none."""
    found = [*inspect.signature(getattr(cls, "forward", cls)).parameters.values()][1:]  # without self
    required = [each.name for each in found if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    alike = len(required) == 2 and required[0][:-1] == required[1][:-1]
    return required if alike or required == ["z_views"] else []
