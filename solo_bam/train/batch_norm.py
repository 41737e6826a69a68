"""Batch norm over the images of all processes, for the CPU; torch's own is for GPUs only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from solo_bam.core import collectives
from solo_bam.core.errors import UserError


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the mean and variance of all processes' batches together.

    Each process may hold another number of images. The gradients add up over processes, so that DDP's
    average of them is the gradient of one process with the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C)`` or ``(N, C, …)``, in float32 at least."""
        if not self.training or not collectives.is_distributed():
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        wide = x if x.dtype == torch.float64 else x.float()
        others = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = collectives.all_sum(torch.tensor(float(x.numel() // x.shape[1])))
        mean = collectives.differentiable_sum(wide.sum(others)) / count
        centred = wide - mean.view(shape)
        var = collectives.differentiable_sum(centred.square().sum(others)) / count
        self._track(mean.detach(), var.detach() * count / (count - 1))
        out = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of the batch, ``var`` unbiased."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)


class SyncBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over all processes."""


class SyncBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over all processes."""


_SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
}
_PLAIN = {synchronised: plain for plain, synchronised in _SYNCHRONISED.items()}


def check_synchronisable(model: nn.Module) -> None:
    """Whether every batch norm of a module tree can be synchronised.

    Raises:
        UserError: one of another kind than torch's of one and two dimensions.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in {**_SYNCHRONISED, **_PLAIN}:
            problem = f"got True, {type(module).__name__} is not synchronised over processes on the CPU"
            raise UserError("sync_batchnorm", problem, "set sync_batchnorm=False or devices=1")


def synchronise(model: nn.Module) -> nn.Module:
    """Synchronise every batch norm of a module tree, in place; parameters and buffers stay the same tensors."""
    check_synchronisable(model)
    return _exchange(model, _SYNCHRONISED)


def desynchronise(model: nn.Module) -> nn.Module:
    """Undo :func:`synchronise`, in place."""
    return _exchange(model, _PLAIN)


def _exchange(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    """Turn modules of some classes into others that hold the same things."""
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]
    return model
