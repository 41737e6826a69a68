"""solo-learn 1.0.2 (the release edition): its faults mended, and the head edition's contract over it.

Imported only once ``solo`` is. Every mend is one function named ``_mend_…`` whose docstring says which
break it mends; each has a test in ``tests/toolkit`` that fails without it.
"""

from __future__ import annotations

import inspect
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import solo.losses.simclr
import solo.methods.base
import solo.methods.deepclusterv2
import solo.methods.simclr
import solo.utils.backbones
import solo.utils.knn
import solo.utils.misc
import solo.utils.momentum
import solo.utils.whitening
import torch
import torch.nn.functional as F
import torchvision.models
from omegaconf import DictConfig, OmegaConf
from solo.methods import METHODS
from solo.utils.pretrain_dataloader import GaussianBlur
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torchmetrics.metric import Metric

from solo_bam import distributed
from solo_bam.knn import accuracy, knn_scores
from solo_bam.toolkit.schedule import build_optimizer, build_scheduler

__all__ = [
    "METHODS",
    "BaseMethod",
    "BaseMomentumMethod",
    "GaussianBlur",
    "build_method",
    "mend",
    "method_options",
    "solo_backbones",
]

Backbones = Callable[[], torch.nn.Module]

SoloMethod = solo.methods.base.BaseMethod
SoloMomentumMethod = solo.methods.base.BaseMomentumMethod


# ---------------------------------------------------------------------------------------------- mends


def mend() -> None:
    """Mend solo-learn's classes in memory; its files are left as they are."""
    _mend_knn()
    _mend_labels()
    _mend_validation()
    _mend_momentum()
    _mend_optimizer()
    _mend_gather()
    _mend_simclr()
    _mend_clipping()
    _mend_wmse()
    _mend_deepcluster()
    _name_backbones()


class WeightedKNNClassifier(Metric):
    """solo-learn's online k-NN under its own interface.

    Mended: torchmetrics has no ``compute_on_step`` any more and ``forward`` must only update; classes that
    the validation set lacks no longer crash it; cosine distance compares normalised features; images
    without a label (-1) stay out of the bank and of the accuracy.

    Args:
        k: neighbours; a smaller bank is used whole.
        T: temperature of the cosine vote.
        distance_fx: ``euclidean`` (solo-learn's default online) or ``cosine``.
    """

    full_state_update = False

    def __init__(self, k: int = 20, T: float = 0.07, distance_fx: str = "cosine", **kwargs: Any):
        super().__init__()
        self.k, self.T, self.distance_fx = k, T, distance_fx
        for name in ("train_features", "train_targets", "test_features", "test_targets"):
            self.add_state(name, default=[], persistent=False, dist_reduce_fx="cat")

    def update(
        self,
        train_features: Tensor | None = None,
        train_targets: Tensor | None = None,
        test_features: Tensor | None = None,
        test_targets: Tensor | None = None,
    ) -> None:
        """Add features ``(N, D)`` and labels ``(N,)`` to the bank (train) or to the queries (test)."""
        for split, features, targets in (
            ("train", train_features, train_targets),
            ("test", test_features, test_targets),
        ):
            if features is not None and targets is not None:
                labelled = targets != -1
                getattr(self, f"{split}_features").append(features[labelled].detach())
                getattr(self, f"{split}_targets").append(targets[labelled].detach())

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Only :meth:`update`: computing at every step would cost more than the training."""
        self.update(*args, **kwargs)

    @torch.no_grad()
    def compute(self) -> tuple[float, float]:
        """Accuracy @1 and @5 in percent, over all processes; NaN without labelled images."""
        bank, labels = _cat(self.train_features), _cat(self.train_targets)
        queries, targets = _cat(self.test_features), _cat(self.test_targets)
        if not len(bank) or not len(queries):
            return float("nan"), float("nan")
        classes = int(max(labels.max(), targets.max())) + 1
        scores = knn_scores(bank, labels, queries, classes, min(self.k, len(bank)), self.T, self.distance_fx)
        return accuracy(scores, targets), accuracy(scores, targets, k=5)


def _cat(state: Any) -> Tensor:
    """A torchmetrics list state as one tensor (after a sync over processes it already is one)."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)


def _mend_knn() -> None:
    """The k-NN metric fails on today's torchmetrics and is silently wrong on some labels."""
    solo.utils.knn.WeightedKNNClassifier = WeightedKNNClassifier
    solo.methods.base.WeightedKNNClassifier = WeightedKNNClassifier

    def on_train_epoch_end(self: Any) -> None:
        # An epoch without a validation must not leave its features to the next.
        if self.knn_eval:
            self.knn.reset()

    SoloMethod.on_train_epoch_end = on_train_epoch_end


