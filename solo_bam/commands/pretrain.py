"""``solo-bam pretrain``: train a method from a recipe."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from solo_bam import hardware, toolkit
from solo_bam.backbones import backbone_factory, check_crop_sizes, check_heat_map, is_resnet
from solo_bam.callbacks import (
    ContrastiveCropBoxes,
    CosineWeightDecay,
    EpochSeed,
    NonFiniteLoss,
    ProgressBar,
    UnreadableImages,
)
from solo_bam.checkpoints import read_checkpoint
from solo_bam.commands.options import import_modules, parse, recipe_parser
from solo_bam.config import Recipe, load_recipe
from solo_bam.config.resolve import resolve, uses_cifar_stem
from solo_bam.data import PretrainData, find_source
from solo_bam.data.contrastive_crop import BoxSchedule
from solo_bam.errors import UserError
from solo_bam.runs import RunFolder


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    folder: RunFolder
    model: pl.LightningModule
    metrics: dict[str, float]


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, train, and say where everything is."""
    parser = recipe_parser("pretrain", "Train a self-supervised method from a recipe.")
    parser.add_argument("--resume", action="store_true", help="continue the newest unfinished run of this recipe")
    options = parse(parser, arguments)
    import_modules(options.modules)
    recipe = load_recipe(options.config_name, options.overrides, options.config_path)
    trained = pretrain(recipe, resume=options.resume)
    _report(trained)
    return 0


def pretrain(recipe: Recipe, resume: bool = False) -> Trained:
    """Train from a checked recipe; nothing is written before everything that can be checked is.

    Args:
        recipe: as :func:`solo_bam.config.load_recipe` gives it.
        resume: continue the newest unfinished run of this recipe; there must be one.

    Raises:
        UserError: data, devices or a checkpoint that do not fit the recipe, or a loss that is not finite.
    """
    devices = hardware.find_devices(recipe.accelerator, recipe.devices)
    world_size = devices.count * recipe.num_nodes
    if recipe.sync_batchnorm and devices.accelerator == "cpu" and world_size > 1:
        raise UserError(
            "sync_batchnorm",
            "got True, torch synchronises batch norm over GPUs only",
            "set sync_batchnorm=False or devices=1",
        )
    source = find_source(recipe.data)
    cfg = resolve(recipe, source.num_classes, source.val is not None, world_size)
    data = PretrainData(recipe, source)
    _check_size(recipe, len(data.train_set), world_size)
    folder, checkpoint = _folder_and_checkpoint(recipe, resume)
    steps_per_epoch = len(data.train_set) // (recipe.optimizer.batch_size * world_size)
    trainer = _trainer(recipe, devices, folder, data, steps_per_epoch)

    pl.seed_everything(recipe.seed, workers=True, **_quietly(pl.seed_everything))
    try:
        model = toolkit.build_method(cfg, backbone_factory(cfg.backbone))
    except AssertionError as error:  # solo-learn's way of refusing a method's own settings
        raise UserError(
            "method_kwargs", f"{recipe.method} refuses them ({error or 'no reason given'})", "correct them"
        ) from None
    check_crop_sizes(model.backbone, recipe.backbone.name, recipe.crop_sizes, model.features_dim)
    if recipe.data.contrastive_crop.enabled:
        check_heat_map(model.backbone, recipe.backbone.name, recipe.crop_sizes[0])
    if not recipe.performance.disable_channel_last:
        model = model.to(memory_format=torch.channels_last)
    _announce(recipe, source.val is not None)

    if trainer.is_global_zero:
        folder.start(recipe, hardware.describe())
    _fit(trainer, model, data, folder, checkpoint)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        folder.write_metrics()
        _draw(folder)
        folder.finish(**metrics)
    return Trained(folder, model, metrics)


def _trainer(
    recipe: Recipe, devices: hardware.Devices, folder: RunFolder, data: PretrainData, steps_per_epoch: int
) -> pl.Trainer:
    """Lightning's Trainer; writes nothing yet."""
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
            sync_batchnorm=recipe.sync_batchnorm,
            accumulate_grad_batches=recipe.accumulate_grad_batches,
            logger=_loggers(recipe, folder),
            callbacks=_callbacks(recipe, folder, data),
            default_root_dir=folder.path,
            use_distributed_sampler=False,
            **{"log_every_n_steps": min(50, steps_per_epoch), **recipe.trainer_arguments},
        )
    except UserError:
        raise
    except (MisconfigurationException, TypeError, ValueError) as error:
        # Lightning checks its own arguments; its message names the one at fault.
        raise UserError("Trainer", " ".join(str(error).split()), "correct the recipe") from None


def _fit(
    trainer: pl.Trainer, model: pl.LightningModule, data: PretrainData, folder: RunFolder, checkpoint: Path | None
) -> None:
    # Checkpoints hold tensors and plain values only; pickled code in one is never run.
    safely = {"weights_only": True} if "weights_only" in inspect.signature(trainer.fit).parameters else {}
    try:
        with folder.shared(), warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(model, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint), **safely)
    except UserError as error:
        folder.abandon(str(error))
        raise
    if trainer.interrupted:
        folder.abandon("interrupted")
        raise UserError("pretrain", "interrupted", "continue with --resume")
    frequency = getattr(trainer.checkpoint_callback, "_every_n_epochs", 1)
    if trainer.checkpoint_callback is not None and trainer.current_epoch % frequency:
        if trainer.is_global_zero:
            folder.last_checkpoint.unlink(missing_ok=True)  # a link would be written through
        trainer.save_checkpoint(folder.last_checkpoint)


