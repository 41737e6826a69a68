"""Warns when a training collapses: in words, once per episode, with what to try."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from solo_bam import solo_learn
from solo_bam.config import Recipe
from solo_bam.core import collectives
from solo_bam.core.errors import SoloBamWarning, UserError, warn
from solo_bam.evaluate.health import effective_rank, spread
from solo_bam.solo_learn.online import OnlineHeads

ROWS = 1024  # features that an epoch's measures are computed from, at most
_PATIENCE = 2  # epochs that a symptom lasts before it is one
_CONSTANT = 0.02  # spread of the features
_UNTRAINED = 0.1  # spread of projections: least of the shipped recipes after two steps 0.21
_FALLEN = 0.25  # effective rank, as a share of its highest
REMEDY = "Lower optimizer.lr or optimizer.weight_decay, or raise scheduler.warmup_epochs; docs/collapse.md has more"


class CollapseWarning(SoloBamWarning):
    """A training looks as if it collapsed."""


class CollapseMonitor(pl.Callback):
    """Logs ``rankme``, ``feature_spread`` and ``projection_spread`` each epoch, and watches them and the method's own.

    A training whose projections have become alike has collapsed, which is told in that epoch; what else looks wrong is
    told once it has lasted. Untrained projections are rather alike, too, and an epoch may be a few steps: in the first
    one, only what is more alike than those has collapsed.

    The features are those that training or validation computes anyway: the epoch's last validation images, or the last
    training crops where nothing was validated, of the first process. No pass over the data and no wait for the device
    is added to a step, and no weight or random number is touched.

    Args:
        recipe: of the run.

    Attributes:
        collapsed_in: the epoch since which the projections have been alike; None where they are not.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.collapsed_in: int | None = None
        self.highest_rank = 0.0
        self.lasting: dict[str, int] = {}  # symptom -> epochs
        self._rows: dict[str, deque[Tensor]] = {"train": deque(), "val": deque(), "projections": deque()}
        self._held: Counter[str] = Counter()  # how many those are
        self._now: str | None = None
        self._hooks: list[Any] = []

    # ------------------------------------------------------------------------------------- features

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        backbone: nn.Module = pl_module.backbone  # type: ignore[assignment]
        self._hooks = [backbone.register_forward_hook(self._keep)]
        if projector := _projector(pl_module, self.recipe.method):
            self._hooks.append(projector.register_forward_hook(self._keep_projections))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, _: nn.Module, __: Any, features: Any) -> None:
        if self._now is not None:
            # solo-learn's MAE masks in the backbone, which gives its masks too
            self._keep_rows(self._now, features[0] if isinstance(features, tuple) else features)

    def _keep_projections(self, _: nn.Module, __: Any, projections: Tensor) -> None:
        if self._now == "train":
            self._keep_rows("projections", projections)

    def _keep_rows(self, split: str, rows: Tensor) -> None:
        """The last rows of a split, at least :data:`ROWS` where there are as many."""
        kept = self._rows[split]
        kept.append(rows.detach().clone())
        self._held[split] += len(rows)
        while self._held[split] - len(kept[0]) >= ROWS:
            self._held[split] -= len(kept.popleft())

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
        told = self._measure(trainer, pl_module)
        for kept in self._rows.values():
            kept.clear()
        self._held.clear()
        alike = max(collectives.gather_number(int(told is not None)))
        if not alike:
            self.collapsed_in = None
        elif self.collapsed_in is None:
            self.collapsed_in = trainer.current_epoch
            if told is not None:
                warn(f"Collapsed in epoch {self.collapsed_in}: {told}", CollapseWarning)
        if alike and self.recipe.on_collapse == "stop":
            raise _stopped(self.collapsed_in or 0)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
        """Log the epoch's measures and tell what lasts; the sentence of a collapse, on the first process."""
        logged = trainer.callback_metrics  # means over the epoch; all processes ask, since they share them here
        if not trainer.is_global_zero:
            return None
        measured = _measures(_last(self._rows["val"] or self._rows["train"]))
        projections = _last(self._rows["projections"])
        if len(projections) > 1 and projections.isfinite().all():
            measured["projection_spread"] = spread(projections)
        self.highest_rank = max(self.highest_rank, measured.get("rankme", 0.0))
        symptoms = symptoms_of_features(measured, self.highest_rank)
        if isinstance(pl_module, OnlineHeads):
            symptoms |= pl_module.symptoms(logged, measured, self.recipe.optimizer.batch_size * trainer.world_size)
        pl_module.log_dict(measured, rank_zero_only=True)
        self._tell(symptoms, trainer.current_epoch)
        alike_below = getattr(pl_module, "alike_below", OnlineHeads.alike_below)
        return symptoms_of_projections(measured, alike_below if trainer.current_epoch else _UNTRAINED)

    def _tell(self, symptoms: dict[str, str], epoch: int) -> None:
        """Warn of the symptoms that have just lasted long enough; one that goes away may be told again."""
        self.lasting = {name: self.lasting.get(name, 0) + 1 for name in symptoms}
        for name, text in symptoms.items():
            if self.lasting[name] == _PATIENCE:
                warn(f"Collapse? In epoch {epoch}, {text}", CollapseWarning)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; in mid-epoch, the rows so far, too."""
        rows = {split: torch.cat(tuple(kept)).cpu()[-ROWS:] for split, kept in self._rows.items() if kept}
        told = {"lasting": dict(self.lasting), "collapsed_in": self.collapsed_in}
        return {"highest_rank": self.highest_rank, "rows": rows, **told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.highest_rank, self.lasting = state_dict["highest_rank"], dict(state_dict["lasting"])
        self.collapsed_in = state_dict.get("collapsed_in")
        for split, rows in state_dict.get("rows", {}).items():
            self._rows[split], self._held[split] = deque([rows]), len(rows)


def _projector(model: pl.LightningModule, method: str) -> nn.Module | None:
    """The submodule whose outputs the loss compares; None where the method has none."""
    name = solo_learn.own_method(method).projector
    return getattr(model, name, None) if name else None


def _last(kept: deque[Tensor]) -> Tensor:
    return torch.cat([rows.float().cpu() for rows in kept])[-ROWS:] if kept else torch.empty(0, 0)


def _measures(features: Tensor) -> dict[str, float]:
    if len(features) < 2 or not torch.isfinite(features).all():
        return {}
    return {"rankme": effective_rank(features), "feature_spread": spread(features)}


def symptoms_of_features(measured: Mapping[str, float], highest_rank: float) -> dict[str, str]:
    """What an epoch's features show: symptom -> a sentence.

    Args:
        measured: ``rankme`` and ``feature_spread``, or nothing.
        highest_rank: of the run so far.
    """
    if not measured:
        return {}
    rank, deviation = measured["rankme"], measured["feature_spread"]
    if deviation < _CONSTANT:
        return {
            "constant": f"the features hardly differ between images: standard deviation {deviation:.3f} of at most 1, "
            f"effective rank {rank:.1f}. {REMEDY}."
        }
    if rank < _FALLEN * highest_rank:
        return {
            "rank": f"the features' effective rank (RankMe) has fallen to {rank:.1f} from {highest_rank:.1f}: they "
            f"use few dimensions. {REMEDY}."
        }
    return {}


def symptoms_of_projections(measured: Mapping[str, float], alike_below: float) -> str | None:
    """A sentence where the projections of different images have become alike.

    Args:
        measured: ``projection_spread``, or nothing.
        alike_below: of it.
    """
    found = measured.get("projection_spread", 1.0)
    if found >= alike_below:
        return None
    return (
        f"the projections of different images are alike: spread {found:.2f} of at most 1 (a collapse: below "
        f"{alike_below:g}). {REMEDY}."
    )


def _stopped(epoch: int) -> UserError:
    error = UserError("optimizer.lr", f"the training collapsed in epoch {epoch}", f"{REMEDY}, or set on_collapse=warn")
    error.on_all_processes = True
    return error
