"""A pretraining, from a checked recipe to a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from solo_bam.backbones import is_resnet
from solo_bam.config import Recipe
from solo_bam.config.known import known
from solo_bam.config.resolve import describe_stem, resolve
from solo_bam.config.schema import SHARDED
from solo_bam.data import PretrainData, Source, find_source
from solo_bam.data.transforms.contrastive_crop import BoxSchedule
from solo_bam.evaluate.online import online_records
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.records import write_records
from solo_bam.train.callbacks import (
    CheckpointWriter,
    CollapseMonitor,
    ContrastiveCropBoxes,
    CosineWeightDecay,
    CostMeter,
    EpochMeans,
    EpochSeed,
    NonFiniteLoss,
    OnlineKNN,
    ProgressBar,
    UnreadableImages,
)
from solo_bam.train.hosts import together
from solo_bam.train.pretrain import build_model, build_trainer, count_steps, find_devices, fit, running, seed_everything
from solo_bam.train.resume import Images, RecipeInCheckpoint, describe_images, folder_and_checkpoint
from solo_bam.train.sharding import whole_state


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        folder: of the run.
        model: the method with its last weights.
        metrics: the last of each.
        collapsed_in: the epoch since which the projections of different images are alike; None for a sound run.
    """

    folder: RunFolder
    model: pl.LightningModule
    metrics: dict[str, float]
    collapsed_in: int | None = None


def pretrain(recipe: Recipe, resume: bool = False) -> Trained:
    """Train from a checked recipe; nothing is written before everything that can be checked is.

    Args:
        recipe: as :func:`solo_bam.config.load_recipe` gives it.
        resume: continue the newest unfinished run of this recipe; there must be one.

    Raises:
        UserError: data, devices or a checkpoint that do not fit the recipe, or a loss that is not finite.
    """
    with together(recipe):
        return _pretrain(recipe, resume)


def _pretrain(recipe: Recipe, resume: bool) -> Trained:
    known()  # now that all is imported: the next misspelt name is told without
    devices, world_size = find_devices(recipe)
    source = find_source(recipe.data)
    cfg = resolve(recipe, source.num_classes, source.val is not None, world_size)
    data = PretrainData(recipe, source)
    steps_per_epoch = count_steps(len(data.train_set), recipe.optimizer.batch_size, world_size)
    images = describe_images(data.plain_images().split, source.val)
    folder, checkpoint = folder_and_checkpoint(recipe, images, resume, world_size)
    trainer = build_trainer(recipe, devices, folder, _callbacks(recipe, folder, data, images), steps_per_epoch)

    cfg.backbone.pretrained = None if checkpoint else recipe.backbone.pretrained  # a checkpoint has the weights
    seed_everything(recipe.seed)
    model = build_model(recipe, cfg, devices)
    if not recipe.performance.disable_channel_last:
        model = model.to(memory_format=torch.channels_last)
    _announce(recipe, source.val is not None)

    with running(folder, recipe, devices, trainer.is_global_zero):
        fit(trainer, model, data, folder, checkpoint)
        # A run that was killed between its last checkpoint and its end has nothing left to train.
        saved = trainer.checkpoint_callback.metrics if isinstance(trainer.checkpoint_callback, CheckpointWriter) else {}
        metrics = saved | {key: float(value) for key, value in trainer.callback_metrics.items()}
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        collapsed_in = next((one.collapsed_in for one in callbacks if isinstance(one, CollapseMonitor)), None)
        model = _whole(recipe, model, lambda: build_model(recipe, cfg, devices))
        if trainer.is_global_zero:
            folder.write_metrics()
            _record(folder, recipe, metrics, model, source)
            _draw(folder, recipe, model, source)
            folder.finish(metrics, collapsed_in)
    return Trained(folder, model, metrics, collapsed_in)


def _whole(recipe: Recipe, model: pl.LightningModule, build: Callable[[], pl.LightningModule]) -> pl.LightningModule:
    """On the first process a sharded method as one whole, without the buffers that some methods make in training."""
    state = whole_state(model) if recipe.strategy == SHARDED else None
    if not state:
        return model
    whole = build()
    whole.load_state_dict(state, strict=False)
    return whole


