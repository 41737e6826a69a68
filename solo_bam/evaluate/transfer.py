"""What frozen features are good for: many measures from one extraction, of a checkpoint and of where it started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T

from solo_bam.config.options import KNNOptions, TransferOptions, evaluation_data
from solo_bam.config.schema import Data
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, short_name, writable
from solo_bam.core.progress import Bar
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import Source, labelled_source, told
from solo_bam.data.datasets.subsets import balanced
from solo_bam.data.transforms.augmentations import plain_view
from solo_bam.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, Corrupt
from solo_bam.evaluate.cache import cached_features
from solo_bam.evaluate.features import Features
from solo_bam.evaluate.logistic import (
    BINS,
    HELD_OUT,
    MOST,
    STRENGTHS,
    calibration_error,
    few_shot,
    fit,
    scaled,
    searched,
)  # fmt: skip
from solo_bam.evaluate.offline_health import IMAGES, health_records
from solo_bam.evaluate.offline_knn import bank_in, vote
from solo_bam.evaluate.statistics import estimate
from solo_bam.evaluate.views import Sample, choose
from solo_bam.plots.transfer import draw_transfer
from solo_bam.runs.checkpoints.read import Pretrained, load_pretrained
from solo_bam.runs.protocols import KNN, Logistic
from solo_bam.runs.records import Record, accuracies, records_folder, write_records

_SEARCHED = (
    f"one of {STRENGTHS[0]:g} … {STRENGTHS[-1]:g} by {100 * HELD_OUT:g} % of these images ({MOST} at most), held out"
)
_FEW = "1, a class has too few images to hold any out"


@dataclass(frozen=True)
class Transfer:
    """What was measured.

    Attributes:
        records: by data set, then by network.
        networks: their names, the one that was asked for first.
        path: of the records.
    """

    records: Sequence[Record]
    networks: Sequence[str]
    path: Path

    def rows(self) -> dict[str, dict[str, dict[str, Record]]]:
        """Records by data set, by what the measure is called, and by network."""
        found: dict[str, dict[str, dict[str, Record]]] = {}
        for one in self.records:
            found.setdefault(one.data, {}).setdefault(_called(one), {})[str(one.branch)] = one
        return found


def _called(record: Record) -> str:
    if record.metric == "accuracy":
        return record.protocol.title
    return record.metric if record.unit else record.protocol.kind


def transfer(checkpoint: Path, options: TransferOptions) -> Transfer:
    """Measure a checkpoint, and the network that it started from, on one or several data sets.

    Args:
        checkpoint: a run's folder or a checkpoint.
        options: what to measure, and on which data.

    Raises:
        UserError: no such checkpoint, branch or data, or a folder that cannot be written.
    """
    device = hardware.find_devices(options.accelerator, 1).accelerator
    asked = load_pretrained(checkpoint, options.branch)
    networks = [asked]
    if asked.own_recipe and options.untrained:
        before = ["start"] if asked.recipe.backbone.pretrained else []
        networks += [load_pretrained(checkpoint, name) for name in [*before, "untrained"] if name != options.branch]  # type: ignore[arg-type]
    folder = writable(expanded(options.output or records_folder(asked.path)), "output", "set output=FOLDER")
    places = [evaluation_data(asked.recipe, options.data | change) for change in _places(options)]
    sources = [labelled_source(data, "transfer") for data in places]  # told before anything takes time
    records = [
        record
        for data, source in zip(places, sources)
        for network in networks
        for record in _Measured(network, data, source, folder, options, device).records()
    ]
    name = "transfer" if asked.path.stem == "last" else f"transfer-{short_name(asked.path.stem)}"
    return Transfer(records, [network.branch for network in networks], write_records(folder, name, records))


def _places(options: TransferOptions) -> Iterator[dict[str, Any]]:
    """Changes to the recipe's section ``data``."""
    if not options.on:
        yield {}
    for name in options.on:
        folder = expanded(name)
        if not (folder / "train").is_dir():
            if folder.is_dir():
                raise UserError("on", f"{folder} has no folder train", "give one that holds train and val, or test")
            yield {"dataset": name}
            continue
        val = folder / ("val" if (folder / "val").is_dir() else "test")
        yield {"dataset": "custom", "name": folder.name, "train_path": str(folder / "train"), "val_path": str(val)}


