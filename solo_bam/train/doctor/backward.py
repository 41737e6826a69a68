"""A backward pass, node by node: told which part of the forward made each node, and possible without a device."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor


class HasPart(Protocol):
    """Is told which part of a step runs."""

    part: str


class Parts:
    """Tells a recorder the part of a step that runs, and remembers which part made a node of the backward.

    Args:
        recorder: told at each change.
    """

    def __init__(self, recorder: HasPart):
        self._recorder = recorder
        self._starts: list[int] = []  # autograd numbers nodes in the order in which they are made
        self._names: list[str] = []

    def begin(self, name: str) -> None:
        """What comes next belongs to this part."""
        self._recorder.part = name
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._names.append(name)

    def backward(self, loss: Tensor) -> None:
        """Gradients of all weights by a loss, as its ``backward()`` computes them; each operation in its part.

        Autograd's own engine asks the device for a stream, which fake tensors of a device that is not there have not.
        As in it, a node goes when it has been used, and with it what the forward kept for it.
        """
        with _one_task():
            _walk(loss, self._of)

    def _of(self, node: Any) -> None:
        part = self._names[bisect_right(self._starts, node._sequence_nr()) - 1]
        if part != self._recorder.part:
            self._recorder.part = part


@contextmanager
def _one_task() -> Iterator[None]:
    """Let gradient checkpointing compute a block again once for all of it, as in one of the engine's passes."""
    ordinary = torch._C._current_graph_task_id
    torch._C._current_graph_task_id = lambda: 0
    try:
        yield
    finally:
        torch._C._current_graph_task_id = ordinary


@torch.no_grad()
def _walk(loss: Tensor, begins: Callable[[Any], None]) -> None:
    order = count()
    pending: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    nodes = [(0, next(order), loss.grad_fn)]
    if not loss._is_view():
        loss.detach_()  # the caller keeps it, and with it all nodes
    while nodes:
        node: Any = heapq.heappop(nodes)[2]
        begins(node)
        for (following, place), gradient in zip(node.next_functions, _call(node, pending.pop(node))):
            if following is None or gradient is None:
                continue
            if hasattr(following, "variable"):
                weight = following.variable
                weight.grad = _added(weight.grad, gradient, weight)
                continue
            if following not in pending:
                pending[following] = [None] * len(following._input_metadata)
                heapq.heappush(nodes, (-following._sequence_nr(), next(order), following))
            sums = pending[following]
            sums[place] = _added(sums[place], gradient, following._input_metadata[place])
            del following, gradient, sums


def _added(known: Tensor | None, more: Tensor, like: Any) -> Tensor:
    """The sum, in the shape and precision of what it is the gradient of."""
    if more.shape != like.shape:
        more = more.sum_to_size(like.shape)
    more = more.to(like.dtype)
    return more if known is None else known + more


def _call(node: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    if hasattr(node, "_forward_cls"):  # written in Python: it expects zeros where there is no gradient
        known = zip(gradients, node._input_metadata)
        gradients = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) if g is None else g for g, x in known]
        results = node.apply(*gradients)
    else:
        results = node(*gradients)
    return results if isinstance(results, tuple) else (results,)
