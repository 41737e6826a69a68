"""What every command that trains sets up alike: devices, loggers, checkpoints and Lightning's Trainer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from solo_bam import hardware
from solo_bam.config.schema import Run
from solo_bam.errors import UserError
from solo_bam.runs import RunFolder


def find_devices(recipe: Run) -> tuple[hardware.Devices, int]:
    """The recipe's devices and how many processes they make on all nodes.

    Raises:
        UserError: they are not there, or cannot do what the recipe asks for.
    """
    devices = hardware.find_devices(recipe.accelerator, recipe.devices)
    world_size = devices.count * recipe.num_nodes
    if recipe.sync_batchnorm and devices.accelerator == "cpu" and world_size > 1:
        raise UserError(
            "sync_batchnorm",
            "got True, torch synchronises batch norm over GPUs only",
            "set sync_batchnorm=False or devices=1",
        )
    return devices, world_size


def build_trainer(
    recipe: Run,
    devices: hardware.Devices,
    folder: RunFolder,
    callbacks: Sequence[pl.Callback],
    steps_per_epoch: int,
) -> pl.Trainer:
    """Lightning's Trainer; writes nothing yet.

    Raises:
        UserError: an argument that Lightning refuses or that is not the recipe's to set.
    """
    for key in recipe.trainer_arguments:
        if key in {"callbacks", "logger", "default_root_dir", "plugins", "profiler", "use_distributed_sampler"}:
            raise UserError(key, "is set by solo-bam itself", "remove it")
    try:
        return pl.Trainer(
            accelerator=devices.accelerator,
            devices=devices.devices,
            num_nodes=recipe.num_nodes,
            strategy=recipe.strategy or "auto",
            precision=recipe.precision,  # type: ignore[arg-type]
            max_epochs=recipe.max_epochs,
            # One process has nothing to synchronise, and torch's class for it wants a GPU.
            sync_batchnorm=recipe.sync_batchnorm and devices.count * recipe.num_nodes > 1,
            accumulate_grad_batches=recipe.accumulate_grad_batches,
            logger=_loggers(recipe, folder),
            callbacks=list(callbacks),
            default_root_dir=folder.path,
            use_distributed_sampler=False,
            **{"log_every_n_steps": min(50, steps_per_epoch), **recipe.trainer_arguments},
        )
    except UserError:
        raise
    except (MisconfigurationException, TypeError, ValueError) as error:
        # Lightning checks its own arguments; its message names the one at fault.
        raise UserError("Trainer", " ".join(str(error).split()), "correct the recipe") from None


def check_size(images: int, batch_size: int, world_size: int) -> None:
    """At least one batch.

    Raises:
        UserError: there are fewer images.
    """
    if images < batch_size * world_size:
        raise UserError(
            "optimizer.batch_size",
            f"got {batch_size} on {world_size} process(es), the training set has only {images} images",
            "lower it",
        )


def checkpoints_of(recipe: Run, folder: RunFolder) -> ModelCheckpoint:
    """Checkpoints as the recipe asks for, and a link to the newest."""
    return ModelCheckpoint(
        dirpath=folder.checkpoints,
        filename="{epoch}",
        every_n_epochs=recipe.checkpoint.frequency,
        save_top_k=-1 if recipe.checkpoint.keep_prev else 1,
        save_last="link",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _loggers(recipe: Run, folder: RunFolder) -> list[Any]:
    loggers: list[Any] = [
        CSVLogger(folder.path, name="logs"),
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


def _hide_tips() -> None:
    """Lightning advertises other products in the log of every run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


_hide_tips()
