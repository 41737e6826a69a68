"""solo-learn 1.0.2 (the release edition) with the head edition's contract; ``release_patches.py`` mends its faults.

Imported only once ``solo`` is.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import solo.losses.simclr
import solo.methods.simclr
import solo.utils.backbones
import solo.utils.misc
import solo.utils.whitening
import timm
import torch
import torchvision.models
from omegaconf import DictConfig, OmegaConf
from solo.methods import METHODS
from solo.utils.pretrain_dataloader import GaussianBlur
from torch import Tensor

from solo_bam import solo_learn
from solo_bam.solo_learn.online import OnlineHeads
from solo_bam.solo_learn.patches import SoloMethod, SoloMomentumMethod
from solo_bam.solo_learn.release_patches import layout, mend

__all__ = [
    "METHODS",
    "BaseMethod",
    "BaseMomentumMethod",
    "GaussianBlur",
    "build_method",
    "mend",
    "own_options",
    "solo_backbones",
]

Backbones = Callable[[], torch.nn.Module]


class BaseMethod(OnlineHeads, SoloMethod):
    """solo-learn's ``BaseMethod`` with the head edition's contract: built from a ``cfg``, ``backbone``, ….

    Args:
        cfg: a recipe in the head edition's schema, complete but for ``method_kwargs``, learning rates
            already scaled by the batch size.
    """

    def __init__(self, cfg: DictConfig):
        cfg = self.add_and_assert_specific_cfg(cfg)
        super().__init__(**_constructor_arguments(cfg))
        self.cfg = cfg
        self.no_channel_last = cfg.performance.disable_channel_last

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Hook for a method's own defaults and checks; ``cfg`` is changed in place and returned."""
        return cfg

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Features of the backbone and logits of the online classifier: ``{"feats", "logits"}``."""
        feats = self.backbone(self._layout(X))
        return {"feats": feats, "logits": self.classifier(feats.detach())}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        """What the method needs of small crops: ``{"feats"}``."""
        return {"feats": self.backbone(self._layout(X))}

    def base_forward(self, X: Tensor) -> dict[str, Any]:
        """The release edition's name for :meth:`forward`, which its shared step calls."""
        return self(X)

    def base_training_step(self, X: Tensor, targets: Tensor) -> dict[str, Any]:
        """Everything :meth:`forward` gives, and ``loss``, ``acc1``, ``acc5`` of the online classifier."""
        return self._base_shared_step(X, targets)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Forward crop by crop: lists of what :meth:`forward` and :meth:`multicrop_forward` give."""
        _, X, targets = batch
        X = [X] if isinstance(X, Tensor) else X
        large = [self.base_training_step(x, targets) for x in X[: self.num_large_crops]]
        small = [self.multicrop_forward(x) for x in X[self.num_large_crops :]]
        outs: dict[str, Any] = {key: [out[key] for out in large] for key in large[0]}
        for key in small[0] if small else ():
            outs[key] = outs.get(key, []) + [out[key] for out in small]
        for key in ("loss", "acc1", "acc5"):
            outs[key] = sum(outs[key]) / self.num_large_crops
        self._log_classifier(outs, "train_")
        self.update_online_knn(torch.cat(outs["feats"][: self.num_large_crops]), targets)
        return outs

    _layout = layout


class BaseMomentumMethod(BaseMethod, SoloMomentumMethod):
    """solo-learn's ``BaseMomentumMethod`` with the head edition's contract."""

    @torch.no_grad()
    def momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """The teacher's features: ``{"feats"}``."""
        return {"feats": self.momentum_backbone(self._layout(X))}

    def base_momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """The release edition's name for :meth:`momentum_forward`, which its shared step calls."""
        return self.momentum_forward(X)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The online branch's outputs, and the teacher's of the large crops under ``momentum_…``."""
        outs = super().training_step(batch, batch_idx)
        _, X, targets = batch
        X = [X] if isinstance(X, Tensor) else X
        teacher = [self._shared_step_momentum(x, targets) for x in X[: self.num_large_crops]]
        outs |= {f"momentum_{key}": [out[key] for out in teacher] for key in teacher[0]}
        if self.momentum_classifier is not None:
            for key in ("momentum_loss", "momentum_acc1", "momentum_acc5"):
                outs[key] = sum(outs[key]) / self.num_large_crops
            momentum = {key: outs[f"momentum_{key}"] for key in ("loss", "acc1", "acc5")}
            self._log_classifier(momentum, "train_momentum_")
            outs["loss"] = outs["loss"] + outs["momentum_loss"]
        return outs


_SOLO_BACKBONES: dict[str, Callable[..., torch.nn.Module]] = {
    name: getattr(torchvision.models if name.startswith("resnet") else solo.utils.backbones, name)
    for name in SoloMethod._SUPPORTED_ENCODERS
}
_REPLACED = "vit_tiny"


def solo_backbones(method: str = "") -> dict[str, Callable[..., torch.nn.Module]]:
    """What builds each of solo-learn's own backbones for a method, by name.

    MAE and MoCo v3 are methods of the head edition alone; here their ViTs are for its checkpoints.
    """
    backbones = dict(_SOLO_BACKBONES)
    for name in backbones:
        if heads := solo_learn.own_method(method).vit_heads.get(name):
            # solo-learn's own function takes no other number
            timms = functools.partial(timm.create_model, f"{name}_patch16_224", num_classes=0, num_heads=heads)
            backbones[name] = timms
    return backbones


@contextmanager
def _built_by(create: Backbones | None) -> Iterator[None]:
    """Methods that are constructed meanwhile get their backbones, the teacher's too, from ``create``.

    solo-learn's constructor knows ten names and looks up what builds them in ``solo.utils.backbones``. It
    asks a network that is no ResNet for ``num_features`` alone, so any may stand under one of those names.
    """
    if create is not None:
        setattr(solo.utils.backbones, _REPLACED, create)
    try:
        yield
    finally:
        setattr(solo.utils.backbones, _REPLACED, _SOLO_BACKBONES[_REPLACED])


def _is_replaced() -> bool:
    return getattr(solo.utils.backbones, _REPLACED) is not _SOLO_BACKBONES[_REPLACED]


def own_options(name: str) -> dict[str, Any]:
    """The ``method_kwargs`` of one of solo-learn's own methods, with their defaults.

    Args:
        name: a key of ``METHODS`` as solo-learn has it.

    Returns:
        key -> default; ``inspect.Parameter.empty`` where a value is required.
    """
    cls = METHODS[name]
    parser = ArgumentParser()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # argparse: nested groups are deprecated
        cls.add_model_specific_args(parser)
    defaults = {
        action.dest: inspect.Parameter.empty if action.required else action.default for action in parser._actions
    }
    defaults |= solo_learn.own_method(name).defaults
    own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {p.name: defaults.get(p.name, p.default) for p in own if p.name != "self"}


def build_method(cfg: DictConfig, create_backbone: Backbones | None = None) -> pl.LightningModule:
    """Any registered method from a recipe in the head edition's schema.

    Args:
        cfg: complete but for ``method_kwargs``, learning rates already scaled by the batch size.
        create_backbone: builds the network, with ``num_features``, for the student and again for a teacher;
            None: solo-learn's own of that name.
    """
    cls = METHODS[cfg.method]
    with _built_by(create_backbone):
        if issubclass(cls, BaseMethod):
            method = cls(cfg)
        else:
            options = own_options(cfg.method) | _plain(cfg.method_kwargs)
            method = cls(**_constructor_arguments(cfg), **options)
    method.encoder_name = cfg.backbone.name
    method.no_channel_last = cfg.performance.disable_channel_last
    if cfg.knn_eval.enabled:
        method.knn.distance_fx, method.knn.T = cfg.knn_eval.distance_func, cfg.knn_eval.temperature
    return method


def _constructor_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The head edition's cfg as the release edition's keyword arguments."""
    optimizer, lars = _plain(cfg.optimizer.kwargs), cfg.optimizer.name == "lars"
    own = {**_plain(cfg.backbone.kwargs), "cifar": bool(cfg.backbone.cifar_stem)}
    arguments = {
        "encoder": _REPLACED if _is_replaced() else cfg.backbone.name,
        "backbone_args": {} if _is_replaced() else own,
        "num_classes": cfg.data.num_classes,
        "max_epochs": cfg.max_epochs,
        "batch_size": cfg.optimizer.batch_size,
        "optimizer": "sgd" if lars else cfg.optimizer.name,
        "lars": lars,
        "lr": cfg.optimizer.lr,
        "weight_decay": cfg.optimizer.weight_decay,
        "classifier_lr": cfg.optimizer.classifier_lr,
        "eta_lars": optimizer.pop("eta", 1e-3),
        "grad_clip_lars": optimizer.pop("clip_lr", False),
        "exclude_bias_n_norm": optimizer.pop("exclude_bias_n_norm", False),
        "extra_optimizer_args": optimizer,
        "accumulate_grad_batches": cfg.accumulate_grad_batches or 1,
        "scheduler": cfg.scheduler.name,
        "min_lr": cfg.scheduler.min_lr,
        "warmup_start_lr": cfg.scheduler.warmup_start_lr,
        "warmup_epochs": cfg.scheduler.warmup_epochs,
        "lr_decay_steps": _plain(cfg.scheduler.lr_decay_steps),
        "num_large_crops": cfg.data.num_large_crops,
        "num_small_crops": cfg.data.num_small_crops,
        "knn_eval": cfg.knn_eval.enabled,
        "knn_k": cfg.knn_eval.k,
        # Read by the mended configure_optimizers; the constructor keeps what it does not know.
        "exclude_bias_n_norm_wd": cfg.optimizer.exclude_bias_n_norm_wd,
        "scheduler_interval": cfg.scheduler.interval,
    }
    if issubclass(METHODS[cfg.method], SoloMomentumMethod):
        arguments |= {
            "base_tau_momentum": cfg.momentum.base_tau,
            "final_tau_momentum": cfg.momentum.final_tau,
            "momentum_classifier": cfg.momentum.classifier,
        }
    return arguments


def _plain(node: Any) -> Any:
    """An OmegaConf node as plain Python."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
