"""A linear classifier on frozen features, or a fine-tuned network: trained, tested and reported."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from solo_bam.config.linear import CHECKPOINT, LinearRecipe, load_linear_recipe, named_keys, recipe_of_run
from solo_bam.config.options import transferred_from
from solo_bam.config.schema import Recipe
from solo_bam.core.errors import UserError, warn
from solo_bam.core.files import short_name
from solo_bam.data.labelled import LabelledData, find_labelled
from solo_bam.evaluate.classifier import classifier_records
from solo_bam.evaluate.pretrained import complete, load_extractor
from solo_bam.evaluate.tally import Tally, write_confusion, write_per_class
from solo_bam.runs.checkpoints.read import find_checkpoint, read_checkpoint, recipe_in
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.identity import recipe_hash
from solo_bam.runs.records import Record, records_folder, write_records
from solo_bam.train.callbacks import (
    CheckpointWriter,
    EpochMeans,
    EpochSeed,
    NonFiniteLoss,
    ProgressBar,
    UnreadableImages,
)
from solo_bam.train.classifier import Classifier
from solo_bam.train.hosts import together
from solo_bam.train.pretrain import (
    build_trainer,
    count_steps,
    find_devices,
    fit,
    running,
    seed_everything,
    without_known_warnings,
)
from solo_bam.train.resume import Images, RecipeInCheckpoint, describe_images, folder_and_checkpoint


@dataclass(frozen=True)
class Classified:
    """A finished run.

    Attributes:
        folder: of the run.
        model: the classifier.
        records: accuracy with its interval, and what belongs to it.
    """

    folder: RunFolder
    model: Classifier
    records: list[Record]


def find_recipe(
    config_name: str | None, config_path: str | None, checkpoint: Path | None, overrides: list[str]
) -> tuple[LinearRecipe, dict[str, object], Path, Recipe | None]:
    """The recipe, completed by the checkpoint; the checkpoint's content, its file, and its own recipe.

    Args:
        config_name: of a recipe; None: the one of the checkpoint's data set.
        config_path: folder of the user's own recipes.
        checkpoint: a run's folder or a file; None: the recipe names it.
        overrides: ``key=value``.

    Raises:
        UserError: something is missing, or does not fit.
    """
    if checkpoint is None and config_name is None:
        raise UserError("solo-bam linear", "got neither a run nor --config-name", "see solo-bam linear --help")
    recipe = None
    if checkpoint is None or config_path is not None:
        if config_name is None:
            raise UserError("--config-path", "got no --config-name beside it", "name the recipe")
        recipe = load_linear_recipe(config_name, overrides, config_path)
        checkpoint = checkpoint or recipe.pretrained_feature_extractor
        if checkpoint is None:
            raise UserError(CHECKPOINT, "is missing", "give a run's folder or a checkpoint")
    path = find_checkpoint(checkpoint, CHECKPOINT).absolute()
    content = read_checkpoint(path, CHECKPOINT)
    trained_by = recipe_in(content, path, CHECKPOINT)
    if recipe is None and trained_by is not None:
        recipe = recipe_of_run(path, trained_by, config_name, overrides)
    elif recipe is None:
        recipe = load_linear_recipe(_named(config_name, path), overrides)
    elif trained_by is not None and config_path is None:
        _check_transfer(recipe, trained_by, overrides)
    recipe = recipe.model_copy(update={CHECKPOINT: path})
    return complete(recipe, trained_by), content, path, trained_by


def _named(config_name: str | None, path: Path) -> str:
    if config_name is None:
        problem = f"is missing, {path} has no recipe of its own"
        raise UserError("--config-name", problem, "give a recipe that names data and backbone")
    return config_name


def _check_transfer(recipe: LinearRecipe, trained_by: Recipe, overrides: Sequence[str]) -> None:
    """A shipped recipe's data set may not be the one that was meant."""
    mine, theirs = recipe.data.dataset, trained_by.data.dataset
    if mine != theirs and "data.dataset" not in named_keys(overrides):
        problem = f"got {mine} from the recipe, the checkpoint was trained on {theirs}"
        raise UserError("data.dataset", problem, f"set data.dataset={theirs}, or data.dataset={mine} for transfer")


