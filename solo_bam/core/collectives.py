"""Collectives that do nothing on one process, so that one code path serves every world size."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True where a process group of more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes (1 without a process group)."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """This process's number, from 0 (0 without a process group)."""
    return dist.get_rank() if is_distributed() else 0


class _Gather(torch.autograd.Function):
    """All-gather whose backward adds up every process's gradient of this process's rows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        gathered = x.new_empty(dist.get_world_size(), x.numel())
        try:
            dist.all_gather_into_tensor(gathered.flatten(), x.flatten())  # no copy of a list's parts
        except RuntimeError as error:
            _check_missing_in_gloo(error)
            dist.all_gather(list(gathered.unbind()), x.flatten())
        return gathered.view(-1, *x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return own_sum(grad.contiguous())


def gather(x: Tensor) -> Tensor:
    """Stack ``x`` of all processes, differentiably.

    The backward sums the processes' gradients. When each process calls ``backward`` on its own loss and
    DDP then averages the parameters' gradients, the result is the gradient of the mean of the losses.

    Args:
        x: any shape, the same on every process.

    Returns:
        ``(world_size, *x.shape)``, in the order of the ranks.
    """
    if not is_distributed():
        return x.unsqueeze(0)
    return _Gather.apply(x.contiguous())


def all_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes, elementwise; ``x`` is overwritten. Carries no gradient."""
    if is_distributed():
        dist.all_reduce(x)
    return x


def own_sum(x: Tensor) -> Tensor:
    """Sum over all processes of what each has for this one. Carries no gradient.

    Args:
        x: ``(world_size, n, …)``, one entry for each process.

    Returns:
        ``(n, …)``.
    """
    if not is_distributed():
        return x[0]
    own = torch.empty_like(x[0])
    try:
        dist.reduce_scatter_tensor(own, x.flatten(0, 1))  # half an all-reduce's bytes
    except RuntimeError as error:
        _check_missing_in_gloo(error)
        return all_sum(x)[dist.get_rank()]
    return own


def _check_missing_in_gloo(error: RuntimeError) -> None:
    """Raise what is not gloo of an older torch saying that it lacks an operation."""
    if dist.get_backend() != "gloo" or "support" not in str(error):
        raise error


def all_logsumexp(x: Tensor) -> Tensor:
    """``log Σ exp x`` over all processes, elementwise. Carries no gradient."""
    if not is_distributed():
        return x
    shift = x.clone()
    dist.all_reduce(shift, op=dist.ReduceOp.MAX)
    return shift + all_sum((x - shift).exp()).log()


def mean(x: Tensor) -> Tensor:
    """Mean of ``x`` over all processes, elementwise, by a collective that the host does not wait for. No gradient."""
    return all_sum(x.detach().clone()).div_(world_size()) if is_distributed() else x.detach()


class _Sum(torch.autograd.Function):
    """All-reduce whose backward adds up every process's gradient of the sum."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return all_sum(x.clone())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return all_sum(grad.clone())


def differentiable_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes, elementwise; the backward adds the processes' gradients up."""
    return _Sum.apply(x) if is_distributed() else x


def gather_number(value: int) -> list[int]:
    """A whole number of each process, by rank; exchanged between the hosts, so that nobody waits for a device."""
    if not is_distributed():
        return [value]
    numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(numbers, torch.tensor([value]), group=_hosts(dist.group.WORLD))
    return [int(number) for number in numbers]


@functools.cache
def _hosts(world: object) -> Any:
    """A group of the same processes that talk over the CPU, made once for each default group."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def gather_objects(value: Any) -> list[Any]:
    """A small picklable value of each process, by rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
