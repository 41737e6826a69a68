"""``strategy: fsdp2``: weights, gradients and the optimizer's states of large networks in shares, one for each process.

Each block of a network is put together when it is needed and freed after it, by torch's ``fully_shard``; heads, online
classifiers and the teacher likewise, so that the teacher's update stays within a process. Gradients are averaged over
processes as DDP's are. A checkpoint is the ordinary file, put together by ``torch.distributed.checkpoint`` on the
first process: everything that reads checkpoints reads it, and it can be continued on any number of processes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from solo_bam.config.resolve import SHARDED
from solo_bam.config.schema import Recipe
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import untrained_backbone

_ON_THE_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
# Whole on each process; a layer whose gradient has been dropped so far has no states.
_AS_SAVED = StateDictOptions(full_state_dict=True, strict=False)


class ShardedStrategy(DDPStrategy):
    """Lightning's DDP strategy with a model in shares in place of one in DDP's wrapper.

    A checkpoint's weights are loaded into the whole model, before it is sharded; its other parts after that.
    """

    def configure_ddp(self) -> None:
        """Shard the model, in place; called before the optimizers are made."""
        assert isinstance(self.model, pl.LightningModule)
        shard(self.model, init_device_mesh(self.root_device.type, (self.world_size,)))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole model's, on the first process's CPU; all processes take part."""
        assert self.lightning_module is not None
        return get_model_state_dict(self.lightning_module, options=_ON_THE_FIRST)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole optimizer's, by the weights' names, on the first process's CPU; all processes take part."""
        assert self.lightning_module is not None
        return get_optimizer_state_dict(self.lightning_module, optimizer, options=_ON_THE_FIRST)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's shares of a checkpoint's states."""
        assert self.lightning_module is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            set_optimizer_state_dict(self.lightning_module, optimizer, state, options=_AS_SAVED)

    def teardown(self) -> None:
        """Leave the shares on their devices, where :func:`whole_state` collects them."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


StrategyRegistry.register(SHARDED, ShardedStrategy, description="torch's fully_shard")


def check_shardable(model: nn.Module, synchronised: bool) -> None:
    """Whether a method can be sharded here.

    Args:
        model: a method.
        synchronised: whether its batch norm sees the images of all processes.

    Raises:
        UserError: it cannot.
    """
    if inspect.signature(fully_shard).parameters["reshard_after_forward"].default is not None:
        # An older one keeps what it has put together last, which the teacher's update would then miss.
        problem = f"got {SHARDED!r}, torch {torch.__version__} is too old for it"
        raise UserError("strategy", problem, "install torch 2.8 or set strategy=ddp")
    if own := [name for name, _ in model.named_parameters(recurse=False)]:
        problem = f"got {SHARDED!r}, the method has weights of its own ({', '.join(own)})"
        raise UserError("strategy", problem, "put them into a child module that uses them, or set strategy=ddp")
    if not synchronised and any(isinstance(module, _BatchNorm) for module in model.modules()):
        problem = f"got False, batch norm's running statistics would differ between processes with strategy={SHARDED}"
        raise UserError("sync_batchnorm", problem, "set it to True")


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every child of a method that is trained or a teacher, block by block, in place.

    Args:
        model: a method; it calls its children, and itself has no weights. A frozen child, which may be written to
            between steps, stays whole.
        mesh: the processes.
    """
    model.to(memory_format=torch.contiguous_format)  # of others, torch cannot make shares
    teachers = [teacher for _, teacher in getattr(model, "momentum_pairs", ())]
    children = [child if isinstance(child, nn.ModuleList) else [child] for child in model.children()]
    for network in chain.from_iterable(children):
        if network in teachers or any(p.requires_grad for p in network.parameters()):
            for module in (*_blocks(network), network):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What a network lists one after the other and is made of several modules, the innermost first."""
    lists = [module for module in network.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
    for each in reversed(lists):
        yield from (
            block
            for block in each
            if block not in lists and any(True for _ in block.children()) and any(True for _ in block.parameters())
        )


def whole_state(model: nn.Module) -> dict[str, Any]:
    """A sharded model's ``state_dict`` on the first process, empty on the others; all take part."""
    return get_model_state_dict(model, options=_ON_THE_FIRST)


def whole_backbone(backbone: nn.Module, recipe: Recipe) -> nn.Module:
    """A sharded backbone as one that this process can use without the others; any other as it is.

    Args:
        backbone: of a method; all processes take part.
        recipe: of the run.
    """
    if not isinstance(backbone, FSDPModule):
        return backbone
    state = backbone.state_dict()
    state = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}
    whole = untrained_backbone(recipe).to(next(iter(state.values())).device)
    whole.load_state_dict(state)
    return whole