def linear(
    recipe: LinearRecipe, content: dict[str, object], path: Path, trained_by: Recipe | None, resume: bool = False
) -> Classified:
    """Train and test from a checked recipe; nothing is written before everything that can be checked is.

    Args:
        recipe: as :func:`solo_bam.evaluate.pretrained.complete` gives it.
        content: of the pretrained checkpoint.
        path: of the pretrained checkpoint.
        trained_by: its recipe, None where nothing says it.
        resume: continue the newest unfinished run of this recipe; there must be one.

    Raises:
        UserError: data, devices or a checkpoint that do not fit the recipe, or a loss that is not finite.
    """
    with together(recipe):
        return _linear(recipe, content, path, trained_by, resume)


def _linear(
    recipe: LinearRecipe, content: dict[str, object], path: Path, trained_by: Recipe | None, resume: bool
) -> Classified:
    devices, world_size = find_devices(recipe)
    data = checked_data(recipe, world_size)
    extractor = load_extractor(content, path, recipe, trained_by)
    images = describe_images(data.train_split, data.val_split)
    folder, checkpoint = folder_and_checkpoint(recipe, images, resume, world_size)
    steps_per_epoch = count_steps(len(data.train_split), recipe.optimizer.batch_size, world_size)
    trainer = build_trainer(recipe, devices, folder, _callbacks(recipe, folder, images), steps_per_epoch)

    seed_everything(recipe.seed)
    model = Classifier(extractor.backbone, recipe, data.num_classes, world_size)
    model.check_layers()
    if not recipe.performance.disable_channel_last:
        model = model.to(memory_format=torch.channels_last)
    _announce(recipe, data, trained_by)
    with running(folder, recipe, devices, trainer.is_global_zero):
        if trainer.is_global_zero:
            data.write_subsets(folder.path)
        fit(trainer, model, data, folder, checkpoint)
        _test(trainer, model, data)
        tally, best = model.tallies[0], model.best
        records = classifier_records(recipe, data, tally, best, extractor.about, trained_by, world_size)
        if trainer.is_global_zero:
            _write(folder, path, recipe, data, model, records)
    return Classified(folder, model, records)


def _test(trainer: pl.Trainer, model: Classifier, data: LabelledData) -> None:
    """On the final weights, whenever the recipe validates during the training."""
    with without_known_warnings():
        trainer.validate(model, datamodule=data, verbose=False)


def checked_data(recipe: LinearRecipe, world_size: int) -> LabelledData:
    """The images of a complete recipe.

    Raises:
        UserError: they do not fit it.
    """
    data = LabelledData(recipe, find_labelled(recipe))
    _check_floor(recipe, world_size)
    count_steps(len(data.train_split), recipe.optimizer.batch_size, world_size)
    _check_test_sets(data, world_size)
    return data


def _check_floor(recipe: LinearRecipe, world_size: int) -> None:
    peak = min(recipe.optimizer.lr) * recipe.optimizer.batch_size * world_size / 256
    if recipe.scheduler.min_lr > peak:
        problem = f"got {recipe.scheduler.min_lr:g}, must be at most the smallest peak rate ({peak:g})"
        raise UserError("scheduler.min_lr", problem, "lower it")


def _check_test_sets(data: LabelledData, world_size: int) -> None:
    for split in (data.val_split, data.tune_split):
        if split is not None and len(split) < world_size:
            raise UserError("devices", f"got {world_size} processes for {len(split)} test images", "use fewer")


def _callbacks(recipe: LinearRecipe, folder: RunFolder, images: Images) -> list[pl.Callback]:
    means = EpochMeans()
    callbacks: list[pl.Callback] = [
        means,
        EpochSeed(recipe.seed),
        LearningRateMonitor(),
        RecipeInCheckpoint(recipe, images),
    ]
    if len(recipe.optimizer.lr) == 1:  # one diverging head of a sweep is no reason to stop
        callbacks.append(NonFiniteLoss())
    if recipe.trainer_arguments.get("enable_progress_bar", True):
        callbacks.append(ProgressBar(means))
    if recipe.data.on_error == "skip":
        callbacks.append(UnreadableImages())
    if recipe.checkpoint.enabled:
        callbacks.append(CheckpointWriter(folder, recipe.checkpoint.frequency, recipe.checkpoint.keep_prev))
    return callbacks


