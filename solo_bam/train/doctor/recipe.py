"""Whether a recipe can run here, and what it would do."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from solo_bam.backbones import is_resnet
from solo_bam.config import Recipe
from solo_bam.config.resolve import resolve, uses_cifar_stem
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.data import PretrainData, Source, find_source
from solo_bam.data.module import fraction
from solo_bam.runs.folder import RunFolder, recipe_hash
from solo_bam.train.callbacks import OnlineKNN
from solo_bam.train.doctor.finding import Finding
from solo_bam.train.doctor.gradients import check_gradients
from solo_bam.train.doctor.machine import GIB, disk
from solo_bam.train.pretrain import (
    build_model,
    build_trainer,
    check_size,
    find_devices,
    folder_and_checkpoint,
    told_images,
)

# Numbers that the optimiser keeps beside each weight.
_STATES = {"adam": 2, "adamw": 2, "sgd": 1, "lars": 1}


def examine_recipe(recipe: Recipe) -> list[Finding]:
    """Devices, data, batch and rate, network, disk, earlier runs and the loss on two processes.

    A step that fails leaves out those that need it.
    """
    crops = f"{recipe.num_large_crops} large and {recipe.num_small_crops} small crops"
    findings = [Finding("ok", "recipe", f"{recipe.method}, {crops}, {recipe.max_epochs} epochs, seed {recipe.seed}")]
    found = _try(findings, "devices", lambda: find_devices(recipe))
    source = _try(findings, "data", lambda: find_source(recipe.data, download=False))
    if source is not None:
        findings.append(_data(recipe, source))
    if found is not None:
        devices, processes = found
        findings.append(Finding("ok", "devices", f"{processes} process(es) on {devices.accelerator}"))
        if source is not None and (cfg := _try(findings, "batch", lambda: _cfg(recipe, source, processes))) is not None:
            findings.append(_batch(recipe, cfg, processes))
            if (steps := _try(findings, "steps", lambda: _steps(recipe, source, processes))) is not None:
                findings.append(steps)
                _try(findings, "trainer", lambda: _check_trainer(recipe, source, devices))
            _try(findings, "network", lambda: findings.extend(_network(recipe, cfg, devices)))
    findings += [*_earlier_runs(recipe), check_gradients()]
    return findings


def _try(findings: list[Finding], topic: str, step: Callable[[], Any]) -> Any:
    """The step's result; None, and a failure among the findings, where it raises a user's error."""
    try:
        return step()
    except UserError as error:
        findings.append(Finding.of(topic, error))
        return None


def _data(recipe: Recipe, source: Source) -> Finding:
    val = "no labelled validation images" if source.val is None else f"{len(source.val):,} validation images"
    text = f"{recipe.data.called}: {len(source.train):,} training and {val}"
    if source.val is None:
        return Finding("warning", "data", text, "the online linear head and k-NN are not evaluated")
    return Finding("ok", "data", f"{text} of {source.num_classes} classes")


def _check_trainer(recipe: Recipe, source: Source, devices: hardware.Devices) -> None:
    """Lightning's own checks of its arguments, the loggers and what the run would continue; nothing is written."""
    with _silence():
        processes = devices.count * recipe.num_nodes
        images = told_images(fraction(source.train(lambda image: image), recipe.data.fraction).split, source.val)
        folder, _ = folder_and_checkpoint(recipe, images, resume=False, world_size=processes)
        build_trainer(recipe, devices, folder, callbacks=[], steps_per_epoch=1)


@contextmanager
def _silence() -> Iterator[None]:
    """Lightning tells which devices it found; the page says so already."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _cfg(recipe: Recipe, source: Source, processes: int) -> DictConfig:
    return resolve(recipe, source.num_classes, source.val is not None, processes)


def _batch(recipe: Recipe, cfg: DictConfig, processes: int) -> Finding:
    size = recipe.optimizer.batch_size * processes
    times = recipe.accumulate_grad_batches  # solo-learn multiplies the rates by it, too
    accumulated, factor = (f" x {times} accumulated", f" x {times}") if times > 1 else ("", "")
    rate = f"{cfg.optimizer.lr * times:g} (optimizer.lr {recipe.optimizer.lr:g} x {size}{factor} / 256)"
    return Finding("ok", "batch", f"{size} images{accumulated} on {processes} process(es), peak learning rate {rate}")


def _steps(recipe: Recipe, source: Source, processes: int) -> Finding:
    data = PretrainData(recipe, source)
    images, size = len(data.train_set), recipe.optimizer.batch_size * processes
    check_size(images, recipe.optimizer.batch_size, processes)
    if recipe.knn_eval.freq is not None and data.val_set is not None:
        OnlineKNN.of(data)  # its k may not fit the bank
    steps = images // size
    return Finding("ok", "steps", f"{steps:,} an epoch, {steps * recipe.max_epochs:,} in all, of {images:,} images")


def _network(recipe: Recipe, cfg: DictConfig, devices: hardware.Devices) -> list[Finding]:
    """Built once, as a run would build it."""
    model = build_model(recipe, cfg, devices)
    weights = sum(p.numel() for p in model.parameters())
    stem = ""
    if is_resnet(recipe.backbone.name):
        stem = ", the stem for small images (3x3)" if uses_cifar_stem(recipe) else ", ImageNet's stem (7x7)"
    text = f"{recipe.backbone.name}{stem}; {weights / 1e6:.1f} million parameters with heads"
    return [Finding("ok", "network", text), _checkpoints(recipe, model)]


def _checkpoints(recipe: Recipe, model: pl.LightningModule) -> Finding:
    """Their size, estimated, against the disk; a new one is written before an old one goes."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    kept = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    size = kept + _STATES[recipe.optimizer.name] * trained
    count = 1 + (recipe.max_epochs // recipe.checkpoint.frequency if recipe.checkpoint.keep_prev else 1)
    found = disk(recipe.checkpoint.dir, needed=size * count)
    text = f"{found.text}; a checkpoint takes about {size / GIB:.2f} GiB, at most {count} at once"
    return replace(found, topic="checkpoints", text=text, status="failure" if found.status != "ok" else "ok")


def _earlier_runs(recipe: Recipe) -> list[Finding]:
    """Runs of exactly this recipe."""
    parent = expanded(recipe.checkpoint.dir).resolve() / recipe.method
    mine = [RunFolder(path.parent) for path in sorted(parent.glob("*/run.json"))]
    mine = [folder for folder in mine if folder.record().get("recipe_hash") == recipe_hash(recipe)]
    if not mine:
        return [Finding("ok", "runs", f"none of this recipe ({recipe_hash(recipe)}) in {parent}")]
    findings = []
    for folder in mine:
        status = folder.record().get("status")
        if status == "finished":
            remedy = "a new run gets a folder of its own; change seed for another sample"
            findings.append(Finding("warning", "runs", f"{folder.path.name} is finished", remedy))
        else:
            remedy = "continue it with --resume, unless it is still running"
            findings.append(Finding("warning", "runs", f"{folder.path.name} is not finished ({status})", remedy))
    return findings
