"""What a training step does, counted on tensors that have shapes and no data: operations, bytes and memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from solo_bam.config import Recipe
from solo_bam.core import hardware
from solo_bam.solo_learn.schedule import build_optimizer
from solo_bam.train.doctor.backward import Parts

NETWORK, LOSS, OPTIMIZER, CROPS = "network", "loss", "optimizer", "crops"
# What makes memory alone, and what reads a part of its first argument.
_ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
_FOREACH = {"foreach": True}  # torch's default on GPUs for optimizers that are not fused
_CHOOSE = {"index", "index_select", "gather", "embedding"}


@dataclass(frozen=True)
class Operation:
    """One kernel: the part of the step that asks for it, its kind and precision, its FLOPs and its bytes.

    ``tf32``: its products may be, where they are of float32 tensors.
    """

    part: str
    name: str
    dtype: torch.dtype
    flops: float
    moved: float  # bytes read and written
    tf32: bool = False


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
            tf32 = "conv" in name or hardware.has_tf32_products()  # of convolutions, cuDNN's default
            self.operations.append(Operation(self.part, name, written[0].dtype, flops, moved, tf32))
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


def work_of(model: pl.LightningModule, recipe: Recipe, device: str = "cpu") -> Work:
    """The second training step of a method, which ends up without data; the first one makes the optimizer's states.

    Args:
        model: as built for a run, not compiled.
        recipe: batch, crops and precision.
        device: ``cpu`` or ``cuda``, where code takes other ways; nothing of it needs to be there.
    """
    mode, recorder = FakeTensorMode(), Recorder()
    without_data(model, mode, device)
    model._device = torch.device(device, 0) if device == "cuda" else torch.device(device)  # as .to(device) has it
    model.knn_eval = False  # type: ignore[assignment]  # its bank chooses images by their labels
    parts = Parts(recorder)
    with mode, separate_loss(model, parts), _attention_of(device):
        batch = _batch(recipe, device)
        with recorder:
            for tensor in (*model.parameters(), *model.buffers(), *batch[1]):
                recorder.hold(tensor)
            step = step_of(model, batch, _autocast(recipe, device), parts, _FOREACH)
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
    parts: Parts | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[], None]:
    """One training step, without the Trainer and without logging.

    Args:
        model: a method.
        batch: ``[indexes, [crops], labels]``.
        autocast: of forward and loss.
        parts: told which part of the step comes next.
        defaults: of the optimizer's arguments, but for LARS.
    """
    model.log = model.log_dict = lambda *_, **__: None
    optimizer = _optimizer_of(model, defaults)
    model.train()
    model.on_train_epoch_start()
    numbers = count()
    begins = parts.begin if parts else lambda name: None

    def step() -> None:
        optimizer.zero_grad()
        begins(LOSS)
        with autocast():
            out = model.training_step(batch, next(numbers))
        loss = out["loss"] if isinstance(out, dict) else out
        del out
        (parts.backward if parts else torch.autograd.backward)(loss)
        begins(OPTIMIZER)
        model.on_after_backward()
        optimizer.step()
        for online, momentum in getattr(model, "momentum_pairs", ()):
            model.momentum_updater.update(online, momentum)

    return step


def _optimizer_of(model: Any, defaults: Mapping[str, Any] | None) -> Any:
    asked = model._optimizer_settings()
    del asked["interval"]
    if defaults and asked["name"] != "lars" and not asked["kwargs"].get("fused"):
        asked["kwargs"] = {**defaults, **asked["kwargs"]}
    return build_optimizer(model.learnable_params, lr=model.lr, weight_decay=model.weight_decay, **asked)


def _batch(recipe: Recipe, device: str) -> list[Any]:
    images = recipe.optimizer.batch_size
    sides = [a.crop_size for a in recipe.augmentations for _ in range(a.num_crops)]
    crops = [torch.empty(images, 3, side, side, device=device) for side in sides]
    return [torch.arange(images, device=device), crops, torch.zeros(images, dtype=torch.long, device=device)]


def _autocast(recipe: Recipe, device: str) -> Callable[[], AbstractContextManager[Any]]:
    precision = str(recipe.precision)
    if "16" not in precision:
        return nullcontext
    dtype = torch.float16 if device == "cuda" and not precision.startswith("bf16") else torch.bfloat16

    def autocast() -> AbstractContextManager[Any]:
        context = torch.autocast(device, dtype=dtype, enabled=False)
        context._enabled = True  # asked for at once, it wants to see the device
        return context

    return autocast


@contextmanager
def _attention_of(device: str) -> Iterator[None]:
    """Attention in one operation on a GPU that is not there: torch would look for it to choose one."""
    ordinary = F.scaled_dot_product_attention

    def fused(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, **rest: Any) -> Any:
        if attn_mask is not None or any(rest.values()):
            return ordinary(q, k, v, attn_mask, dropout_p, **rest)
        if torch.is_autocast_enabled("cuda"):
            q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
        if q.dtype == torch.float32:
            return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, dropout_p)[0]
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p)[0]

    if device == "cuda" and not torch.cuda.is_available():
        F.scaled_dot_product_attention = fused  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = ordinary


def without_data(model: nn.Module, mode: FakeTensorMode, device: str) -> None:
    """Give a model's weights and buffers tensors without data, of a device, in their place."""
    faked: dict[int, Tensor] = {}  # shared ones stay shared
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in faked:
                        faked[id(tensor)] = _fake(tensor, mode, device)
                    tensors[name] = faked[id(tensor)]  # type: ignore[assignment]


def _fake(tensor: Tensor, mode: FakeTensorMode, device: str) -> Tensor:
    size, stride, dtype = tensor.size(), tensor.stride(), tensor.dtype
    with mode:
        made = torch.empty_strided(size, stride, dtype=dtype, device=device)
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


@contextmanager
def separate_loss(model: nn.Module, parts: Parts) -> Iterator[None]:
    """What runs inside of children with weights is the network's; what runs between them is the loss."""
    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1
        parts.begin(NETWORK)

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        parts.begin(NETWORK if depth else LOSS)

    handles = []
    for child in model.children():
        if any(True for _ in child.parameters()):
            handles += [child.register_forward_pre_hook(enter), child.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
