"""What every command that trains does alike: devices, loggers, checkpoints, resuming and Lightning's Trainer."""

from __future__ import annotations

import inspect
import logging
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.layer_sync import LayerSync
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from torch import nn

from solo_bam import solo_learn
from solo_bam.backbones import backbone_factory, check_crop_sizes, check_heat_map, freeze_blocks
from solo_bam.config.schema import SHARDED, Recipe, Run
from solo_bam.core import hardware
from solo_bam.core.errors import Stopped, UserError, warn
from solo_bam.core.files import is_full
from solo_bam.runs.checkpoints.read import started
from solo_bam.runs.folder import RunFolder
from solo_bam.solo_learn.schedule import by_layer
from solo_bam.train import hosts
from solo_bam.train.batch_norm import check_synchronisable, desynchronise, synchronise
from solo_bam.train.callbacks import AtomicCheckpointIO
from solo_bam.train.failures import agreed
from solo_bam.train.lightning_state import set_timeout
from solo_bam.train.logger import LineLogger
from solo_bam.train.performance import checkpoint_gradients, chunk_batches, compile_networks, optimizer_kwargs
from solo_bam.train.sharding import check_shardable


def find_devices(recipe: Run) -> tuple[hardware.Devices, int]:
    """The recipe's devices and how many processes they make on all nodes.

    Raises:
        UserError: they are not there, or cannot do what the recipe asks for.
    """
    devices = hardware.find_devices(recipe.accelerator, recipe.devices)
    return devices, devices.count * recipe.num_nodes


def build_model(recipe: Recipe, cfg: DictConfig, devices: hardware.Devices) -> pl.LightningModule:
    """The method of a pretraining recipe, shown one image of each size.

    Raises:
        UserError: settings, crops or a network that do not fit together.
    """
    optimizer = recipe.optimizer
    cfg.optimizer.kwargs = optimizer_kwargs(recipe, optimizer.name, optimizer.kwargs, devices.accelerator)
    try:
        model = solo_learn.build_method(cfg, started(backbone_factory(cfg.backbone), cfg.backbone.pretrained))
    except AssertionError as error:  # solo-learn's way of refusing a method's own settings
        problem = f"{recipe.method} refuses them ({error or 'no reason given'})"
        raise UserError("method_kwargs", problem, "correct them") from None
    check_crop_sizes(model.backbone, recipe.backbone.name, recipe.crop_sizes, model.features_dim)
    if recipe.backbone.frozen_blocks:
        freeze_blocks(model.backbone, recipe.backbone.name, recipe.backbone.frozen_blocks)
    if optimizer.layer_decay:  # refused now where the layers are not known
        by_layer(model.backbone, recipe.backbone.name, optimizer.lr, optimizer.weight_decay, optimizer.layer_decay)
        model.layer_decay = optimizer.layer_decay
    if recipe.data.contrastive_crop.enabled:
        check_heat_map(model.backbone, recipe.backbone.name, recipe.crop_sizes[0])
    if recipe.sync_batchnorm and devices.accelerator == "cpu" and devices.count * recipe.num_nodes > 1:
        check_synchronisable(model)
    if recipe.strategy == SHARDED:
        check_shardable(model, recipe.sync_batchnorm or devices.count * recipe.num_nodes == 1)
    if recipe.performance.gradient_checkpointing:
        checkpoint_gradients(model.backbone, recipe.backbone.name)
    if recipe.performance.compile:
        compile_networks(model)
    if recipe.performance.chunked_batch:
        chunk_batches(model, recipe.performance.chunked_batch)
    return model


def build_trainer(
    recipe: Run, devices: hardware.Devices, folder: RunFolder, callbacks: Sequence[pl.Callback], steps_per_epoch: int
) -> pl.Trainer:
    """Lightning's Trainer; writes nothing yet.

    Raises:
        UserError: an argument that Lightning refuses.
    """
    if recipe.strategy == SHARDED and not isinstance(recipe, Recipe):
        raise UserError("strategy", f"got {SHARDED!r}, which is for pretraining", "set strategy=ddp")
    if hardware.has_slow_bfloat16(recipe.precision, devices.accelerator):
        warn(f"precision={recipe.precision}: slow on this processor, which has no AVX-512; use precision=32")
    try:
        with without_known_warnings():
            trainer = pl.Trainer(
                accelerator=devices.accelerator,
                devices=devices.devices,
                num_nodes=recipe.num_nodes,
                strategy=recipe.strategy or "auto",
                precision=recipe.precision,  # type: ignore[arg-type]
                max_epochs=recipe.max_epochs,
                sync_batchnorm=recipe.sync_batchnorm and devices.accelerator != "cpu",
                accumulate_grad_batches=recipe.accumulate_grad_batches,
                logger=_loggers(recipe, folder),
                callbacks=list(callbacks),
                plugins=_plugins(recipe, devices),
                default_root_dir=folder.path,
                use_distributed_sampler=False,
                **(
                    {"enable_checkpointing": recipe.checkpoint.enabled, "enable_model_summary": False}
                    | recipe.trainer_arguments
                ),
            )
    except Exception as error:  # Lightning and torch check the arguments with whatever exception comes first
        raise _refused(recipe, error) from None
    set_timeout(trainer, recipe.distributed.timeout)
    _check_steps(trainer, recipe, steps_per_epoch)
    return trainer