def classify(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and accuracy (percent) over the labelled images; all 0 where there are none.

    Args:
        logits: ``(N, classes)``.
        targets: ``(N,)``, -1 for images without a label.
    """
    labelled = targets != -1
    count = labelled.sum().clamp(min=1)
    loss = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum") / count
    best = logits.detach().topk(min(5, logits.shape[1])).indices
    hits = (best == targets[:, None]) & labelled[:, None]
    acc1, acc5 = (100.0 * hits[:, :k].any(1).sum() / count for k in (1, 5))
    return {"loss": loss, "acc1": acc1, "acc5": acc5}


def _mend_labels() -> None:
    """Without labels the classification loss is NaN; with fewer than 5 classes the momentum branch fails."""

    def _base_shared_step(self: Any, X: Tensor, targets: Tensor) -> dict[str, Any]:
        out = self.base_forward(X)
        return {**out, **classify(out["logits"], targets)}

    def _shared_step_momentum(self: Any, X: Tensor, targets: Tensor) -> dict[str, Any]:
        out = self.base_momentum_forward(X)
        if self.momentum_classifier is None:
            return out
        logits = self.momentum_classifier(out["feats"])
        return {**out, "logits": logits, **classify(logits, targets)}

    SoloMethod._base_shared_step = _base_shared_step
    SoloMomentumMethod._shared_step_momentum = _shared_step_momentum


def _mend_validation() -> None:
    """Lightning 2 has no ``validation_epoch_end`` and refuses the class while it defines one."""
    for cls in (SoloMethod, SoloMomentumMethod):
        del cls.validation_epoch_end

    def mean(outs: list[dict[str, Any]], key: str) -> Tensor:
        sizes = torch.tensor([float(out["batch_size"]) for out in outs])
        values = torch.stack([out[key].detach().float().reshape(()) for out in outs])
        return (values * sizes.to(values)).sum() / sizes.sum()

    def on_validation_epoch_start(self: Any) -> None:
        self.validation_step_outputs = []

    def on_validation_batch_end(self: Any, outputs: Any, *_: Any) -> None:
        self.validation_step_outputs.append(outputs)

    def on_validation_epoch_end(self: Any) -> None:
        outs = self.validation_step_outputs
        pairs = [out if isinstance(out, tuple) else (out, None) for out in outs]
        log = {key: mean([out for out, _ in pairs], key) for key in ("val_loss", "val_acc1", "val_acc5")}
        if pairs and pairs[0][1] is not None:
            keys = ("momentum_val_loss", "momentum_val_acc1", "momentum_val_acc5")
            log |= {key: mean([out for _, out in pairs], key) for key in keys}
        if self.knn_eval and not self.trainer.sanity_checking:
            acc1, acc5 = self.knn.compute()
            self.knn.reset()
            log |= {"val_knn_acc1": torch.tensor(acc1), "val_knn_acc5": torch.tensor(acc5)}
        self.log_dict(log, sync_dist=True)
        outs.clear()

    SoloMethod.on_validation_epoch_start = on_validation_epoch_start
    SoloMethod.on_validation_batch_end = on_validation_batch_end
    SoloMethod.on_validation_epoch_end = on_validation_epoch_end


def _mend_momentum() -> None:
    """``on_train_batch_end`` wants a fourth argument; tau restarts at its base value after a resume.

    The update also replaced the teacher's tensors, whose memory layout then differed from that of a
    resumed run, and with it the last bits of the results; it works in place now.
    """

    @torch.no_grad()
    def update(self: Any, online_net: torch.nn.Module, momentum_net: torch.nn.Module) -> None:
        online: list[Tensor] = list(online_net.parameters())
        momentum: list[Tensor] = list(momentum_net.parameters())
        torch._foreach_mul_(momentum, self.cur_tau)
        torch._foreach_add_(momentum, online, alpha=1 - self.cur_tau)

    def update_tau(self: Any) -> None:
        self.momentum_updater.update_tau(
            cur_step=self.trainer.global_step, max_steps=self.trainer.estimated_stepping_batches
        )

    def on_train_start(self: Any) -> None:
        self.last_step = self.trainer.global_step
        update_tau(self)

    def on_train_batch_end(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step > self.last_step:
            for online, momentum in self.momentum_pairs:
                self.momentum_updater.update(online, momentum)
            self.log("tau", self.momentum_updater.cur_tau)
            update_tau(self)
        self.last_step = self.trainer.global_step

    solo.utils.momentum.MomentumUpdater.update = update
    SoloMomentumMethod.on_train_start = on_train_start
    SoloMomentumMethod.on_train_batch_end = on_train_batch_end


def _mend_optimizer() -> None:
    """LARS has no useful effect, schedules step by epoch only, and some checkpoints cannot be loaded."""

    def configure_optimizers(self: Any) -> Any:
        optimizer = build_optimizer(
            self.learnable_params,
            name="lars" if self.lars else self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            kwargs=self._optimizer_kwargs(),
            exclude_bias_n_norm_wd=self.extra_args.get("exclude_bias_n_norm_wd", False),
        )
        scheduler = build_scheduler(
            optimizer,
            name=self.scheduler,
            interval=self.extra_args.get("scheduler_interval", "step"),
            max_epochs=self.max_epochs,
            total_steps=self.trainer.estimated_stepping_batches,
            warmup_epochs=self.warmup_epochs,
            warmup_start_lr=self.warmup_start_lr,
            min_lr=self.min_lr,
            lr_decay_steps=self.lr_decay_steps,
        )
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def _optimizer_kwargs(self: Any) -> dict[str, Any]:
        kwargs = dict(self.extra_optimizer_args)
        if self.lars:
            kwargs |= {
                "eta": self.eta_lars,
                "clip_lr": self.grad_clip_lars,
                "exclude_bias_n_norm": self.exclude_bias_n_norm,
            }
        return kwargs

    SoloMethod.configure_optimizers = configure_optimizers
    SoloMethod._optimizer_kwargs = _optimizer_kwargs


def gather(X: Tensor, dim: int = 0) -> Tensor:
    """solo-learn's gather: ``X`` of all processes, concatenated along ``dim``, gradients added up."""
    return torch.cat(list(distributed.gather(X)), dim=dim)


def _mend_gather() -> None:
    """``gather`` hands each process only its own gradient, so the other processes' losses are lost."""
    import solo.methods as methods

    solo.utils.misc.gather = gather
    for module in vars(methods).values():
        if inspect.ismodule(module) and hasattr(module, "gather"):
            setattr(module, "gather", gather)  # noqa: B010  mypy knows no such attribute


def _mend_simclr() -> None:
    """SimCLR contrasts within one process only; the negatives of the others are missing."""
    two_crop_loss = solo.losses.simclr.simclr_loss_func
    multi_crop_loss = solo.losses.simclr.manual_simclr_loss_func

    # Each process computes the loss of the whole batch. The gather adds the processes' equal gradients up
    # and DDP's averaging divides them again: the gradient is that of one process with all images.
    def simclr_loss_func(
        z1: Tensor, z2: Tensor, temperature: float = 0.1, extra_pos_mask: Tensor | None = None
    ) -> Tensor:
        if extra_pos_mask is not None and distributed.is_distributed():
            raise ValueError("method_kwargs.supervised: True needs one process with solo-learn 1.0.2")
        return two_crop_loss(gather(z1), gather(z2), temperature, extra_pos_mask)

    def manual_simclr_loss_func(z: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float = 0.1) -> Tensor:
        if distributed.is_distributed():
            # Positives are views of one image, which live on one process.
            pos_mask = torch.block_diag(*distributed.gather(pos_mask.float())).bool()  # type: ignore[no-untyped-call]
            neg_mask = (~pos_mask).fill_diagonal_(False)
        return multi_crop_loss(gather(z), pos_mask, neg_mask, temperature)

    solo.methods.simclr.simclr_loss_func = simclr_loss_func
    solo.methods.simclr.manual_simclr_loss_func = manual_simclr_loss_func


def _mend_clipping() -> None:
    """The online classifier's gradient counts in the norm that all gradients are clipped by.

    Labels then scale the backbone's gradient. Besides, DINO's ``clip_gradients(clip)`` hides Lightning's
    method of that name, which Lightning's own clipping calls.
    """

    def configure_gradient_clipping(
        self: Any, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if not gradient_clip_val:
            return
        clip = clip_grad_value_ if str(gradient_clip_algorithm).endswith("value") else clip_grad_norm_
        for of_classifier in (False, True):
            groups = [g for g in optimizer.param_groups if ("classifier" in g.get("name", "")) is of_classifier]
            clip([p for group in groups for p in group["params"]], gradient_clip_val)

    SoloMethod.configure_gradient_clipping = configure_gradient_clipping


def _mend_wmse() -> None:
    """W-MSE calls ``torch.cholesky`` and ``torch.triangular_solve``, which torch removed."""

    class TorchOfItsDay:
        """torch, with the two functions that whitening needs."""

        cholesky = staticmethod(torch.linalg.cholesky)

        @staticmethod
        def triangular_solve(b: Tensor, a: Tensor, upper: bool = True) -> tuple[Tensor, None]:
            return torch.linalg.solve_triangular(a, b, upper=upper), None

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    solo.utils.whitening.torch = TorchOfItsDay()


def _mend_deepcluster() -> None:
    """DeepClusterV2 has no assignments in its first epoch; its loss is then NaN, with a gradient of zero."""
    ordinary = solo.methods.deepclusterv2.deepclusterv2_loss_func

    def deepclusterv2_loss_func(outputs: Tensor, assignments: Tensor, temperature: float = 0.1) -> Tensor:
        if (assignments == -1).all():
            return outputs.sum() * 0.0
        loss: Tensor = ordinary(outputs, assignments, temperature)
        return loss

    solo.methods.deepclusterv2.deepclusterv2_loss_func = deepclusterv2_loss_func


def _name_backbones() -> None:
    """The head edition's names for what the release edition calls ``encoder`` and ``momentum_encoder``."""
    SoloMethod.backbone = property(lambda self: self.encoder)
    SoloMomentumMethod.momentum_backbone = property(lambda self: self.momentum_encoder)


# ------------------------------------------------------------------------------------------- contract


class BaseMethod(SoloMethod):  # type: ignore[misc, valid-type]
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

    def online_classification(self, feats: Tensor, targets: Tensor) -> Tensor:
        """Loss of the online linear classifier on the large crops, logged under solo-learn's names.

        Args:
            feats: ``(L B, D)`` features, crop-major; they receive no gradient.
            targets: ``(B,)`` labels, -1 for none.
        """
        outs = classify(self.classifier(feats.detach()), targets.repeat(self.num_large_crops))
        self._log_classifier(outs, "train_")
        self.update_online_knn(feats, targets)
        return outs["loss"]

    def update_online_knn(self, feats: Tensor, targets: Tensor) -> None:
        """Add the large crops' features ``(L B, D)`` to the online k-NN's bank, where it is on."""
        if self.knn_eval:
            self.knn(train_features=feats.detach(), train_targets=targets.repeat(self.num_large_crops))

    def _log_classifier(self, outs: dict[str, Any], prefix: str) -> None:
        metrics = {f"{prefix}class_loss": outs["loss"], f"{prefix}acc1": outs["acc1"], f"{prefix}acc5": outs["acc5"]}
        self.log_dict(metrics, on_epoch=True, sync_dist=True)

    def _layout(self, X: Tensor) -> Tensor:
        return X if self.no_channel_last else X.contiguous(memory_format=torch.channels_last)


class BaseMomentumMethod(BaseMethod, SoloMomentumMethod):  # type: ignore[misc, valid-type]
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

    def momentum_classification(self, feats: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`online_classification`, of the teacher's features; 0 where ``momentum.classifier`` is off."""
        if self.momentum_classifier is None:
            return feats.new_zeros(())
        outs = classify(self.momentum_classifier(feats.detach()), targets.repeat(self.num_large_crops))
        self._log_classifier(outs, "train_momentum_")
        return outs["loss"]


# ------------------------------------------------------------------------------------ building methods


_SOLO_BACKBONES: dict[str, Callable[..., torch.nn.Module]] = {
    name: getattr(torchvision.models if name.startswith("resnet") else solo.utils.backbones, name)
    for name in SoloMethod._SUPPORTED_ENCODERS
}
_REPLACED = "vit_tiny"


def solo_backbones() -> dict[str, Callable[..., torch.nn.Module]]:
    """What builds each of solo-learn's own backbones, by name."""
    return dict(_SOLO_BACKBONES)


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


def method_options(name: str) -> dict[str, Any]:
    """The ``method_kwargs`` of one of solo-learn's own methods, with their defaults.

    Args:
        name: a key of ``METHODS``; not bam or bam_momentum.

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
            options = method_options(cfg.method) | _plain(cfg.method_kwargs)
            method = cls(**_constructor_arguments(cfg), **options)
    method.encoder_name = cfg.backbone.name
    if cfg.knn_eval.enabled:
        method.knn.distance_fx, method.knn.T = cfg.knn_eval.distance_func, cfg.knn_eval.temperature
    return method


def _constructor_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The head edition's cfg as the release edition's keyword arguments."""
    optimizer = _plain(cfg.optimizer.kwargs)
    lars = cfg.optimizer.name == "lars"
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
