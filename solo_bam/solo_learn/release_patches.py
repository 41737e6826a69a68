"""Mends of solo-learn 1.0.2's own faults, one function each; those of both editions are in ``patches.py``.

Imported only once ``solo`` is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import solo.losses.barlow
import solo.losses.simclr
import solo.losses.vicreg
import solo.methods
import solo.methods.barlow_twins
import solo.methods.mocov2plus
import solo.methods.simclr
import solo.utils.misc
import solo.utils.whitening
import torch
import torch.nn.functional as F
from torch import Tensor

from solo_bam.core import collectives
from solo_bam.solo_learn import patches
from solo_bam.solo_learn.patches import SoloMethod, SoloMomentumMethod


def mend() -> None:
    """Mend solo-learn's classes in memory; its files are left as they are."""
    patches.mend()
    _mend_validation()
    _mend_gather()
    _mend_simclr()
    _mend_wmse()
    _mend_waits()
    _name_what_the_head_names()
    _lay_out_as_the_head_does()
    SoloMethod._optimizer_settings = _optimizer_settings


def _mend_validation() -> None:
    """Lightning 2 has no ``validation_epoch_end`` and refuses the class while it defines one."""
    for cls in (SoloMethod, SoloMomentumMethod):
        del cls.validation_epoch_end

    def on_validation_epoch_start(self: Any) -> None:
        self.validation_step_outputs = []

    def on_validation_batch_end(self: Any, outputs: Any, *_: Any) -> None:
        # A momentum method gives a pair, whose second half is None without a momentum classifier.
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        self.validation_step_outputs.append({key: value for part in parts for key, value in (part or {}).items()})

    SoloMethod.on_validation_epoch_start = on_validation_epoch_start
    SoloMethod.on_validation_batch_end = on_validation_batch_end


def gather(X: Tensor, dim: int = 0) -> Tensor:
    """solo-learn's gather: ``X`` of all processes, concatenated along ``dim``, gradients added up."""
    return torch.cat(list(collectives.gather(X)), dim=dim)


def _mend_gather() -> None:
    """``gather`` hands each process only its own gradient, so the other processes' losses are lost."""
    import solo.methods as methods

    solo.utils.misc.gather = gather
    for module in vars(methods).values():
        if inspect.ismodule(module) and hasattr(module, "gather"):
            setattr(module, "gather", gather)  # noqa: B010  mypy knows no such attribute