@dataclass(frozen=True)
class _Measured:
    """A network on a data set."""

    network: Pretrained
    data: Data
    source: Source
    folder: Path
    options: TransferOptions
    device: str

    def records(self) -> Iterator[Record]:
        self.network.backbone.to(self.device)
        yield from self._knn()
        yield from self._logistic()
        yield from self._few_shot()
        yield from self._health()
        self.network.backbone.cpu()

    @cached_property
    def bank(self) -> Split:
        return bank_in(self.source, self.data)

    @cached_property
    def test(self) -> Split:
        assert self.source.val is not None
        return self.source.val

    @cached_property
    def name(self) -> str:
        return told(self.data, self.test, self.data.val_name)

    @cached_property
    def view(self) -> T.Compose:
        """The plain one."""
        return plain_view(self.network.recipe.data.dataset, self.network.recipe.augmentations[0])

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Of bank and test images."""
        return self._seen("train", self.bank, self.view), self._seen("val", self.test, self.view)

    @cached_property
    def scaled(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The same, of unit length, with their labels."""
        bank, test = self.features
        return scaled(bank), scaled(test)

    @cached_property
    def precision(self) -> str | int:
        """As it runs on this device."""
        return hardware.precision_as_run(self.options.precision, self.device)

    @property
    def _about(self) -> dict[str, Any]:
        return {"data": self.name, **self.network.about}

    def _protocol(self, **how: Any) -> Logistic:
        return Logistic.of(self.network.recipe, self.data, self.bank, precision=self.precision, **how)

    def _knn(self) -> Iterator[Record]:
        k, temperature = min(self.options.k, len(self.bank)), self.options.temperature
        asked = KNNOptions(k=[k], temperature=[temperature], distance=["cosine"])
        (found,) = vote(*self.features, asked, self.device)
        how = {"k": k, "temperature": temperature, "distance": "cosine", "precision": self.precision}
        protocol = KNN.offline(self.network.recipe, self.data, self.bank, **how)
        values = {"accuracy": 100 * found.hits[0] / len(self.test)}
        yield from accuracies(values, len(self.test), protocol=protocol, **self._about)

    def _logistic(self) -> Iterator[Record]:
        (x, y), (images, labels) = self.scaled
        for share in sorted(self.options.labels):
            own = balanced(y, share)
            strength = searched(x[own], y[own])
            model = fit(x[own], y[own], strength or 1.0)
            told_share = "all labels" if share == 1 else f"{100 * share:g} % of the labels"
            how = {"labels": told_share, "C": _FEW if strength is None else _SEARCHED}
            values = {"accuracy": 100 * model.score(images, labels)}
            yield from accuracies(values, len(labels), protocol=self._protocol(**how), **self._about)
            if share == 1:
                error = calibration_error(model.predict_proba(images), labels)
                calibrated = self._protocol(**how, bins=BINS)
                about = {"images": len(labels), **self._about}
                yield Record(metric="calibration error", value=error, protocol=calibrated, **about)
                yield from self._corrupted(model, how)

    def _corrupted(self, model: Any, how: dict[str, Any]) -> Iterator[Record]:
        """Mean accuracies over severities, of each corruption and of all; an image is what their intervals sample."""
        if not self.options.corrupted:
            return
        split = self.test.take(balanced(self.test.targets, min(1.0, self.options.corrupted / len(self.test))))
        right = {}
        for name in Bar(list(CORRUPTIONS), "corruptions"):
            seen = self._seen(short_name(name), split, _Severities(name, self.view), _SideBySide(self.network.backbone))
            side_by_side = seen.values.reshape(len(split), len(SEVERITIES), -1).unbind(1)
            answers = [model.predict(scaled(Features(values, seen.labels))[0]) for values in side_by_side]
            right[name] = 100 * np.mean([each == seen.labels.numpy() for each in answers], axis=0)
        everything = f"{len(CORRUPTIONS)} corruptions"
        for metric, called, values in [
            ("accuracy", everything, np.mean(list(right.values()), axis=0)),
            *((f"accuracy, {name}", name, values) for name, values in right.items()),
        ]:
            mean = estimate(values)
            protocol = self._protocol(**how, corruptions=f"{called}, severity 1 to 5")
            about = {"images": len(split), **self._about}
            yield Record(metric=metric, value=mean.mean, interval=mean.interval, protocol=protocol, **about)

    def _seen(self, name: str, split: Split, view: Any, several: nn.Module | None = None) -> Features:
        network, options = self.network, self.options
        batch = max(1, options.batch_size // (1 if several is None else len(SEVERITIES)))
        return cached_features(
            self.folder / "cache", name, several or network.backbone, network.weights, split, view, batch,
            min(options.num_workers, hardware.cores()), options.precision != 32,
        )  # fmt: skip

    def _few_shot(self) -> Iterator[Record]:
        train, test = self.scaled
        fewest = np.bincount(train[1])[np.unique(train[1])].min()
        for shots in self.options.shots:
            if shots <= fewest:
                mean = few_shot(train, test, shots, self.options.draws)
                protocol = self._protocol(labels=f"{shots} a class", C="1", draws=self.options.draws)
                about = {"images": len(self.test), **self._about}
                yield Record(metric="accuracy", value=mean.mean, interval=mean.interval, protocol=protocol, **about)

    def _health(self) -> Iterator[Record]:
        chosen = choose(self.test.targets, IMAGES)
        if len(chosen) > 1:
            used, options = self.network.recipe.model_copy(update={"data": self.data}), self.options
            sample = Sample(self.test, used, self.name, options.batch_size, options.num_workers)
            clean = self.features[1].values[chosen]
            yield from health_records(sample.take(IMAGES), self.network.backbone, clean, self.network)


class _Severities:
    """All severities of a corruption of an image, one over the other, as a view would show it."""

    def __init__(self, name: str, view: T.Compose):
        *self.geometry, self.to_tensor, self.normalize = view.transforms
        self.corruptions = [Corrupt(name, severity) for severity in SEVERITIES]

    def __call__(self, image: Image.Image) -> Tensor:
        for step in self.geometry:
            image = step(image)
        return torch.stack([self.normalize(self.to_tensor(corrupt(image))) for corrupt in self.corruptions])

    def __repr__(self) -> str:
        return f"{self.geometry} {self.corruptions} {self.normalize}"


class _SideBySide(nn.Module):
    """Features of several views of an image in one row."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images.flatten(0, 1))
        return features.reshape(len(images), -1)


def format_transfer(found: Transfer) -> str:
    """A row per measure, a column per network, with 95 % intervals."""
    lines = []
    for data, measures in found.rows().items():
        images = max(one.images or 0 for own in measures.values() for one in own.values())
        head = "".join(f"{name:>24}" for name in found.networks)
        lines += ["", f"{data}, {images:,} images", f"{'':<42}{head}"]
        for name, own in measures.items():
            cells = [_cell(own[network]) if network in own else "—" for network in found.networks]
            lines.append(f"{name:<42}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join([*lines, ""])


def _cell(record: Record) -> str:
    interval = "" if record.interval is None else " ({:.1f} to {:.1f})".format(*record.interval)
    return f"{record.value:.2f} {record.unit}".rstrip() + interval


def draw_transferred(found: Transfer) -> Path:
    """``transfer.png`` beside the records: the accuracies of all networks."""
    path = found.path.with_suffix(".png")
    panels = {
        data: {
            name: {network: (one.value, one.interval) for network, one in own.items()}
            for name, own in measures.items()
            if next(iter(own.values())).metric == "accuracy"
        }
        for data, measures in found.rows().items()
    }
    draw_transfer(panels, found.networks, path, f"{found.records[0].method}, {found.networks[0]}")
    return path
