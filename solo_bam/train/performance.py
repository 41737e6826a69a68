"""What makes a training step faster or smaller and leaves what it computes: the keys of ``performance``, and fused
optimisers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from solo_bam.config.schema import Run
from solo_bam.core.errors import UserError

_FUSED = ("sgd", "adam", "adamw")
_HALF = ("16", "16-mixed")


# ------------------------------------------------------------------------------------------ compiling


def check_compiler() -> None:
    """Whether networks can be compiled here.

    Raises:
        UserError: the machine has no compiler.
    """
    compilers = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        problem = f"got True, no C++ compiler is found ({', '.join(compilers)})"
        raise UserError("performance.compile", problem, "install one")


def compile_networks(model: nn.Module) -> list[str]:
    """Compile backbone and heads of a method, the teacher's too, in place; not the online classifiers.

    Weights, their names and the modules stay what they are. Sizes of batches are compiled each by itself, so that a
    resumed run computes what a whole one does, in whatever order it meets them. In evaluation mode, where hooks look
    inside and batches have other sizes, networks run as they are.

    Args:
        model: a method; what is compiled are its children that have weights.

    Returns:
        The children's names.

    Raises:
        UserError: see :func:`check_compiler`.
    """
    check_compiler()
    networks = _networks(model)
    for network in networks.values():
        _compile(network)
    return list(networks)


def _networks(model: nn.Module) -> dict[str, nn.Module]:
    """Backbone and heads of a method, the teacher's too; not the online classifiers."""
    return {
        name: child
        for name, child in model.named_children()
        if "classifier" not in name and not isinstance(child, nn.ModuleList) and any(True for _ in child.parameters())
    }


def _compile(module: nn.Module) -> None:
    # Not module.compile(), which takes the module's hooks into the graph: they are ours, and change from step to step.
    ordinary = module.forward
    compiled = torch.compile(ordinary, dynamic=False)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if module.training else ordinary)(*args, **kwargs)

    module.forward = forward


# --------------------------------------------------------------------------------- gradient checkpointing


def checkpoint_gradients(backbone: nn.Module, name: str) -> None:
    """Let a network keep its blocks' inputs alone for the backward pass, which computes the rest again.

    Args:
        backbone: of timm, without batch norm: computed twice, that would count each batch twice.
        name: for the message.

    Raises:
        UserError: a network that cannot.
    """
    key, remedy = "performance.gradient_checkpointing", "set it to False or take another backbone, a ViT for one"
    if any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        problem = f"got True, {name} has batch norm, which would count each batch twice in its running statistics"
        raise UserError(key, problem, remedy)
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):  # timm's way of saying that a network has none
        raise UserError(key, f"got True, {name} has none", remedy) from None


# ------------------------------------------------------------------------------------ chunks of a batch


def chunk_batches(model: nn.Module, size: int) -> None:
    """Let backbone and heads of a method, the teacher's too, forward a batch in chunks, in place.

    This is gradient caching (Gao et al. 2021, arXiv 2101.06983): the loss sees all outputs, and its backward computes
    one chunk after the other again, with the same random numbers. Gradients are those of the whole batch; batch norm
    sees a chunk, as if each were a process's, and counts it once. In evaluation mode networks run as they are.

    Args:
        model: a method whose networks treat each row of their input by itself, batch norm aside.
        size: rows of a chunk at most; the chunks of a batch are as equal as can be.

    Raises:
        UserError: a chunk may have a single row, of which batch norm has no statistics.
    """
    if size < 3 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError("performance.chunked_batch", f"got {size}, batch norm needs more of a chunk", "give at least 3")
    for network in _networks(model).values():
        _chunk(network, size)


def _chunk(module: nn.Module, size: int) -> None:
    whole = module.forward

    def forward(x: Tensor) -> Tensor:
        if not module.training or len(x) <= size:
            return whole(x)
        chunks = x.tensor_split(-(-len(x) // size))
        if not torch.is_grad_enabled():
            return torch.cat([whole(chunk) for chunk in chunks])
        return torch.cat([checkpoint(_counted_once(module, whole), chunk, use_reentrant=False) for chunk in chunks])

    module.forward = forward


def _counted_once(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``forward``, whose calls after the first leave the module's buffers as they were."""
    called = False

    def recomputable(x: Tensor) -> Tensor:
        nonlocal called
        before = [(buffer, buffer.clone()) for buffer in module.buffers()] if called else []
        called = True
        try:
            return forward(x)
        finally:  # checkpoint() ends a recomputation by an exception, as soon as it has what it needs
            for buffer, value in before:
                buffer.copy_(value)

    return recomputable


# ----------------------------------------------------------------------------------- fused optimisers


def optimizer_kwargs(recipe: Run, name: str, kwargs: Mapping[str, Any], accelerator: str) -> dict[str, Any]:
    """``optimizer.kwargs``, with ``fused=True`` where that is possible and nothing else was asked for.

    Args:
        recipe: precision and clipping.
        name: of the optimiser.
        kwargs: as the recipe gives them.
        accelerator: as resolved.

    Raises:
        UserError: ``fused: True`` was asked for where gradients are clipped before they are unscaled.
    """
    kwargs = dict(kwargs)
    clipped = str(recipe.precision) in _HALF and bool(recipe.trainer_arguments.get("gradient_clip_val"))
    if clipped and kwargs.get("fused"):
        problem = "got True, which cannot clip gradients (gradient_clip_val) in precision=16-mixed"
        raise UserError("optimizer.kwargs.fused", problem, "remove it or use precision=bf16-mixed")
    chosen = {"fused", "foreach", "differentiable"} & kwargs.keys()
    if accelerator != "cuda" or clipped or chosen or name not in _FUSED:
        return kwargs
    return {**kwargs, "fused": True}
