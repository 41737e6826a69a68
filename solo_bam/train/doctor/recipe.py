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
from solo_bam.config.resolve import describe_stem, resolve
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.core.hardware import GIB
from solo_bam.data import PretrainData, Source, find_source
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.identity import recipe_hash
from solo_bam.train.callbacks import OnlineKNN
from solo_bam.train.doctor.devices import Device, device_here, device_named
from solo_bam.train.doctor.estimate import Loader, crops_work, tell, time_loader
from solo_bam.train.doctor.finding import Finding, page
from solo_bam.train.doctor.gradients import check_gradients
from solo_bam.train.doctor.machine import disk
from solo_bam.train.doctor.work import work_of
from solo_bam.train.pretrain import build_model, build_trainer, count_steps, find_devices
from solo_bam.train.resume import describe_images, folder_and_checkpoint

# Numbers that the optimiser keeps beside each weight.
_STATES = {"adam": 2, "adamw": 2, "sgd": 1, "lars": 1}


def examine_recipe(recipe: Recipe, device: str | None = None) -> list[Finding]:
    """What :func:`plan` says, and the loss on two processes."""
    return [*plan(recipe, device), check_gradients()]


def dry_run(recipe: Recipe, resume: bool) -> int:
    """Print what a pretraining would do, which writes nothing.

    Args:
        recipe: a checked one.
        resume: go on with the newest unfinished run.

    Returns:
        The exit code: 0 where it would run, 2 where something is in the way.
    """
    findings = plan(recipe, resume=resume)
    print(page("Dry run: nothing is trained or written", findings))
    failures = sum(finding.status == "failure" for finding in findings)
    print(f"\n{f'{failures} failure(s): mend them first' if failures else 'it would run'}")
    return 2 if failures else 0


def plan(recipe: Recipe, device: str | None = None, resume: bool = False) -> list[Finding]:
    """Devices, data, batch and rate, network, speed, disk, earlier runs, and what would be started or continued.

    A step that fails leaves out those that need it.

    Args:
        recipe: a checked one.
        device: that the run is planned for, a name of :mod:`solo_bam.train.doctor.devices`; None: what is here.
        resume: go on with the newest unfinished run; there must be one.

    Raises:
        UserError: there is no device of that name.
    """
    planned = None if device is None else device_named(device)
    crops = f"{recipe.num_large_crops} large and {recipe.num_small_crops} small crops"
    findings = [Finding("ok", "recipe", f"{recipe.method}, {crops}, {recipe.max_epochs} epochs, seed {recipe.seed}")]
    found = _try(findings, "devices", lambda: _devices(recipe, planned))
    source = _try(findings, "data", lambda: find_source(recipe.data, download=False))
    if source is not None:
        findings.append(_data(recipe, source))
    elif planned is not None:  # the data may be where the device is
        findings[-1] = replace(findings[-1], status="warning")
    data = None
    if found is not None:
        devices, processes = found
        data = _examine_run(findings, recipe, source, devices, processes, planned)
    findings += _earlier_runs(recipe)
    if data is not None and planned is None:
        findings += filter(None, [_try(findings, "run", lambda: _run(recipe, data, devices, resume))])
    return findings


def _examine_run(
    findings: list[Finding],
    recipe: Recipe,
    source: Source | None,
    devices: hardware.Devices,
    processes: int,
    planned: Device | None,
) -> PretrainData | None:
    """Add what depends on the devices; without the data only what is planned for others.

    Returns:
        The data as the run would have it; None where that cannot be.
    """
    where = f"{devices.accelerator}" if planned is None else f"{planned.name}, as planned"
    findings.append(Finding("ok", "devices", f"{processes} process(es) on {where}"))
    if source is None and planned is None:
        return None
    if (cfg := _try(findings, "batch", lambda: _cfg(recipe, source, processes))) is None:
        return None
    findings.append(_batch(recipe, cfg, processes))
    data = None
    if source is not None:
        here = recipe if planned is None else recipe.model_copy(update={"accelerator": "cpu", "devices": 1})
        data = _try(findings, "steps", lambda: _prepared(here, source, processes))
    if data is not None:
        findings.append(_steps(recipe, data, processes))
    model = _try(findings, "network", lambda: build_model(recipe, cfg, devices))
    if model is not None:
        findings += [_network(recipe, model), _checkpoints(recipe, model)]
    if model is not None and (data is not None or source is None):
        findings += _speed(recipe, cfg, model, data, devices, processes, planned)
    return data