def _record(
    folder: RunFolder, recipe: Recipe, metrics: dict[str, float], model: pl.LightningModule, source: Source
) -> None:
    if source.val is not None:
        checkpoint = str(folder.last_checkpoint) if recipe.checkpoint.enabled else None
        records = online_records(recipe, metrics, model, source.val, checkpoint)
        write_records(folder.path / "evaluation", "online", records)


def _callbacks(recipe: Recipe, folder: RunFolder, data: PretrainData, images: Images) -> list[pl.Callback]:
    means = EpochMeans()
    callbacks: list[pl.Callback] = [
        means,
        EpochSeed(recipe.seed),
        NonFiniteLoss(),
        CollapseMonitor(recipe),
        LearningRateMonitor(),
        RecipeInCheckpoint(recipe, images),
        CostMeter(folder, recipe.optimizer.batch_size),
    ]
    if recipe.optimizer.weight_decay_end is not None:
        callbacks.append(CosineWeightDecay(recipe.optimizer.weight_decay, recipe.optimizer.weight_decay_end))
    if recipe.trainer_arguments.get("enable_progress_bar", True):
        callbacks.append(ProgressBar(means))
    if recipe.data.on_error == "skip":
        callbacks.append(UnreadableImages())
    if recipe.data.contrastive_crop.enabled:
        callbacks.append(ContrastiveCropBoxes.of(data))
    if recipe.knn_eval.freq is not None and data.val_set is not None:
        callbacks.append(OnlineKNN.of(data))
    if recipe.checkpoint.enabled:
        callbacks.append(CheckpointWriter(folder, recipe.checkpoint.frequency, recipe.checkpoint.keep_prev))
    return callbacks


def _announce(recipe: Recipe, has_val: bool) -> None:
    """What a user might not expect, before it starts."""
    rank_zero_info(
        f"{recipe.method} on {recipe.data.called}: {recipe.num_large_crops} large and {recipe.num_small_crops} small "
        f"crops, seed {recipe.seed}"
    )
    if is_resnet(recipe.backbone.name):
        rank_zero_info(f"{recipe.backbone.name} with {describe_stem(recipe)}; backbone.cifar_stem changes it")
    if recipe.data.contrastive_crop.enabled:
        first = BoxSchedule.of(recipe).first_use
        never = "" if first < recipe.max_epochs else f", which {recipe.max_epochs} epochs never reach"
        rank_zero_info(f"ContrastiveCrop: crops follow the boxes from epoch {first} on (counted from 0){never}")
    if not has_val:
        rank_zero_info("No labelled validation set: the online linear head and k-NN are not evaluated.")
    if recipe.debug_augmentations:
        from solo_bam.data.transforms.augmentations import Crops

        rank_zero_info(str(Crops(recipe.data.dataset, recipe.augmentations)))


def _draw(folder: RunFolder, recipe: Recipe, model: pl.LightningModule, source: Source) -> None:
    if not recipe.pictures:
        return
    try:
        from solo_bam.train.pictures import draw_finished
    except ImportError:
        rank_zero_info("No pictures of the run: pip install 'solo-bam[plots]'")
        return
    draw_finished(folder, recipe, model.backbone, source)  # type: ignore[arg-type]


@rank_zero_only
def report_pretrained(trained: Trained) -> None:
    """Say how the run ended and where it is, on the first process."""
    headline = [f"{name}_epoch" for name in getattr(trained.model, "headline", ())]
    names = (*headline, "knn_acc1", "val_knn_acc1", "val_acc1")
    shown = [f"{name.removesuffix('_epoch')} {trained.metrics[name]:.2f}" for name in names if name in trained.metrics]
    collapsed = trained.collapsed_in
    end = "Finished" if collapsed is None else f"COLLAPSED since epoch {collapsed}, finished"
    print(f"{end}: {', '.join(shown)}" if shown else f"{end}.")
    print(f"Run: {trained.folder.path}")
