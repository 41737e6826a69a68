"""Which folder a run goes to, and which checkpoint it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from solo_bam.config.resolve import SHARDED
from solo_bam.config.schema import Run
from solo_bam.core.errors import UserError, warn
from solo_bam.core.files import expanded, writable
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import TRAIN, VAL
from solo_bam.runs.checkpoints.read import read_checkpoint
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.identity import changes, format_changes
from solo_bam.train.lightning_state import trained_epochs

Images = Mapping[str, Any]


def describe_images(train: Split, val: Split | None) -> Images:
    """What a checkpoint knows of the images that its run began with: number, classes and a hash of the names."""
    return {
        key: {"images": len(split), "classes": list(split.classes), "names": split.digest()}
        for key, split in ((TRAIN, train), (VAL, val))
        if split is not None
    }


def folder_and_checkpoint(recipe: Run, images: Images, resume: bool, world_size: int) -> tuple[RunFolder, Path | None]:
    """Where the run goes and what it continues; a start beside earlier ones says what it will do.

    Args:
        recipe: a checked one.
        images: of :func:`describe_images`.
        resume: go on with the newest unfinished run; there must be one.
        world_size: processes.

    Raises:
        UserError: there is nothing to continue, it is of another recipe or other images, or nothing can be written.
    """
    folder, checkpoint = _choose(recipe, images, resume, world_size)
    writable(folder.path, "checkpoint.dir")
    return folder, checkpoint


def _choose(recipe: Run, images: Images, resume: bool, world_size: int) -> tuple[RunFolder, Path | None]:
    if recipe.resume_from_checkpoint is not None:
        key = "resume_from_checkpoint"
        content = check_checkpoint(recipe.resume_from_checkpoint, recipe.method)
        _check_fits(content, recipe, images, world_size, key)
        if trained_epochs(content) >= recipe.max_epochs:
            problem = f"got {recipe.resume_from_checkpoint}, of the last epoch: nothing is left to train"
            raise UserError(key, problem, "give an earlier one, or start without it for another run of the recipe")
        return _new(recipe), expanded(recipe.resume_from_checkpoint)
    if resume or recipe.auto_resume.enabled:
        key = "--resume" if resume else "auto_resume"
        found = RunFolder.unfinished(recipe)
        if found is not None and found.saved():
            if getattr(rank_zero_only, "rank", 0) == 0 and found.is_running:
                raise UserError(key, f"{found.path} is running already", "wait for its end, or stop it")
            checkpoint, content = newest_readable(found, recipe.method, key)
            _check_fits(content, recipe, images, world_size, key)
            rank_zero_info(f"Resuming {checkpoint}")
            return found, checkpoint
        if found is None:
            _tell_nearest(recipe, resume)
    return _new(recipe), None


def _new(recipe: Run) -> RunFolder:
    """A folder for a new run; where there are runs of the recipe already, it says so before anything runs."""
    folder = RunFolder.new(recipe)
    if earlier := RunFolder.alike(recipe):
        told = ", ".join(f"{run.path.name} ({run.status})" for run in earlier[:3])
        unfinished = any(run.status not in ("finished", "running") and run.saved() for run in earlier)
        remedy = "; --resume goes on with the newest that is not finished" if unfinished else ""
        rank_zero_info(f"There are runs of this recipe: {told}. This is another one, {folder.path.name}{remedy}.")
    return folder


def newest_readable(folder: RunFolder, method: str, key: str) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read and its content; a warning names those that cannot."""
    broken: list[str] = []
    for path in folder.saved():
        try:
            content = check_checkpoint(path, method)
        except UserError as error:
            broken.append(error.problem)
            continue
        for problem in broken:
            warn(f"{problem}; continuing from the one before, {path}")
        return path, content
    raise UserError(key, f"none of its checkpoints can be read: {broken[0]}", "start without it")


def _check_fits(content: Mapping[str, Any], recipe: Run, images: Images, world_size: int, key: str) -> None:
    """Refuse to go on from a checkpoint of another recipe, of other images or with other batches."""
    changed = changes(content["solo_bam"].get("recipe", {}), recipe)
    place = content.get("place") or {}
    before = place.get("processes", world_size)
    if before != world_size and recipe.strategy == SHARDED and "strategy" not in changed:
        _check_same_batches(place, changed, recipe, world_size)
        before = world_size
    if changed:
        raise UserError(key, f"the recipe has changed: {format_changes(changed)}", "change it back, or start a new run")
    for split, begun in (content["solo_bam"].get("images") or {}).items():
        now = images.get(split, {})
        if differing := [f"{what} {begun[what]} -> {now.get(what)}" for what in begun if begun[what] != now.get(what)]:
            problem = f"the images have changed since the run's start ({differing[0]})"
            raise UserError(split, problem, "give the images that it was started with, or start a new run")
    if before != world_size:
        problem = f"got {world_size} process(es), the run was started on {before}: other batches"
        raise UserError("devices", problem, f"continue it on {before}")


def _check_same_batches(place: Mapping[str, Any], changed: dict[str, Any], recipe: Run, world_size: int) -> None:
    """Another number of processes is no change where an epoch begins and a batch has the same images."""
    before, size = place["processes"], recipe.optimizer.batch_size  # type: ignore[attr-defined]
    was, _ = changed.pop("optimizer.batch_size", (size, size))
    if was * before != size * world_size:
        problem = f"got {size} on {world_size} process(es), the run was started with {was} on {before}: other batches"
        raise UserError("optimizer.batch_size", problem, f"set it so that a batch has {was * before} images in all")
    if place.get("so_far") is not None:
        problem = f"got {world_size} process(es), the checkpoint is of the middle of an epoch on {before}"
        raise UserError("devices", problem, f"continue it on {before}, or give the checkpoint of a whole epoch")
    for key in ("devices", "num_nodes"):
        changed.pop(key, None)


def _tell_nearest(recipe: Run, resume: bool) -> None:
    """There is no run to continue: say so, and what an unfinished one differs in."""
    nearest = RunFolder.nearest_unfinished(recipe)
    differs = "" if nearest is None else f"; {nearest[0].path.name} differs in {format_changes(nearest[1])}"
    if resume and (done := [run for run in RunFolder.alike(recipe) if run.status == "finished"]):
        problem = f"the run of this recipe, {done[0].path}, is finished: nothing is left to train"
        raise UserError("--resume", problem, "start without --resume for another run of it")
    if resume:
        where = recipe.checkpoint.dir / recipe.method
        problem = f"there is no unfinished run of exactly this recipe in {where}{differs}"
        raise UserError("--resume", problem, "start without --resume")
    if nearest is not None:
        rank_zero_info(f"auto_resume: a new run is started{differs}")


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
    if "optimizer_states" not in content:
        raise UserError(key, f"{path} holds weights alone", "give a checkpoint of solo-bam pretrain")
    return content


class RecipeInCheckpoint(pl.Callback):
    """Writes into every checkpoint which recipe and which images (:func:`describe_images`) it belongs to."""

    def __init__(self, recipe: Run, images: Images):
        about = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}
        self.about = {**about, "images": dict(images)}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["solo_bam"] = self.about
