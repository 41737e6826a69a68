"""solo-learn 1.0.6 (the head edition, of its GitHub repository): its faults mended, its methods built from a cfg.

Imported only once ``solo`` is. What is wrong in both editions is mended in ``patches.py``; the rest here, by the
same rules.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import solo.args.pretrain
import torch
from omegaconf import DictConfig, OmegaConf
from solo.data.pretrain_dataloader import GaussianBlur
from solo.methods import METHODS

from solo_bam import solo_learn
from solo_bam.core.errors import warn
from solo_bam.solo_learn import patches
from solo_bam.solo_learn.online import OnlineHeads
from solo_bam.solo_learn.patches import SoloMethod, SoloMomentumMethod

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


# ---------------------------------------------------------------------------------------------- mends


def mend() -> None:
    """Mend solo-learn's classes in memory; its files are left as they are."""
    patches.mend()
    _mend_arguments()
    _mend_crops()
    _let_backbones_be_replaced()
    SoloMethod._optimizer_settings = _optimizer_settings


def _mend_arguments() -> None:
    """Lightning refuses ``strategy: None``, solo-learn's default; ``devices`` had to be a list, «auto» counted as 4.

    This is for solo-learn's own ``main_pretrain.py``, which takes ``parse_cfg`` from here.
    """
    ordinary = solo.args.pretrain.parse_cfg

    @functools.wraps(ordinary)
    def parse_cfg(cfg: DictConfig) -> DictConfig:
        devices = cfg.get("devices", "auto")
        cfg.devices = list(range(_count(devices)))
        cfg = ordinary(cfg)
        cfg.devices = devices
        if cfg.strategy is None:
            cfg.strategy = "auto"
        return cfg

    solo.args.pretrain.parse_cfg = parse_cfg


def _count(devices: Any) -> int:
    """Processes per machine that Lightning makes of ``devices``."""
    if OmegaConf.is_list(devices):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        return max(1, torch.cuda.device_count())
    return len(str(devices).split(",")) if "," in str(devices) else int(devices)


def _mend_crops() -> None:
    """Most methods pay for small crops and leave them out of their loss, without a word."""

    def on_fit_start(self: Any) -> None:
        name = self.cfg.method
        own = type(self).__module__.startswith("solo.methods.")
        if own and self.multicrop and not solo_learn.own_method(name).crops.small:
            warn(f"{name} forwards {self.num_small_crops} small crops and leaves them out of its loss")

    SoloMethod.on_fit_start = on_fit_start


def _optimizer_settings(self: Any) -> dict[str, Any]:
    """What the recipe says of the optimiser, for :func:`solo_bam.solo_learn.schedule.build_optimizer`."""
    return {
        "name": self.optimizer,
        "kwargs": _plain(self.extra_optimizer_args),
        "exclude_bias_n_norm_wd": self.exclude_bias_n_norm_wd,
        "interval": self.scheduler_interval,
    }


# ------------------------------------------------------------------------------------------- contract


class BaseMethod(OnlineHeads, SoloMethod):
    """solo-learn's ``BaseMethod``, and the online heads for methods that forward all crops at once."""


class BaseMomentumMethod(BaseMethod, SoloMomentumMethod):
    """solo-learn's ``BaseMomentumMethod``, likewise."""


# ------------------------------------------------------------------------------------ building methods


_REPLACED = "solo_bam"
_create: Backbones | None = None


def _let_backbones_be_replaced() -> None:
    """Within :func:`_built_by`, the constructors take their backbones from its ``create``.

    They know some names, and rebuild the stem of a ResNet by the dataset's name. Meanwhile the recipe's name is
    therefore another; methods find the true one again once the base classes are done.
    """
    SoloMethod._BACKBONES[_REPLACED] = lambda method, **kwargs: _create and _create()
    for cls in (SoloMethod, SoloMomentumMethod):
        cls.__init__ = _with_replaced_backbone(cls.__init__)


def _with_replaced_backbone(ordinary: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(ordinary)
    def __init__(self: Any, cfg: DictConfig) -> None:
        name = cfg.backbone.name
        if _create is None or name == _REPLACED:
            return ordinary(self, cfg)
        cfg.backbone.name = _REPLACED
        try:
            ordinary(self, cfg)
        finally:
            cfg.backbone.name = name
        self.backbone_name = name

    return __init__


@contextmanager
def _built_by(create: Backbones | None) -> Iterator[None]:
    global _create
    _create = create
    try:
        yield
    finally:
        _create = None


def solo_backbones(method: str = "") -> dict[str, Callable[..., torch.nn.Module]]:
    """What builds each of solo-learn's own backbones for a method, by name (MAE's and MoCo v3's ViTs differ)."""
    own = {name: create for name, create in SoloMethod._BACKBONES.items() if name != _REPLACED}
    return {name: functools.partial(_quietly, create, method) for name, create in own.items()}


def _quietly(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call with the root logger kept silent: solo-learn logs which ViT it takes, and what is mended by now.

    Its first message would also set up a handler that prints every other library's messages twice; the function
    that it logs by is deprecated.
    """
    root = logging.getLogger()
    silent = logging.NullHandler()
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return create(*args, **kwargs)
    finally:
        root.removeHandler(silent)


def own_options(name: str) -> dict[str, Any]:
    """The ``method_kwargs`` of one of solo-learn's own methods, with their defaults.

    A class fills its defaults into the cfg; what it reads besides is required.

    Args:
        name: a key of ``METHODS`` as solo-learn has it.

    Returns:
        key -> default; ``inspect.Parameter.empty`` where a value is required.
    """
    cls = METHODS[name]
    source = "".join(inspect.getsource(c) for c in cls.__mro__ if c.__module__.startswith("solo.methods."))
    sections: tuple[str, ...] = ("backbone", "data", "optimizer", "scheduler", "momentum", "knn_eval", "performance")
    cfg = OmegaConf.create({"method": name, "method_kwargs": {}} | {section: {} for section in sections})
    filled = _plain(cls.add_and_assert_specific_cfg(cfg).method_kwargs)
    read = dict.fromkeys(re.findall(r"method_kwargs\.(\w+)", source), inspect.Parameter.empty)
    return {**read, **filled}


def build_method(cfg: DictConfig, create_backbone: Backbones | None = None) -> pl.LightningModule:
    """Any registered method from a recipe in the head edition's schema.

    Args:
        cfg: complete but for ``method_kwargs``, learning rates already scaled by the batch size.
        create_backbone: builds the network, with ``num_features``, for the student and again for a teacher;
            None: solo-learn's own of that name.
    """
    with _built_by(create_backbone):
        method = _quietly(METHODS[cfg.method], cfg)
    if cfg.knn_eval.enabled:
        method.knn.T = cfg.knn_eval.temperature
    return method


def _plain(node: Any) -> Any:
    """An OmegaConf node as plain Python."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