def simclr_loss(z: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss as the head edition has it: this process's rows against the columns of all processes.

    The mean over processes is the loss of the whole batch. An image's views count together, as one positive.

    Args:
        z: ``(N, D)`` projections of this process, any length.
        positive: ``(N, N)`` booleans, true where two rows are views of one image, the diagonal left out.
        temperature: above 0.
    """
    z = F.normalize(z, dim=-1)
    similarity = torch.exp(torch.einsum("if, jf -> ij", z, gather(z)) / temperature)
    own = slice(collectives.rank() * len(z), (collectives.rank() + 1) * len(z))
    near = torch.zeros_like(similarity, dtype=torch.bool)
    near[:, own] = positive
    far = ~near
    far[:, own].fill_diagonal_(False)
    positives, negatives = (similarity * near).sum(1), (similarity * far).sum(1)
    return -(positives / (positives + negatives)).log().mean()


def _mend_simclr() -> None:
    """SimCLR contrasts within one process only; the negatives of the others are missing.

    With small crops it also averaged over an image's positives where the head edition adds them up.
    """
    with_labels = solo.losses.simclr.simclr_loss_func

    def simclr_loss_func(
        z1: Tensor, z2: Tensor, temperature: float = 0.1, extra_pos_mask: Tensor | None = None
    ) -> Tensor:
        if extra_pos_mask is not None:
            if collectives.is_distributed():
                raise ValueError("method_kwargs.supervised: True needs one process with solo-learn 1.0.2")
            loss: Tensor = with_labels(z1, z2, temperature, extra_pos_mask)
            return loss
        views = torch.eye(len(z1), dtype=torch.bool, device=z1.device).repeat(2, 2).fill_diagonal_(False)
        return simclr_loss(torch.cat([z1, z2]), views, temperature)

    def manual_simclr_loss_func(z: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float = 0.1) -> Tensor:
        return simclr_loss(z, pos_mask, temperature)

    solo.methods.simclr.simclr_loss_func = simclr_loss_func
    solo.methods.simclr.manual_simclr_loss_func = manual_simclr_loss_func


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


def barlow_loss(z1: Tensor, z2: Tensor, lamb: float = 5e-3, scale_loss: float = 0.025) -> Tensor:
    """solo-learn's loss of Barlow Twins without choosing entries by a mask."""
    z1, z2 = (F.batch_norm(z, None, None, training=True) for z in (z1, z2))
    corr = torch.einsum("bi, bj -> ij", z1, z2) / len(z1)
    if collectives.is_distributed():
        torch.distributed.all_reduce(corr)
        corr = corr / collectives.world_size()
    eye = torch.eye(len(corr), dtype=torch.bool, device=corr.device)
    squares = (corr - eye.to(corr.dtype)).pow(2)
    return scale_loss * torch.where(eye, squares, lamb * squares).sum()


def covariance_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """solo-learn's, of VICReg: squares of what is off the diagonal, which is taken by views, not by a mask."""
    width, loss = z1.shape[1], z1.new_zeros(())
    for z in (z1, z2):
        z = z - z.mean(dim=0)
        covariance = (z.T @ z) / (len(z) - 1)
        others = covariance.flatten()[:-1].view(width - 1, width + 1)[:, 1:]
        loss = loss + others.flatten().pow(2).sum() / width
    return loss


@torch.no_grad()
def enqueue(self: Any, keys: Tensor, labels: Tensor | None = None) -> None:
    """Put a batch's keys, (2, N, D) or (N, D) of this process, in the place of a queue's oldest."""
    if keys.dim() == 3:  # MoCo has gathered them
        values, dim = keys.transpose(1, 2), 2
    else:
        values, dim = gather(keys), 0
    count = values.shape[dim]
    assert self.queue_size % count == 0
    places = self.queue_ptr + torch.arange(count, device=values.device)
    self.queue.index_copy_(dim, places, values.to(self.queue.dtype))
    if labels is not None:
        self.queue_y.index_copy_(0, places, gather(labels).to(self.queue_y.dtype))
    self.queue_ptr.add_(count).remainder_(self.queue_size)


def _mend_waits() -> None:
    """The host waits for a GPU where entries are chosen by a mask, a queue's place is read, a number is sent there."""
    solo.losses.barlow.barlow_loss_func = solo.methods.barlow_twins.barlow_loss_func = barlow_loss
    solo.losses.vicreg.covariance_loss = covariance_loss
    solo.methods.mocov2plus.MoCoV2Plus._dequeue_and_enqueue = enqueue
    for method in (solo.methods.NNBYOL, solo.methods.NNCLR, solo.methods.NNSiam, solo.methods.ReSSL):
        method.dequeue_and_enqueue = enqueue

    class TorchWithoutCopies:
        """torch, whose numbers on a device are made there."""

        @staticmethod
        def tensor(value: float, device: torch.device) -> Tensor:
            return torch.full((), value, device=device)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    solo.methods.simclr.torch = TorchWithoutCopies()


def _name_what_the_head_names() -> None:
    """The head edition's names for what the release edition calls ``encoder`` and ``momentum_encoder``."""
    SoloMethod.backbone = property(lambda self: self.encoder)
    SoloMethod.backbone_name = property(lambda self: self.encoder_name)
    SoloMomentumMethod.momentum_backbone = property(lambda self: self.momentum_encoder)
    own = SoloMethod.learnable_params.fget

    def learnable_params(self: Any) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = own(self)
        return [{**group, "name": "backbone"} if group.get("name") == "encoder" else group for group in groups]

    SoloMethod.learnable_params = property(learnable_params)


def _lay_out_as_the_head_does() -> None:
    """Images go in channels-last, as the network is; other memory layouts change the last bits of the results."""

    def laid_out(ordinary: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
        return lambda self, X: ordinary(self, layout(self, X))

    SoloMethod.base_forward = laid_out(SoloMethod.base_forward)
    SoloMomentumMethod.base_momentum_forward = laid_out(SoloMomentumMethod.base_momentum_forward)


def layout(self: Any, X: Tensor) -> Tensor:
    return X if getattr(self, "no_channel_last", True) else X.contiguous(memory_format=torch.channels_last)


def _optimizer_settings(self: Any) -> dict[str, Any]:
    """What the recipe says of the optimiser, for :func:`solo_bam.solo_learn.schedule.build_optimizer`."""
    lars = {"eta": self.eta_lars, "clip_lr": self.grad_clip_lars, "exclude_bias_n_norm": self.exclude_bias_n_norm}
    return {
        "name": "lars" if self.lars else self.optimizer,
        "kwargs": {**self.extra_optimizer_args, **(lars if self.lars else {})},
        "exclude_bias_n_norm_wd": self.extra_args.get("exclude_bias_n_norm_wd", False),
        "interval": self.extra_args.get("scheduler_interval", "step"),
    }