def _announce(recipe: LinearRecipe, data: LabelledData, trained_by: Recipe | None) -> None:
    """What a user might not expect, before it starts."""
    what = "Fine-tuning" if recipe.finetune else f"{len(recipe.optimizer.lr)} linear head(s) on frozen features"
    rank_zero_info(f"{what}: {recipe.data.called}, {len(data.train_split)} training images, seed {recipe.seed}")
    if trained_by is not None and (origin := transferred_from(trained_by.data, recipe.data)):
        rank_zero_info(f"Transfer: the weights were trained on {origin}, not {recipe.data.called}.")
    if trained_by is not None and recipe.pretrain_method not in (None, trained_by.method):
        rank_zero_info(f"pretrain_method {recipe.pretrain_method} is not used: the weights are of {trained_by.method}.")
    if recipe.data.format in ("dali", "tensor"):
        rank_zero_info(f"data.format {recipe.data.format}: a classifier's images are loaded by torchvision.")
    if recipe.data.tune_fraction == 0 and len(recipe.optimizer.lr) > 1:
        rank_zero_info(
            "The best learning rate is chosen on the validation images, which flatters it; data.tune_fraction=0.1 "
            "chooses it on training images that are held out."
        )


# ---------------------------------------------------------------------------------------------- results


def _write(
    folder: RunFolder,
    pretrained: Path,
    recipe: LinearRecipe,
    data: LabelledData,
    model: Classifier,
    records: list[Record],
) -> None:
    """Records, also beside the checkpoint if they can be; then tables and the picture of the confusion matrix."""
    name = f"{short_name(recipe.name or 'linear')}-{recipe_hash(recipe)}"
    write_records(folder.path / "evaluation", name, records)
    place = records_folder(pretrained)
    try:
        write_records(place, name, records)
    except OSError as error:
        warn(f"The records could not be written to {place}, too ({error.strerror or error}).")
    folder.write_metrics()
    confusion = model.tallies[0].confusion[model.best].cpu().numpy()
    write_per_class(folder.path / "per_class.csv", confusion, data.classes)
    write_confusion(folder.path / "confusion.csv", confusion, data.classes)
    if len(model.rates) > 1:
        _write_sweep(folder.path / "sweep.csv", recipe.optimizer.lr, model.tallies)
    _draw(folder)
    folder.finish({record.metric: record.value for record in records})


def _draw(folder: RunFolder) -> None:
    try:
        from solo_bam.train.pictures import draw_classified
    except ImportError:
        rank_zero_info("No picture of the confusion matrix: pip install 'solo-bam[plots]'")
        return
    draw_classified(folder)


def _write_sweep(path: Path, rates: Sequence[float], tallies: Sequence[Tally]) -> None:
    """A row per learning rate (of the recipe, before it is multiplied by batch / 256)."""
    splits = ("val", "tune")[: len(tallies)]
    with path.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["lr", *(f"{split}_{name}" for split in splits for name in ("acc1", "acc5", "loss"))])
        for i, rate in enumerate(rates):
            cells = [(t.accuracies[i], t.top_accuracies[i], t.losses[i]) for t in tallies]
            table.writerow([f"{rate:g}", *(f"{value:.4f}" for triple in cells for value in triple)])


@rank_zero_only
def report_classified(trained: Classified) -> None:
    """Print the accuracies and where the run is, on the first process."""
    model, recipe = trained.model, trained.model.recipe
    if len(model.rates) > 1:
        chosen_on = "tune" if len(model.tallies) > 1 else "val"
        print(f"{'lr':>10} {'accuracy':>9}" + ("  held out" if chosen_on == "tune" else ""))
        for i, rate in enumerate(recipe.optimizer.lr):
            held = f" {model.tallies[1].accuracies[i]:>9.2f}" if chosen_on == "tune" else ""
            mark = "  <- best" if i == model.best else ""
            print(f"{rate:>10g} {model.tallies[0].accuracies[i]:>9.2f}{held}{mark}")
    for record in trained.records:
        interval = "" if record.interval is None else f" ({record.interval[0]:.2f} to {record.interval[1]:.2f})"
        print(f"{record.metric}: {record.value:.4g}{record.unit and ' ' + record.unit}{interval}")
    print(trained.records[0].stated)
    print(f"Run: {trained.folder.path}")
