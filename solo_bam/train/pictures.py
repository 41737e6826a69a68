"""From runs and checkpoints to pictures: what is drawn of what. Needs matplotlib.

A run's pictures lie in its ``plots/``, but for ``curves.png``, which lies in the run's folder.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from solo_bam import solo_learn
from solo_bam.backbones import cls_attention, heat_map
from solo_bam.config.options import evaluation_data
from solo_bam.config.plotting import PlotOptions
from solo_bam.config.schema import Recipe
from solo_bam.core import hardware
from solo_bam.core.errors import UserError, warn
from solo_bam.core.files import expanded, writable
from solo_bam.data import Source
from solo_bam.data.datasets.images import in_rgb, open_image, reason
from solo_bam.data.datasets.sources import shown_images
from solo_bam.data.transforms.augmentations import plain_view
from solo_bam.evaluate.features import evaluating
from solo_bam.evaluate.projections import REDUCTIONS
from solo_bam.evaluate.views import Sample
from solo_bam.plots.attention import draw_attention
from solo_bam.plots.confusion import draw_confusion
from solo_bam.plots.curves import draw_curves, draw_runs
from solo_bam.plots.entropy import draw_entropy, has_entropy
from solo_bam.plots.scatter import draw_features
from solo_bam.plots.similarity import draw_similarities, similarity_groups
from solo_bam.plots.style import Picture
from solo_bam.runs.checkpoints.find import pictures_folder
from solo_bam.runs.checkpoints.read import load_pretrained, start_backbone
from solo_bam.runs.folder import RunFolder

SIMILARITY_IMAGES, FEATURE_IMAGES, ATTENTION_IMAGES = 256, 1000, 6


class Drawn(NamedTuple):
    """A picture and the file that it was written to."""

    figure: Picture
    path: Path


@dataclass(frozen=True)
class Subject:
    """A trained network and the images that it is shown.

    Attributes:
        backbone: in any mode, on any device.
        sample: the images.
        title: for pictures.
        folder: of its pictures.
    """

    backbone: nn.Module
    sample: Sample
    title: str
    folder: Path

    @classmethod
    def of(cls, checkpoint: Path, options: PlotOptions) -> Subject:
        """A checkpoint's backbone, with the images of its recipe.

        Raises:
            UserError: what it takes is missing.
        """
        trained = load_pretrained(checkpoint, options.branch)
        data = evaluation_data(trained.recipe, options.data)
        sample = Sample.of(trained.recipe, data, options.batch_size, options.num_workers)
        device = hardware.find_devices(options.accelerator, 1).accelerator
        branch = "" if options.branch == "student" else ", teacher"
        title = f"{trained.recipe.method}{branch}, {_epochs(trained.epoch)}"
        folder = pictures_folder(trained.path)
        if options.output is None:  # else it has been checked
            writable(folder, "checkpoint", "set output=FILE")
        return cls(trained.backbone.to(device), sample, title, folder)


def _epochs(count: int) -> str:
    return f"{count} epoch" + ("" if count == 1 else "s")


# ------------------------------------------------------------------------------------- of a run's metrics


def _run(path: Path, key: str) -> RunFolder:
    """The run that a folder, or a checkpoint in it, belongs to.

    Raises:
        UserError: it has no metrics.
    """
    path = expanded(path)
    folder = RunFolder(path if path.is_dir() else path.absolute().parent.parent)
    if not path.exists():
        raise UserError(key, f"there is no folder {path}", "give a run's folder")
    if not folder.metrics():
        raise UserError(key, f"{folder.path} has no metrics (logs/start_*.jsonl)", "give a run's folder")
    return folder


def plot_curves(paths: Sequence[Path], options: PlotOptions) -> Drawn:
    """One run's curves, or loss and k-NN of several."""
    runs = [_run(path, "RUN") for path in paths]
    if len(runs) == 1:
        target = _target(runs[0].path, "curves", options)
        of_method = solo_learn.panels(runs[0].record().get("method", ""))
        figure = draw_curves(runs[0].metrics(), target, runs[0].path.name, of_method)
        if figure is None:
            raise UserError("RUN", f"{runs[0].path} has no loss and no accuracy yet", "let it train longer")
        return Drawn(figure, target)
    target = _target(Path(), "curves", options)
    rows = {name: run.metrics() for name, run in zip(_names(runs), runs)}
    return Drawn(draw_runs(rows, target, title=f"{len(runs)} runs"), target)


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """The folders' names, with as many of their parents' as it takes to tell them apart."""
    paths = [run.path.absolute() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({i + 1})" for i, path in enumerate(paths)]


def plot_entropy(path: Path, options: PlotOptions) -> Drawn:
    """Entropy of a BAM run's attention."""
    run = _run(path, "RUN")
    if not has_entropy(run.metrics()):
        method = run.record().get("method", "its method")
        raise UserError(
            "RUN", f"{run.path} has no attention entropy, {method} has no attention", "give one that logs it"
        )
    target = _target(run.path / "plots", "entropy", options)
    return Drawn(draw_entropy(run.metrics(), target, title=f"Attention entropy of {run.path.name}"), target)


def plot_confusion(path: Path, options: PlotOptions) -> Drawn:
    """A confusion matrix in CSV, or that of a run."""
    path = expanded(path)
    if path.is_dir():
        found = [path / "confusion.csv", *sorted(path.glob("**/confusion.csv"))]
        file = next((file for file in found if file.exists()), path / "confusion.csv")
    else:
        file = path
    matrix, classes = read_confusion(file)
    target = _target(file.parent, file.stem, options)
    return Drawn(
        draw_confusion(matrix, classes, target, title=f"Confusion matrix, {int(matrix.sum()):,} images"), target
    )


def read_confusion(path: Path) -> tuple[np.ndarray, list[str]]:
    """Counts ``(classes, classes)`` and the classes' names of a CSV file whose first row and column name them.

    Raises:
        UserError: no such file, or it holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            head, *rows = list(csv.reader(lines))
        matrix, names = np.array([[float(x) for x in row[1:]] for row in rows]), [row[0] for row in rows]
    except OSError as error:
        raise UserError("FILE", f"{path} cannot be read ({reason(error)})", "give a confusion.csv") from None
    except ValueError:
        matrix, names, head = np.zeros(0), [], []
    if not names or matrix.shape != (len(names), len(names)) or head[1:] != names or (matrix < 0).any():
        problem = f"{path} is no square table of counts with the same names in its first row and column"
        raise UserError("FILE", problem, "give a confusion.csv")
    return matrix, names


# ------------------------------------------------------------------------------------- of a network


def plot_similarity(subject: Subject, options: PlotOptions) -> Drawn:
    """How alike pairs of images are to the network, before its training and after."""
    sample = subject.sample.take(options.num_images or SIMILARITY_IMAGES)
    labels = torch.from_numpy(sample.split.targets)
    device = next(subject.backbone.parameters()).device
    first = "start" if sample.recipe.backbone.pretrained else "untrained"
    networks = {first: start_backbone(sample.recipe).to(device), subject.title: subject.backbone}
    panels = {name: similarity_groups(sample.views(network), labels) for name, network in networks.items()}
    target = _target(subject.folder, "similarity", options)
    title = f"Similarity of features in a batch: {len(labels)} images of {sample.name}, 2 random crops each"
    return Drawn(draw_similarities(panels, target, title), target)


def plot_features(subject: Subject, options: PlotOptions) -> Drawn:
    """The features of some images in the plane."""
    sample = subject.sample.take(options.num_images or FEATURE_IMAGES)
    features = sample.features(subject.backbone)
    places, axes = REDUCTIONS[options.reduction](features.values.numpy())
    target = _target(subject.folder, "features", options)
    title = f"Features of {subject.title}\n{len(places):,} images of {sample.name}"
    return Drawn(draw_features(places, features.labels.numpy(), sample.split.classes, axes, target, title), target)


def plot_attention(subject: Subject, options: PlotOptions) -> Drawn:
    """Where the network looks in the given images, or in some of the data set's."""
    images = _given_images(options.images, subject.sample) if options.images else _own_images(subject.sample, options)
    maps, names, what = _maps(subject.backbone, images)
    target = _target(subject.folder, "attention", options)
    return Drawn(draw_attention(images, maps, names, target, title=f"{subject.title}\n{what}"), target)


def _maps(backbone: nn.Module, images: Tensor) -> tuple[Tensor, list[str], str]:
    images = images.to(next(backbone.parameters()).device)
    with evaluating(backbone):
        try:
            maps = cls_attention(backbone, images)
        except ValueError:  # no [CLS] token
            return _heat(backbone, images), ["heat map"], "no [CLS] attention: last feature map, summed over channels"
    names = [f"head {i + 1}" for i in range(maps.shape[1])]
    return torch.cat([maps, maps.mean(1, keepdim=True)], 1), [*names, "mean"], "[CLS] attention of the last block"


def _heat(backbone: nn.Module, images: Tensor) -> Tensor:
    try:
        heat = heat_map(backbone, images)[:, None]
    except ValueError as error:
        raise UserError("backbone.name", f"{type(backbone).__name__} {error}", "use another network") from None
    if heat.shape[-2:] == (1, 1):
        problem = f"the network's heat map of an image of {images.shape[-1]} px is a single point"
        raise UserError("attention", problem, "use a network with larger feature maps, or a ViT")
    low = heat.amin((2, 3), keepdim=True)
    return heat - low.clamp(max=0)


def _given_images(paths: Sequence[Path], sample: Sample) -> Tensor:
    """``(N, 3, side, side)``.

    Raises:
        UserError: one that cannot be read.
    """
    view = plain_view(sample.recipe.data.dataset, sample.recipe.augmentations[0])
    seen = []
    for path in paths:
        try:
            with expanded(path).open("rb") as stream:
                seen.append(view(in_rgb(open_image(stream))))
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, …
            raise UserError("images", f"{path} cannot be read ({reason(error)})", "give image files") from None
    return torch.stack(seen)


def _own_images(sample: Sample, options: PlotOptions) -> Tensor:
    """As many classes as possible, one image each."""
    view = plain_view(sample.recipe.data.dataset, sample.recipe.augmentations[0])
    count = options.num_images or ATTENTION_IMAGES
    _, first = np.unique(sample.split.targets, return_index=True)
    rest = np.setdiff1d(np.arange(len(sample.split)), first)
    images = sample.split.take(np.concatenate([first, rest])[:count])(view)
    return torch.stack([images[i][0] for i in range(len(images))])


def _target(folder: Path, name: str, options: PlotOptions) -> Path:
    target = expanded(options.output or folder / f"{name}.{options.format}")
    writable(target.parent, "output")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


# ------------------------------------------------------------------------------------- at a run's end


def draw_finished(folder: RunFolder, recipe: Recipe, backbone: nn.Module, source: Source) -> None:
    """The pictures of a finished run: curves, similarity, features, a ViT's attention and BAM's entropy.

    None of them can lose the run.
    """
    options = PlotOptions()
    split, shown = shown_images(recipe.data, source)
    sample = Sample(split, recipe, shown, workers=recipe.data.num_workers)
    title = f"{recipe.method}, {_epochs(recipe.max_epochs)}"
    subject = Subject(backbone, sample, title, folder.path / "plots")
    pictures: dict[str, Callable[[], Any]] = {
        "curves": lambda: plot_curves([folder.path], options),
        "similarity": lambda: plot_similarity(subject, options),
        "features": lambda: plot_features(subject, options),
    }
    if isinstance(backbone, VisionTransformer):
        pictures["attention"] = lambda: plot_attention(subject, options)
    if has_entropy(folder.metrics()):
        pictures["entropy"] = lambda: plot_entropy(folder.path, options)
    _draw_safely(pictures)


def draw_classified(folder: RunFolder) -> None:
    """The picture of a finished classifier, its confusion matrix; it cannot lose the run."""
    _draw_safely({"confusion": lambda: plot_confusion(folder.path, PlotOptions())})


def _draw_safely(pictures: Mapping[str, Callable[[], Any]]) -> None:
    for name, draw in pictures.items():
        try:
            draw()
        except Exception as error:
            warn(f"The picture {name} could not be drawn ({type(error).__name__}: {error})")