def _refused(recipe: Run, error: Exception) -> UserError:
    """What Lightning refuses, by the argument that it names, or whose value."""
    if isinstance(error, UserError):
        return error
    told = " ".join(str(error).split()) or f"{type(error).__name__}, it names no reason"
    given = {"precision": recipe.precision, "strategy": recipe.strategy, **recipe.trainer_arguments}
    named = [key for key in given if key in told] or [key for key, value in given.items() if str(value) in told]
    key = named[0] if named else "Trainer"
    value = f"got {given[key]!r}, " if named else ""
    return UserError(key, f"{value}Lightning refuses it ({told})", "correct it")


def _check_steps(trainer: pl.Trainer, recipe: Run, steps_per_epoch: int) -> None:
    """Log at least one step of each epoch, unless asked otherwise.

    Raises:
        UserError: there is no step, or none at which to validate, of which Lightning would know only in the training.
    """
    limit = trainer.limit_train_batches
    for key, value in {"limit_train_batches": limit, "max_steps": trainer.max_steps}.items():
        if value == 0:
            raise UserError(key, f"got {value}, which leaves no step to train", "raise it")
    steps = min(steps_per_epoch, limit) if isinstance(limit, int) else int(steps_per_epoch * limit)
    epochs, batches = trainer.check_val_every_n_epoch, recipe.trainer_arguments.get("val_check_interval")
    if epochs is not None and epochs < 1:
        raise UserError("check_val_every_n_epoch", f"got {epochs}, must be at least 1, or null", "raise it")
    if epochs is not None and type(batches) is int and batches > steps:
        problem = f"got {batches}, an epoch has {steps} steps"
        raise UserError("val_check_interval", problem, "lower it, or set check_val_every_n_epoch=null")
    if "log_every_n_steps" not in recipe.trainer_arguments:
        trainer.log_every_n_steps = max(1, min(50, steps))  # type: ignore[attr-defined]


def count_steps(images: int, batch_size: int, world_size: int) -> int:
    """Steps of an epoch, at least one: the last incomplete batch is dropped.

    Raises:
        UserError: there are fewer images than a batch has.
    """
    if images < batch_size * world_size:
        raise UserError(
            "optimizer.batch_size",
            f"got {batch_size} on {world_size} process(es), the training set has only {images} images",
            "lower it",
        )
    return images // (batch_size * world_size)


class _CPUBatchNormSync(LayerSync):
    """``sync_batchnorm: True`` over processes on the CPU, where torch has none."""

    def apply(self, model: nn.Module) -> nn.Module:
        return synchronise(model)

    def revert(self, model: nn.Module) -> nn.Module:
        return desynchronise(model)


def _plugins(recipe: Run, devices: hardware.Devices) -> list[Any]:
    plugins: list[Any] = [AtomicCheckpointIO()]
    if recipe.sync_batchnorm and devices.accelerator == "cpu":
        plugins.append(_CPUBatchNormSync())
    if hardware.launcher() == "slurm":
        # Before the first step Lightning would answer SIGUSR1 by a checkpoint and a requeue of its own.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def _loggers(recipe: Run, folder: RunFolder) -> list[Any]:
    loggers: list[Any] = [
        LineLogger(folder.logs),
        TensorBoardLogger(folder.path, name="", version="tensorboard"),
    ]
    if recipe.wandb.enabled:
        try:
            import wandb  # noqa: F401
        except ImportError:
            raise UserError(
                "wandb.enabled", "got True, wandb is not installed", "pip install 'solo-bam[wandb]'"
            ) from None
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(
            WandbLogger(
                name=recipe.name,
                project=recipe.wandb.project,
                entity=recipe.wandb.entity,
                offline=recipe.wandb.offline,
                save_dir=folder.path,
            )
        )
    return loggers


