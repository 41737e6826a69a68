"""Faults that both editions of solo-learn share, mended in memory.

Imported only once ``solo`` is. Every mend is one function named ``_mend_…`` whose docstring says which
break it mends; each has a test in ``tests/solo_learn`` that fails without it. What only one edition needs is in
``release.py`` or ``head.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import solo.methods.base
import solo.methods.deepclusterv2
import solo.methods.swav
import solo.utils.knn
import solo.utils.momentum
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from solo_bam.solo_learn.knn_metric import WeightedKNNClassifier
from solo_bam.solo_learn.online import classify
from solo_bam.solo_learn.schedule import build_optimizer, build_scheduler, by_layer

SoloMethod = solo.methods.base.BaseMethod
SoloMomentumMethod = solo.methods.base.BaseMomentumMethod


def mend() -> None:
    """Mend solo-learn's classes in memory; its files are left as they are."""
    _mend_knn()
    _mend_labels()
    _mend_report()
    _mend_momentum()
    _mend_optimizer()
    _mend_clipping()
    _mend_deepcluster()
    _mend_buffers()


def _mend_knn() -> None:
    """The k-NN metric fails on today's torchmetrics and is silently wrong on some labels."""
    solo.utils.knn.WeightedKNNClassifier = WeightedKNNClassifier
    solo.methods.base.WeightedKNNClassifier = WeightedKNNClassifier

    def on_train_epoch_end(self: Any) -> None:
        # An epoch without a validation must not leave its features to the next.
        if self.knn_eval:
            self.knn.reset()

    SoloMethod.on_train_epoch_end = on_train_epoch_end


def _mend_labels() -> None:
    """Without labels the classification loss is NaN; with fewer than 5 classes the momentum branch fails."""

    def _base_shared_step(self: Any, X: Tensor, targets: Tensor) -> dict[str, Any]:
        # The release edition's methods put into base_forward what the head's put into forward.
        out = getattr(self, "base_forward", self)(X)
        return {**out, **classify(out["logits"], targets)}

    def _shared_step_momentum(self: Any, X: Tensor, targets: Tensor) -> dict[str, Any]:
        out = self.base_momentum_forward(X) if hasattr(self, "base_momentum_forward") else self.momentum_forward(X)
        if self.momentum_classifier is None:
            return out
        logits = self.momentum_classifier(out["feats"])
        return {**out, "logits": logits, **classify(logits, targets)}

    SoloMethod._base_shared_step = _base_shared_step
    SoloMomentumMethod._shared_step_momentum = _shared_step_momentum


def _mend_report() -> None:
    """The validation's report left k-NN's reset to its ``compute``, where torchmetrics undoes it over processes."""

    def on_validation_epoch_end(self: Any) -> None:
        outs: list[dict[str, Any]] = self.validation_step_outputs
        log = {key: _mean(outs, key) for key in (outs[0] if outs else ()) if key != "batch_size"}
        if self.knn_eval and not self.trainer.sanity_checking:
            acc1, acc5 = self.knn.compute()
            self.knn.reset()
            log |= {"val_knn_acc1": torch.tensor(acc1), "val_knn_acc5": torch.tensor(acc5)}
        self.log_dict(log, sync_dist=True)
        outs.clear()

    for cls in (SoloMethod, SoloMomentumMethod):
        cls.on_validation_epoch_end = on_validation_epoch_end


def _mean(outs: list[dict[str, Any]], key: str) -> Tensor:
    sizes = torch.tensor([float(out["batch_size"]) for out in outs])
    values = torch.stack([out[key].detach().float().reshape(()) for out in outs])
    return (values * sizes.to(values)).sum() / sizes.sum()


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
        asked = self._optimizer_settings()
        interval = asked.pop("interval")
        groups = self.learnable_params
        if decay := getattr(self, "layer_decay", 0.0):
            groups = [group for group in groups if group.get("name") not in ("backbone", "encoder")]
            groups += by_layer(self.backbone, self.backbone_name, self.lr, self.weight_decay, decay)
        optimizer = build_optimizer(groups, lr=self.lr, weight_decay=self.weight_decay, **asked)
        scheduler = build_scheduler(
            optimizer,
            name=self.scheduler,
            interval=interval,
            max_epochs=self.max_epochs,
            total_steps=self.trainer.estimated_stepping_batches,
            warmup_epochs=self.warmup_epochs,
            warmup_start_lr=self.warmup_start_lr,
            min_lr=self.min_lr,
            lr_decay_steps=self.lr_decay_steps,
        )
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    SoloMethod.configure_optimizers = configure_optimizers


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


def _mend_deepcluster() -> None:
    """DeepClusterV2 has no assignments in its first epoch; its loss is then NaN, with a gradient of zero."""

    def deepclusterv2_loss_func(outputs: Tensor, assignments: Tensor, temperature: float = 0.1) -> Tensor:
        losses = []
        for logits, assigned in zip(outputs, assignments):
            targets = assigned.repeat(len(logits))
            total = F.cross_entropy(logits.flatten(0, -2) / temperature, targets, ignore_index=-1, reduction="sum")
            losses.append(total / (targets != -1).sum().clamp(min=1))  # no question that a GPU would have to answer
        return torch.stack(losses).mean()

    solo.methods.deepclusterv2.deepclusterv2_loss_func = deepclusterv2_loss_func


_LATE = ("queue", "local_memory_index", "local_memory_embeddings", "assignments", "cached_penc")


def _mend_buffers() -> None:
    """A resumed run fails on what is made in training: SwAV's queue, DeepCluster v2's memory, All4One's positions.

    The first two would begin anew at the start of a resumed training, and DeepCluster v2 keeps no assignments at all.
    Over processes, DDP puts the first one's buffers in the place of the others', and with them its memory of images.
    """

    def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        known = self.state_dict()
        for key, value in checkpoint["state_dict"].items():
            place, _, name = key.rpartition(".")
            if name in _LATE and key not in known:
                self.get_submodule(place).register_buffer(name, torch.empty_like(value, device=self.device))

    def keeping(ordinary: Callable[[Any], None]) -> Callable[[Any], None]:
        def on_train_start(self: Any) -> None:
            loaded = {name: self._buffers[name] for name in _LATE if name in self._buffers}
            ordinary(self)
            if hasattr(self, "dataset_size"):
                size = (len(self.num_prototypes), self.dataset_size)
                self.register_buffer("assignments", torch.full(size, -1, device=self.device))
            for name, value in loaded.items():
                if value.shape == self._buffers[name].shape:
                    self._buffers[name] = value

        return on_train_start

    SoloMethod.on_load_checkpoint = on_load_checkpoint
    for cls in (solo.methods.swav.SwAV, solo.methods.deepclusterv2.DeepClusterV2):
        cls.on_train_start = keeping(cls.on_train_start)
    solo.methods.deepclusterv2.DeepClusterV2._ddp_params_and_buffers_to_ignore = _LATE
