"""k-NN accuracy of a checkpoint's frozen features: many settings from one extraction and one search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from solo_bam.config.options import KNNOptions, evaluation_data, transferred_from
from solo_bam.config.schema import Data
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, writable
from solo_bam.core.neighbors import count_hits, find_neighbours, in_tiles
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import Source, labelled_source, told
from solo_bam.data.datasets.subsets import balanced
from solo_bam.data.module import fraction
from solo_bam.data.transforms.augmentations import plain_view
from solo_bam.evaluate.cache import cached_features
from solo_bam.evaluate.features import Features
from solo_bam.runs.checkpoints.read import Pretrained, load_pretrained
from solo_bam.runs.protocols import KNN
from solo_bam.runs.records import Record, accuracies, records_folder, wilson_interval, write_records


@dataclass(frozen=True)
class Setting:
    """One way to vote, and what it got right.

    Attributes:
        distance: ``cosine`` or ``euclidean``.
        temperature: of the cosine vote; None for Euclidean distance.
        k: neighbours.
        hits: queries whose class comes first, and among the first five.
    """

    distance: str
    temperature: float | None
    k: int
    hits: tuple[int, int]


@dataclass(frozen=True)
class OfflineKNN:
    """What was measured.

    Attributes:
        pretrained: the weights.
        data: on which they were measured.
        name: of the test images, as the records have it.
        bank: how many images.
        images: how many were classified.
        settings: all of them.
        path: of the records.
    """

    pretrained: Pretrained
    data: Data
    name: str
    bank: int
    images: int
    settings: Sequence[Setting]
    path: Path


def evaluate_knn(checkpoint: Path, options: KNNOptions) -> OfflineKNN:
    """Classify the test images by the training images; records are written, features cached.

    Args:
        checkpoint: a run's folder or a checkpoint.
        options: what to vary, and on which data.

    Raises:
        UserError: no such checkpoint, branch or data, a k above the bank's images, or a folder that cannot be written.
    """
    devices = hardware.find_devices(options.accelerator, 1)
    pretrained = load_pretrained(checkpoint, options.branch)
    data = evaluation_data(pretrained.recipe, options.data)
    bank, queries = _splits(data)
    options = _fitting(options, len(bank))
    folder = writable(expanded(options.output or records_folder(pretrained.path)), "output", "set output=FOLDER")
    pretrained.backbone.to(devices.accelerator)
    train, test = (
        plain_features(folder, name, pretrained, split, options.batch_size, options.num_workers, options.precision)
        for name, split in (("train", bank), ("val", queries))
    )
    settings = list(vote(train, test, options, devices.accelerator))
    name = told(data, queries, data.val_name)
    precision = hardware.precision_as_run(options.precision, devices.accelerator)
    records = [r for s in settings for r in _records(s, pretrained, data, bank, queries, name, precision)]
    path = write_records(folder, pretrained.evaluation_name("knn", name.replace(" val", "")), records)
    return OfflineKNN(pretrained, data, name, len(bank), len(queries), settings, path)


def _fitting(options: KNNOptions, images: int) -> KNNOptions:
    """Of the k that nobody asked for, those that the bank is large enough for."""
    if "k" not in options.model_fields_set:
        return options.model_copy(update={"k": [k for k in options.k if k <= images]})
    if max(options.k) > images:
        raise UserError("k", f"got {max(options.k)}, the bank has {images} images", "lower it")
    return options


def _splits(data: Data) -> tuple[Split, Split]:
    """The labelled training images and the test images."""
    source = labelled_source(data, "k-NN")
    assert source.val is not None
    return bank_in(source, data), source.val


def bank_in(source: Source, data: Data) -> Split:
    """The labelled training images, or the share of them that is asked for."""
    images = fraction(source.train(lambda image: image), data.fraction).split
    return images.take(balanced(images.targets, 1))


def plain_features(
    folder: Path, name: str, pretrained: Pretrained, split: Split, batch_size: int, workers: int, precision: int | str
) -> Features:
    """Of images in the plain view; kept in the folder's ``cache``."""
    # Crop and normalisation are those that the weights know, whatever the data.
    view = plain_view(pretrained.recipe.data.dataset, pretrained.recipe.augmentations[0])
    return cached_features(
        folder / "cache", name, pretrained.backbone, pretrained.weights, split, view,
        batch_size, min(workers, hardware.cores()), bf16=precision != 32,
    )  # fmt: skip


def vote(bank: Features, test: Features, options: KNNOptions, device: str = "cpu") -> Iterator[Setting]:
    """Every setting; the neighbours are searched once per distance, on the device, a tile of the bank at a time."""
    queries = test.values.to(device)
    for distance in dict.fromkeys(options.distance):
        near = find_neighbours(in_tiles(bank.values), queries, max(options.k), distance)
        for temperature in dict.fromkeys(options.temperature) if distance == "cosine" else [None]:
            hits = count_hits(near, bank.labels, test.labels, options.k, temperature or 1.0, distance)
            yield from (Setting(distance, temperature, k, hits[k]) for k in sorted(hits))


def _records(
    setting: Setting, pretrained: Pretrained, data: Data, bank: Split, queries: Split, name: str, precision: str
) -> list[Record]:
    images = len(queries)
    vote = {"k": setting.k, "temperature": setting.temperature, "distance": setting.distance}
    protocol = KNN.offline(pretrained.recipe, data, bank, precision=precision, **vote)
    values = {metric: 100.0 * count / images for metric, count in zip(("accuracy", "accuracy@5"), setting.hits)}
    return accuracies(values, images, data=name, protocol=protocol, **pretrained.about)


def format_table(result: OfflineKNN) -> str:
    """Accuracies as plain text, a row per setting, the best marked."""
    about, best = result.pretrained, max(setting.hits[0] for setting in result.settings)
    origin = transferred_from(about.recipe.data, result.data)
    lines = [
        "",
        f"k-NN accuracy (%) on {result.images} images of {result.name}",
        f"Bank: {result.bank} clean training images",
        f"{about.recipe.method}, {about.branch}, epoch {about.epoch}, weights {about.weights}",
        *([f"The weights were trained on {origin}: this is transfer."] if origin else []),
        "",
        f"  {'distance':<10} {'temperature':>11} {'k':>5} {'@1':>7} {'@5':>7}   95 % interval of @1",
    ]
    for s in result.settings:
        first, five = (100.0 * hits / result.images for hits in s.hits)
        low, high = wilson_interval(s.hits[0] / result.images, result.images)
        temperature = "" if s.temperature is None else f"{s.temperature:g}"
        mark = "*" if s.hits[0] == best and len(result.settings) > 1 else " "
        lines.append(
            f"{mark} {s.distance:<10} {temperature:>11} {s.k:>5} {first:>7.2f} {five:>7.2f}   {low:.2f} to {high:.2f}"
        )
    if len(result.settings) > 1:
        lines += [
            "",
            "* the best; chosen on the test images, it is optimistic: report a setting fixed beforehand.",
        ]
    return "\n".join([*lines, ""])