def seed_everything(seed: int) -> None:
    """Every generator of this process and of its loader processes."""
    quiet = {"verbose": False} if "verbose" in inspect.signature(pl.seed_everything).parameters else {}
    pl.seed_everything(seed, workers=True, **quiet)


@contextmanager
def running(folder: RunFolder, recipe: Run, devices: hardware.Devices, is_first: bool) -> Iterator[None]:
    """The folder is the run's meanwhile, written by the first process; Ctrl-C at any moment tells how to go on."""
    if is_first and (group := hosts.joined()) is not None:
        group.last_words = folder.abandon
    try:
        with folder.running(recipe, devices.accelerator) if is_first else nullcontext():
            yield
    except KeyboardInterrupt:  # after the training, while it is measured and drawn
        raise _interrupted(folder) from None
    except OSError as error:
        raise as_user_error(error) from None


def fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: RunFolder,
    checkpoint: Path | None,
) -> None:
    """Train, from a checkpoint where there is one.

    Raises:
        UserError: of whichever process failed first, what Lightning refuses, or an interruption.
    """
    # Checkpoints hold tensors and plain values only; pickled code in one is never run.
    safely = {"weights_only": True} if "weights_only" in inspect.signature(trainer.fit).parameters else {}
    parent, group = os.getppid(), hosts.joined()
    try:
        if group is not None:
            group.start_group(trainer.strategy.root_device)
        with folder.shared(), without_known_warnings(), _silent_threads():
            trainer.fit(model, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint), **safely)
    except Exception as error:
        known = as_user_error(error)
        told = agreed(trainer, folder, known, parent) if group is None else group.explained(known)
        raise told from None if isinstance(told, UserError) else error.__cause__
    except SystemExit as error:  # Lightning's answer to Ctrl-C, and to a SIGTERM before the first step
        number = signal.SIGTERM if isinstance(error, SIGTERMException) else signal.SIGINT
        raise _interrupted(folder, number) from None
    if trainer.interrupted:  # that of its earlier versions
        raise _interrupted(folder)


def as_user_error(error: Exception) -> Exception:
    """What Lightning refuses of its arguments, a full memory and a full disk, as one line; any other error as it is."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = Path(pl.__file__).parents[1]
    refused = trace is not None and package in Path(trace.tb_frame.f_code.co_filename).parents
    told = " ".join(str(error).split())
    if is_full(error):
        return UserError("checkpoint.dir", told, "make room, then continue with --resume")
    if isinstance(error, torch.cuda.OutOfMemoryError):
        remedy = "lower it or set performance.chunked_batch"
        return UserError("optimizer.batch_size", f"the device's memory is full ({told})", remedy)
    if isinstance(error, MisconfigurationException) or (refused and isinstance(error, _REFUSALS)):
        return UserError("Trainer", told, "correct the recipe")
    return error


@contextmanager
def _silent_threads() -> Iterator[None]:
    """A logger's thread that finds the disk full leaves the words to the training, which meets the same error."""
    ordinary = threading.excepthook
    threading.excepthook = lambda told: None if is_full(told.exc_value) else ordinary(told)
    try:
        yield
    finally:
        threading.excepthook = ordinary


_REFUSALS = (TypeError, ValueError, RuntimeError, KeyError)


def _interrupted(folder: RunFolder, number: int = signal.SIGINT) -> Stopped:
    kept = f"saved in {folder.saved()[0]}" if folder.saved() else "nothing was saved yet"
    return Stopped(f"interrupted, {kept}", number, "continue with --resume" if folder.saved() else "start again")


# What Lightning and torch say on every run, and what is no concern of the user's.
_KNOWN_WARNINGS = (
    ".*does not have many workers.*",
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*lr_scheduler.step\\(\\).*before.*optimizer.step.*",
    ".*The `srun` command is available.*",
    ".*your dataloader is not resumable.*",  # it is, CheckpointWriter sees to that
    ".*val_dataloader.* is empty.*",
    ".*Total length of .* across ranks is zero.*",  # no validation set, which is said already
    ".*`val_dataloader` returned.*",
    ".*to use `self.log\\(.*sync_dist=True\\)`.*",  # each step's values are the processes' means already
    ".*in eval mode at the start of training.*",  # a frozen backbone
)


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Leave out what Lightning and torch say on every run."""
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


# What Lightning tells in every run: other products, devices of a kind that the machine does not have, its own steps.
_NOISE = re.compile(
    r".*Tip:|Using \w+ Automatic Mixed|[GT]PU available: False|`Trainer\(limit_|Loading `\w+` to estimate|"
    r"`Trainer.fit` stopped: `max_ep"
)
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
    lambda record: _NOISE.match(record.getMessage()) is None
)
