"""The training of linear heads on a frozen or a fine-tuned backbone."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from solo_bam.config.linear import LinearRecipe
from solo_bam.core import collectives
from solo_bam.data.labelled import LabelledData
from solo_bam.evaluate.heads import Heads, parameter_groups, probed_features, probed_width
from solo_bam.evaluate.tally import Tally
from solo_bam.solo_learn.schedule import build_optimizer, build_scheduler
from solo_bam.train.performance import optimizer_kwargs

SPLITS = ("val", "tune")
_KEPT_UP_TO = 4 * 2**30  # bytes of features in memory


class Classifier(pl.LightningModule):
    """One linear head per learning rate, all on the same features of the same batches.

    Args:
        backbone: with ``num_features``.
        recipe: a checked recipe.
        num_classes: of the labels.
        world_size: processes; the rates are multiplied by the global batch size / 256.

    Attributes:
        tallies: of the last validation: on the validation images, then on those for tuning if there are any.
    """

    def __init__(self, backbone: nn.Module, recipe: LinearRecipe, num_classes: int, world_size: int = 1):
        super().__init__()
        self.backbone, self.recipe, self.num_classes = backbone, recipe, num_classes
        if not recipe.finetune:
            backbone.requires_grad_(False)
        width = probed_width(backbone.num_features, recipe.probe)  # type: ignore[arg-type]
        rates = recipe.optimizer.lr
        self.heads = Heads(len(rates), width, num_classes, recipe.probe.batch_norm, recipe.seed)
        self.rates = [rate * recipe.optimizer.batch_size * world_size / 256 for rate in rates]
        self.suffixes = [""] if len(rates) == 1 else [f"_lr{rate:g}" for rate in rates]
        self.mixup = _mixup(recipe, num_classes)
        self.tallies: list[Tally] = []

    @property
    def best(self) -> int:
        """The head that is reported: the best on the last of the tallies."""
        return self.tallies[-1].best()

    def check_layers(self) -> None:
        """Refuse a layer decay for a backbone that does not say which layers it has.

        Raises:
            UserError: naming the key.
        """
        self._groups()

    def train(self, mode: bool = True) -> Classifier:
        """A frozen backbone stays in evaluation mode."""
        super().train(mode)
        if not self.recipe.finetune:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(heads, N, classes)`` of ``(N, 3, height, width)`` images, or of their ``(N, width)`` features."""
        logits: Tensor = self.heads(images if images.ndim == 2 else self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the heads see, ``(N, width)``, of ``(N, 3, height, width)`` images."""
        with torch.set_grad_enabled(self.recipe.finetune and torch.is_grad_enabled()):
            return probed_features(self.backbone, images, self.recipe.probe)

    def _keep_features(self) -> None:
        """Extract frozen features once, where the images look the same in every epoch."""
        data: LabelledData = self.trainer.datamodule  # type: ignore[attr-defined]
        recipe = self.recipe
        if recipe.finetune or self.mixup is not None or recipe.data.on_error == "skip" or not data.same_every_epoch:
            return
        count = len(data.train_split) + sum(len(s) for s in (data.val_split, data.tune_split) if s is not None)
        if 4 * count * self.heads.width > _KEPT_UP_TO:
            return
        self.backbone.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            data.show_features(lambda images: self.features(images.to(self.device)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The sum of the heads' losses, so that each gets its own gradient."""
        _, images, labels = batch
        targets, smoothing = labels, self.recipe.label_smoothing
        if self.mixup is not None:
            images, targets = self.mixup(images, labels)
            smoothing = 0.0  # it is in the mixed targets
        logits = self(images)
        losses = torch.stack([F.cross_entropy(each, targets, label_smoothing=smoothing) for each in logits])
        self._log("train_loss", losses.detach())
        if self.mixup is None:
            self._log("train_acc1", 100.0 * (logits.argmax(-1) == labels).float().mean(-1))
        return losses.sum()

    def _log(self, name: str, values: Tensor) -> None:
        named = {name + suffix: value for suffix, value in zip(self.suffixes, values)}
        self.log_dict(named, on_step=False, on_epoch=True, sync_dist=True, prog_bar=len(named) == 1)

    def on_validation_epoch_start(self) -> None:
        """Every process answers with the same running statistics."""
        trained: nn.Module = self if self.recipe.finetune else self.heads
        if collectives.is_distributed():
            for buffer in trained.buffers():
                if buffer.is_floating_point():
                    collectives.all_sum(buffer).div_(collectives.world_size())
        loaders = self.trainer.val_dataloaders
        self.tallies = [Tally(len(self.rates), self.num_classes, self.device) for _ in loaders or ()]

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count the answers."""
        images, labels = batch
        self.tallies[dataloader_idx].add(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Add up the processes' counts and log them."""
        for split, tally in zip(SPLITS, self.tallies):
            tally.reduce()
            for suffix, accuracy, top, loss in zip(self.suffixes, tally.accuracies, tally.top_accuracies, tally.losses):
                shown = {f"{split}_loss{suffix}": loss, f"{split}_acc1{suffix}": accuracy, f"{split}_acc5{suffix}": top}
                self.log_dict(shown, prog_bar=len(self.rates) == 1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """By solo-learn's rules, a group per head; a layer's rate is its group's own."""
        self._keep_features()  # here, since counting the steps below opens the training images
        options, schedule = self.recipe.optimizer, self.recipe.scheduler
        kwargs = {"momentum": 0.9, **options.kwargs} if options.name == "sgd" else options.kwargs
        kwargs = optimizer_kwargs(self.recipe, options.name, kwargs, self.device.type)
        optimizer = build_optimizer(
            self._groups(), options.name, self.rates[0], options.weight_decay, kwargs, options.exclude_bias_n_norm_wd
        )
        scheduler = build_scheduler(
            optimizer,
            schedule.name,
            schedule.interval,
            self.recipe.max_epochs,
            self.trainer.estimated_stepping_batches,
            schedule.warmup_epochs,
            schedule.warmup_start_lr,
            schedule.min_lr,
            schedule.lr_decay_steps,
        )
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # type: ignore[return-value]

    def _groups(self) -> list[dict[str, Any]]:
        section, options = self.recipe.backbone, self.recipe.optimizer
        backbone = self.backbone if self.recipe.finetune else None
        name = "" if section is None else section.name
        return parameter_groups(self.heads, self.rates, backbone, name, options.weight_decay, options.layer_decay)


def _mixup(recipe: LinearRecipe, num_classes: int) -> Any:
    """timm's mixing of the images of a batch and of their labels, or None."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm.data.mixup import Mixup

    mix: Any = Mixup
    return mix(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)
