"""What a training step does, counted on tensors that have shapes and no data: operations, bytes and memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from solo_bam.config import Recipe
from solo_bam.solo_learn.schedule import build_optimizer

NETWORK, LOSS, OPTIMIZER, CROPS = "network", "loss", "optimizer", "crops"
# What makes memory alone, and what reads a part of its first argument.
_ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
_FOREACH = {"foreach": True}  # torch's default on GPUs for optimizers that are not fused
_CHOOSE = {"index", "index_select", "gather", "embedding"}


class HasPart(Protocol):
    """Is told which part of a step runs."""

    part: str


@dataclass(frozen=True)
class Operation:
    """One kernel: the part of the step that asks for it, its kind and precision, its FLOPs and its bytes."""

    part: str
    name: str
    dtype: torch.dtype
    flops: float
    moved: float  # bytes read and written


@dataclass(frozen=True)
class Work:
    """A step's operations, and the bytes that are held at most: all, and of them weights, buffers and what stays."""

    operations: list[Operation]
    peak_memory: int
    lasting_memory: int  # weights, buffers, gradients and the optimizer's states
    weights: int  # trained parameters


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation, and how many bytes are held."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = LOSS
        self.operations: list[Operation] = []
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        for x in outputs:
            self.hold(x)
        returns = func._schema.returns
        views = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        name = func.overloadpacket.__name__
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func.namespace == "aten" and inputs and not views and name not in _ALLOCATE:
            written = outputs or inputs  # fused optimizers return nothing
            count = flop_registry.get(getattr(torch.ops.aten, name.removesuffix("_"), None))  # addmm_ as addmm
            flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
            moved = 2 * _size(written) if name in _CHOOSE else _size(inputs) + _size(written)
            self.operations.append(Operation(self.part, name, written[0].dtype, flops, moved))
        return out

    def hold(self, x: Tensor) -> None:
        """Count a tensor's memory until it is freed."""
        storage = x.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _size(tensors: list[Tensor]) -> int:
    return sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in tensors)


def work_of(model: pl.LightningModule, recipe: Recipe) -> Work:
    """The second training step of a method, which ends up without data; the first one makes the optimizer's states.

    Args:
        model: as built for a run, not compiled.
        recipe: batch, crops and precision.
    """
    mode, recorder = FakeTensorMode(), Recorder()
    _empty(model, mode)
    model.knn_eval = False  # type: ignore[assignment]  # its bank chooses images by their labels
    with mode, separate_loss(model, recorder):
        batch = _batch(recipe)
        with recorder:
            for tensor in (*model.parameters(), *model.buffers(), *batch[1]):
                recorder.hold(tensor)
            step = step_of(model, batch, _autocast(recipe), lambda part: setattr(recorder, "part", part), _FOREACH)
            step()
            lasting = recorder.held
            recorder.operations.clear()
            step()
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Work(recorder.operations, recorder.peak, lasting, weights)


def step_of(
    model: Any,
    batch: list[Any],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    begins: Callable[[str], object] = lambda part: None,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[], None]:
    """One training step, without the Trainer and without logging.

    Args:
        model: a method.
        batch: ``[indexes, [crops], labels]``.
        autocast: of forward and loss.
        begins: told which part of the step comes next.
        defaults: of the optimizer's arguments, but for LARS.
    """
    model.log = model.log_dict = lambda *_, **__: None
    asked = model._optimizer_settings()
    del asked["interval"]
    if defaults and asked["name"] != "lars" and not asked["kwargs"].get("fused"):
        asked["kwargs"] = {**defaults, **asked["kwargs"]}
    optimizer = build_optimizer(model.learnable_params, lr=model.lr, weight_decay=model.weight_decay, **asked)
    model.train()
    model.on_train_epoch_start()
    numbers = count()

    def step() -> None:
        optimizer.zero_grad()
        begins(LOSS)
        with autocast():
            out = model.training_step(batch, next(numbers))
        begins(NETWORK)
        (out["loss"] if isinstance(out, dict) else out).backward()
        model.on_after_backward()
        begins(OPTIMIZER)
        optimizer.step()
        for online, momentum in getattr(model, "momentum_pairs", ()):
            model.momentum_updater.update(online, momentum)

    return step


def _batch(recipe: Recipe) -> list[Any]:
    images = recipe.optimizer.batch_size
    crops = [torch.empty(images, 3, a.crop_size, a.crop_size) for a in recipe.augmentations for _ in range(a.num_crops)]
    return [torch.arange(images), crops, torch.zeros(images, dtype=torch.long)]


def _autocast(recipe: Recipe) -> Callable[[], AbstractContextManager[Any]]:
    if "16" not in str(recipe.precision):
        return nullcontext
    return lambda: torch.autocast("cpu", dtype=torch.bfloat16)


def _empty(model: nn.Module, mode: FakeTensorMode) -> None:
    """Give a model's weights and buffers tensors without data in their place."""
    faked: dict[int, Tensor] = {}  # shared ones stay shared
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = faked.setdefault(id(tensor), mode.from_tensor(tensor))  # type: ignore[assignment]


@contextmanager
def separate_loss(model: nn.Module, recorder: HasPart) -> Iterator[None]:
    """What runs inside of children with weights is the network's; what runs between them is the loss."""
    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1
        recorder.part = NETWORK

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        recorder.part = NETWORK if depth else LOSS

    handles = []
    for child in model.children():
        if any(True for _ in child.parameters()):
            handles += [child.register_forward_pre_hook(enter), child.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
