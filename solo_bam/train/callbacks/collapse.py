"""Warns when a training collapses: in words, once per episode, with what to try."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from solo_bam.evaluate.health import effective_rank, spread
from solo_bam.losses import BAMLoss

ROWS = 1024  # features that an epoch's measures are computed from, at most
_PATIENCE = 2  # epochs that a symptom lasts before it is one
_UNIFORM = 0.95  # perplexity of the target attention, as a share of its columns
_ONE_HOT = 0.8  # largest entry of a target row
_CONSTANT = 0.02  # spread of the features
_FALLEN = 0.25  # effective rank, as a share of its highest


class CollapseWarning(UserWarning):
    """A training looks as if it collapsed."""


class CollapseMonitor(pl.Callback):
    """Logs ``rankme`` and ``feature_spread`` each epoch and watches them, and BAM's attention.

    The features are those that training or validation computes anyway: the epoch's last validation images, or the last
    training crops where nothing was validated, of the first process. No pass over the data and no wait for the device
    is added to a step, and no weight or random number is touched.

    Args:
        batch_size: images per process and step; with the loss it says how many columns an attention row has.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.highest_rank = 0.0
        self.lasting: dict[str, int] = {}  # symptom -> epochs
        self._rows: dict[str, deque[Tensor]] = {"train": deque(), "val": deque()}
        self._now: str | None = None
        self._hook: Any = None

    # ------------------------------------------------------------------------------------- features

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        backbone: nn.Module = pl_module.backbone  # type: ignore[assignment]
        self._hook = backbone.register_forward_hook(self._keep)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _keep(self, _: nn.Module, __: Any, features: Any) -> None:
        """The last rows of a split, at least :data:`ROWS` where there are as many."""
        if self._now is None:
            return
        if isinstance(features, tuple):  # solo-learn's MAE masks in the backbone, which gives its masks too
            features = features[0]
        kept = self._rows[self._now]
        kept.append(features.detach().clone())
        while sum(map(len, kept)) - len(kept[0]) >= ROWS:
            kept.popleft()

    def on_train_epoch_start(self, *_: Any) -> None:
        for kept in self._rows.values():
            kept.clear()

    def on_train_batch_start(self, *_: Any) -> None:
        self._now = "train"

    def on_train_batch_end(self, *_: Any) -> None:
        self._now = None

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._now = None if trainer.sanity_checking else "val"

    def on_validation_batch_end(self, *_: Any) -> None:
        self._now = None

    # ------------------------------------------------------------------------------------- measures

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logged = trainer.callback_metrics  # means over the epoch; all processes ask, since they share them here
        if not trainer.is_global_zero:
            return
        rows = [features.float().cpu() for features in self._rows["val"] or self._rows["train"]]
        measured = _measures(torch.cat(rows)[-ROWS:]) if rows else {}
        self.highest_rank = max(self.highest_rank, measured.get("rankme", 0.0))
        symptoms = symptoms_of_features(measured, self.highest_rank)
        loss = getattr(pl_module, "loss_fn", None)
        if isinstance(loss, BAMLoss):
            columns = attention_columns(loss, self.batch_size * trainer.world_size)
            measured["attention_columns"] = float(columns)
            if "target_entropy_epoch" in logged:
                entropy, largest = float(logged["target_entropy_epoch"]), float(logged["target_max_epoch"])
                symptoms |= symptoms_of_attention(entropy, largest, columns, loss.reg)
        pl_module.log_dict(measured, rank_zero_only=True)
        self._tell(symptoms, trainer.current_epoch)

    def _tell(self, symptoms: dict[str, str], epoch: int) -> None:
        """Warn of the symptoms that have just lasted long enough; one that goes away may be told again."""
        self.lasting = {name: self.lasting.get(name, 0) + 1 for name in symptoms}
        for name, text in symptoms.items():
            if self.lasting[name] == _PATIENCE:
                rank_zero_warn(f"Collapse? In epoch {epoch}, {text}", category=CollapseWarning)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"highest_rank": self.highest_rank, "lasting": dict(self.lasting)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.highest_rank, self.lasting = state_dict["highest_rank"], dict(state_dict["lasting"])


def _measures(features: Tensor) -> dict[str, float]:
    if len(features) < 2 or not torch.isfinite(features).all():
        return {}
    return {"rankme": effective_rank(features), "feature_spread": spread(features)}


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


def symptoms_of_features(measured: Mapping[str, float], highest_rank: float) -> dict[str, str]:
    """What an epoch's features show: symptom -> a sentence.

    Args:
        measured: ``rankme`` and ``feature_spread``, or nothing.
        highest_rank: of the run so far.
    """
    if not measured:
        return {}
    rank, deviation = measured["rankme"], measured["feature_spread"]
    remedy = "Lower optimizer.lr or optimizer.weight_decay, or raise scheduler.warmup_epochs"
    if deviation < _CONSTANT:
        return {
            "constant": f"the features hardly differ between images: standard deviation {deviation:.3f} of at most 1, "
            f"effective rank {rank:.1f}. {remedy}."
        }
    if rank < _FALLEN * highest_rank:
        return {
            "rank": f"the features' effective rank (RankMe) has fallen to {rank:.1f} from {highest_rank:.1f}: they "
            f"use few dimensions. {remedy}."
        }
    return {}