# What Lightning and torch say on every run, and what is no concern of the user's.
_KNOWN_WARNINGS = (
    ".*does not have many workers.*",
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*lr_scheduler.step\\(\\).*before.*optimizer.step.*",
    ".*The `srun` command is available.*",
    ".*val_dataloader.* is empty.*",
    ".*`val_dataloader` returned.*",
)


def _quietly(function: Any) -> dict[str, bool]:
    """``verbose=False`` where this Lightning has it."""
    return {"verbose": False} if "verbose" in inspect.signature(function).parameters else {}


def _check_size(recipe: Recipe, images: int, world_size: int) -> None:
    needed = recipe.optimizer.batch_size * world_size
    if images < needed:
        raise UserError(
            "optimizer.batch_size",
            f"got {recipe.optimizer.batch_size} on {world_size} process(es), the training set has only {images} images",
            "lower it",
        )


def _folder_and_checkpoint(recipe: Recipe, resume: bool) -> tuple[RunFolder, Path | None]:
    """Where the run goes and what it continues."""
    if recipe.resume_from_checkpoint is not None:
        check_checkpoint(recipe.resume_from_checkpoint, recipe.method)
        return RunFolder.new(recipe), recipe.resume_from_checkpoint
    if resume or recipe.auto_resume.enabled:
        found = RunFolder.unfinished(recipe)
        if found is not None and found.last_checkpoint.exists():
            check_checkpoint(found.last_checkpoint, recipe.method)
            rank_zero_info(f"Resuming {found.last_checkpoint}")
            return found, found.last_checkpoint
        if resume and found is None:
            where = recipe.checkpoint.dir / recipe.method
            raise UserError(
                "--resume", f"there is no unfinished run of exactly this recipe in {where}", "start without --resume"
            )
    return RunFolder.new(recipe), None


def check_checkpoint(path: Path, method: str) -> dict[str, Any]:
    """A checkpoint's content, loaded without running code from it.

    Raises:
        UserError: missing, unreadable, holding code, or of another method.
    """
    key = "resume_from_checkpoint"
    content = read_checkpoint(path, key)
    about = content.get("solo_bam")
    if not about:
        raise UserError(key, f"{path} was not saved by solo-bam", "give a checkpoint of solo-bam")
    if about["method"] != method:
        raise UserError(
            key, f"{path} is of method {about['method']}, the recipe's is {method}", f"set method={about['method']}"
        )
    return content


class RecipeInCheckpoint(pl.Callback):
    """Writes into every checkpoint which recipe it belongs to."""

    def __init__(self, recipe: Recipe):
        self.about = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["solo_bam"] = self.about


def _callbacks(recipe: Recipe, folder: RunFolder, data: PretrainData) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = [
        EpochSeed(recipe.seed),
        NonFiniteLoss(),
        LearningRateMonitor(),
        RecipeInCheckpoint(recipe),
    ]
    if recipe.optimizer.weight_decay_end is not None:
        callbacks.append(CosineWeightDecay(recipe.optimizer.weight_decay, recipe.optimizer.weight_decay_end))
    if recipe.trainer_arguments.get("enable_progress_bar", True):
        callbacks.append(ProgressBar())
    if recipe.data.on_error == "skip":
        callbacks.append(UnreadableImages())
    if recipe.data.contrastive_crop.enabled:
        callbacks.append(ContrastiveCropBoxes.of(data))
    if recipe.checkpoint.enabled:
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder.checkpoints,
                filename="{epoch}",
                every_n_epochs=recipe.checkpoint.frequency,
                save_top_k=-1 if recipe.checkpoint.keep_prev else 1,
                save_last="link",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    return callbacks


def _loggers(recipe: Recipe, folder: RunFolder) -> list[Any]:
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


def _announce(recipe: Recipe, has_val: bool) -> None:
    """What a user might not expect, before it starts."""
    rank_zero_info(
        f"{recipe.method} on {recipe.data.dataset}: {recipe.num_large_crops} large and {recipe.num_small_crops} small "
        f"crops, seed {recipe.seed}"
    )
    if is_resnet(recipe.backbone.name):
        stem = "the stem for small images (3x3, no max-pooling)" if uses_cifar_stem(recipe) else "ImageNet's stem"
        rank_zero_info(f"{recipe.backbone.name} with {stem}; backbone.cifar_stem changes it")
    if recipe.data.contrastive_crop.enabled:
        first = BoxSchedule.of(recipe).first_use
        never = "" if first < recipe.max_epochs else f", which {recipe.max_epochs} epochs never reach"
        rank_zero_info(f"ContrastiveCrop: crops follow the boxes from epoch {first} on (counted from 0){never}")
    if not has_val:
        rank_zero_info("No labelled validation set: the online linear head and k-NN are not evaluated.")
    if recipe.debug_augmentations:
        from solo_bam.data.augmentations import Crops

        rank_zero_info(str(Crops(recipe.data.dataset, recipe.augmentations)))


def _draw(folder: RunFolder) -> None:
    try:
        from solo_bam.plots.curves import draw_curves
    except ImportError:
        rank_zero_info("No picture of the curves: pip install 'solo-bam[plots]'")
        return
    draw_curves(folder.metrics(), folder.path / "curves.png", title=folder.path.name)


@rank_zero_only
def _report(trained: Trained) -> None:
    names = ("bam_loss_epoch", "val_knn_acc1", "val_acc1")
    shown = [f"{name.removesuffix('_epoch')} {trained.metrics[name]:.2f}" for name in names if name in trained.metrics]
    print(f"Finished: {', '.join(shown)}" if shown else "Finished.")
    print(f"Run: {trained.folder.path}")


def _hide_tips() -> None:
    """Lightning advertises other products in the log of every run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


_hide_tips()