def _devices(recipe: Recipe, planned: Device | None) -> tuple[hardware.Devices, int]:
    if planned is None:
        return find_devices(recipe)
    count = hardware.asked_for(recipe.devices)
    return hardware.Devices("cpu" if planned.is_cpu else "cuda", count, count), count * recipe.num_nodes


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
    places = dict.fromkeys(str(split.place) for split in (source.train, source.val) if split is not None)
    where = f"in {' and '.join(places)}"
    if source.val is None:
        return Finding("warning", "data", f"{text}, {where}", "the online linear head and k-NN are not evaluated")
    return Finding("ok", "data", f"{text} of {source.num_classes} classes, {where}")


def _run(recipe: Recipe, data: PretrainData, devices: hardware.Devices, resume: bool) -> Finding:
    """What the run would start or continue, after Lightning's own checks of its arguments; nothing is written."""
    with _silence():
        images = describe_images(data.plain_images().split, data.source.val)
        folder, checkpoint = folder_and_checkpoint(recipe, images, resume, devices.count * recipe.num_nodes)
        steps = count_steps(len(data.train_set), recipe.optimizer.batch_size, devices.count * recipe.num_nodes)
        build_trainer(recipe, devices, folder, callbacks=[], steps_per_epoch=steps)
    text = f"starts {folder.path}" if checkpoint is None else f"goes on with {checkpoint}, in {folder.path}"
    return Finding("ok", "run", text)


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


def _cfg(recipe: Recipe, source: Source | None, processes: int) -> DictConfig:
    classes, has_val = (1000, True) if source is None else (source.num_classes, source.val is not None)
    return resolve(recipe, classes, has_val, processes)


def _batch(recipe: Recipe, cfg: DictConfig, processes: int) -> Finding:
    size = recipe.optimizer.batch_size * processes
    times = recipe.accumulate_grad_batches  # solo-learn multiplies the rates by it, too
    accumulated, factor = (f" x {times} accumulated", f" x {times}") if times > 1 else ("", "")
    rate = f"{cfg.optimizer.lr * times:g} (optimizer.lr {recipe.optimizer.lr:g} x {size}{factor} / 256)"
    return Finding("ok", "batch", f"{size} images{accumulated} on {processes} process(es), peak learning rate {rate}")


def _prepared(recipe: Recipe, source: Source, processes: int) -> PretrainData:
    """The data as the run would have it."""
    data = PretrainData(recipe, source)
    count_steps(len(data.train_set), recipe.optimizer.batch_size, processes)
    if recipe.knn_eval.freq is not None and data.val_set is not None:
        OnlineKNN.of(data)  # its k may not fit the bank
    return data


def _steps(recipe: Recipe, data: PretrainData, processes: int) -> Finding:
    images = len(data.train_set)
    steps = count_steps(images, recipe.optimizer.batch_size, processes)
    return Finding("ok", "steps", f"{steps:,} an epoch, {steps * recipe.max_epochs:,} in all, of {images:,} images")


def _network(recipe: Recipe, model: pl.LightningModule) -> Finding:
    network = {id(p) for p in model.backbone.parameters()}  # type: ignore[union-attr]
    sizes = {"the network's": 0, "heads'": 0, "the teacher's": 0}
    for p in model.parameters():
        whose = "the network's" if id(p) in network else "heads'" if p.requires_grad else "the teacher's"
        sizes[whose] += p.numel()
    told = ", ".join(f"{size / 1e6:.1f} {whose}" for whose, size in sizes.items() if size)
    stem = f" with {describe_stem(recipe)}" if is_resnet(recipe.backbone.name) else ""
    return Finding("ok", "network", f"{recipe.backbone.name}{stem}; million parameters: {told}")


def _speed(
    recipe: Recipe,
    cfg: DictConfig,
    model: pl.LightningModule,
    data: PretrainData | None,
    devices: hardware.Devices,
    processes: int,
    planned: Device | None,
) -> list[Finding]:
    """How fast and how large the run would be; the model ends up without data."""
    device = planned or device_here(devices.accelerator)
    if device is None:
        text = f"no figures of this {devices.accelerator} device are known; device=h100 tells that one's"
        return [Finding("ok", "speed", text)]
    if recipe.performance.compile:
        eager = recipe.performance.model_copy(update={"compile": False})
        model = build_model(recipe.model_copy(update={"performance": eager}), cfg, devices)
    kind = "cpu" if device.is_cpu else "cuda"  # a GPU's code takes other ways: larger pieces, other kernels
    try:
        work = work_of(model, recipe, kind)
        if data is not None:
            work.operations.extend(crops_work(data, kind))
    except Exception as error:  # other people's methods may do anything
        told = str(error).partition("\n")[0]
        text = (
            f"no estimate: a step of {recipe.method} cannot be followed without data ({type(error).__name__}: {told})"
        )
        return [Finding("ok", "speed", text)]
    loader = Loader(None, 0) if data is None else time_loader(data)
    return tell(recipe, work, device, processes, loader, None if data is None else len(data.train_set))


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
