"""The online linear classifier and k-NN, for methods that forward all crops at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from solo_bam.solo_learn.rules import CropRule, Panel


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


class NoOptions(BaseModel):
    """``method_kwargs`` of a method that has none."""

    model_config = ConfigDict(extra="forbid")


class OnlineHeads:
    """What both editions' base classes add to solo-learn's: losses of the online classifiers, and k-NN's bank.

    Attributes:
        Options: pydantic model of ``method_kwargs``.
        crops: that the method takes.
        headline: logged metrics that the progress bar and a run's last line show.
        panels: of the method's own among a run's curves.
        by_row: whether its networks take a batch and give one tensor, each row's output by itself, batch norm aside.
        alike_below: spread of the projections (0 all alike, 1 spread evenly) below which a training has collapsed.
    """

    Options: type[BaseModel] = NoOptions
    crops = CropRule(large=2, small=False)
    headline: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    by_row = False
    alike_below = 0.5

    classifier: Any
    momentum_classifier: Any
    knn: Any
    knn_eval: bool
    num_large_crops: int
    log_dict: Any

    @classmethod
    def check(cls, recipe: Any, global_batch: int) -> None:
        """Check what of a recipe depends on more than one key; nothing by default.

        Args:
            recipe: a :class:`solo_bam.config.Recipe` whose ``method_kwargs`` have been checked.
            global_batch: images per step, over all processes.

        Raises:
            UserError: keys that do not fit together.
        """

    @staticmethod
    def note(options: Mapping[str, Any]) -> str:
        """What the method has that others have not, for a comparison's report («also compares with …»); "" for nothing.

        Args:
            options: its ``method_kwargs``.
        """
        return ""

    def symptoms(self, logged: Mapping[str, Tensor], measured: dict[str, float], batch: int) -> dict[str, str]:
        """What looks wrong in the metrics of an epoch, beside what every method is watched for; nothing by default.

        Args:
            logged: means over the epoch, by name.
            measured: of the epoch's features; what is added to it is logged, too.
            batch: images per step, over all processes.

        Returns:
            symptom -> a sentence that says what it is and what to try.
        """
        return {}

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

    def momentum_classification(self, feats: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`online_classification`, of the teacher's features; 0 where ``momentum.classifier`` is off."""
        if self.momentum_classifier is None:
            return feats.new_zeros(())
        outs = classify(self.momentum_classifier(feats.detach()), targets.repeat(self.num_large_crops))
        self._log_classifier(outs, "train_momentum_")
        return outs["loss"]

    def update_online_knn(self, feats: Tensor, targets: Tensor) -> None:
        """Add the large crops' features ``(L B, D)`` to the online k-NN's bank, where it is on."""
        if self.knn_eval:
            self.knn(train_features=feats.detach(), train_targets=targets.repeat(self.num_large_crops))

    def _log_classifier(self, outs: dict[str, Any], prefix: str) -> None:
        metrics = {f"{prefix}class_loss": outs["loss"], f"{prefix}acc1": outs["acc1"], f"{prefix}acc5": outs["acc5"]}
        self.log_dict(metrics, on_epoch=True, sync_dist=True)
