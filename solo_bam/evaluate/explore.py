"""What a page of features shows: places, neighbours, errors and pictures of some images, before training and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from solo_bam.config.options import evaluation_data, transferred_from
from solo_bam.config.plotting import ExploreOptions
from solo_bam.config.schema import Data
from solo_bam.core import hardware
from solo_bam.core.errors import UserError, printable
from solo_bam.core.files import expanded, writable
from solo_bam.core.neighbors import Neighbours, find_neighbours, in_tiles, predict
from solo_bam.core.progress import Bar
from solo_bam.data import find_source
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import shown_images, told
from solo_bam.data.transforms.augmentations import describe_plain_view
from solo_bam.evaluate.features import Features
from solo_bam.evaluate.offline_knn import bank_in, plain_features
from solo_bam.evaluate.projections import REDUCTIONS
from solo_bam.evaluate.views import choose
from solo_bam.plots.explore import THUMBNAIL, Confusion, Explored, Network, Pair, Places, check_installed, write_page
from solo_bam.runs.checkpoints.find import pictures_folder
from solo_bam.runs.checkpoints.read import Pretrained, load_pretrained
from solo_bam.runs.protocols import KNN
from solo_bam.runs.records import records_folder, wilson_interval

_IMAGES, _NEAREST, _CONFUSIONS, _EXAMPLES, _PAIRS = 2000, 10, 10, 6, 10
_CANDIDATES = 200  # close pairs that are looked at until enough have images of their own
_UMAP_FROM = 16  # images; it looks at 15 neighbours


class _Images(NamedTuple):
    """The images that are measured, and how; ``drawn`` are the positions of those that are shown."""

    split: Split
    bank: Split | None
    name: str
    drawn: np.ndarray
    data: Data
    options: ExploreOptions


def explore(checkpoint: Path, options: ExploreOptions) -> tuple[str, Path]:
    """Write the page: its first sentence, and its file.

    Args:
        checkpoint: a run's folder or a checkpoint.
        options: what to show.

    Raises:
        UserError: no such checkpoint, branch or data, a k above the bank's images, a folder that cannot be written, or
            Bokeh is not installed.
    """
    check_installed()
    device = hardware.find_devices(options.accelerator, 1).accelerator
    trained = load_pretrained(checkpoint, options.branch)
    target, cache = _target(trained, options), records_folder(trained.path)
    images = _images(evaluation_data(trained.recipe, options.data), options)
    writable(cache, "checkpoint", "copy it to a folder that can be written")
    # The seed of a network that solo-learn trained is not known.
    networks = [load_pretrained(checkpoint, "start"), trained] if trained.own_recipe else [trained]
    shown = _shown(networks, [_see(network, images, cache, device) for network in networks], images)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_page(shown, target)
    return shown.answer, target


def _target(trained: Pretrained, options: ExploreOptions) -> Path:
    branch = "" if options.branch == "student" else f"-{options.branch}"
    target = expanded(options.output or pictures_folder(trained.path) / f"explore{branch}.html")
    if target.suffix != ".html":
        raise UserError("output", f"got {options.output}, must end in .html", "correct it")
    writable(target.parent, "output")
    return target


def _images(data: Data, options: ExploreOptions) -> _Images:
    """All validation images where they have labels, so that k-NN counts as usual; else those that are shown alone."""
    source = find_source(data)
    split, name = shown_images(data, source)
    drawn = choose(split.targets, options.num_images or _IMAGES)
    if len(drawn) < 2:
        raise UserError("data", "has a single image, a neighbour is another one", "give more images")
    if source.val is None:
        split, drawn = split.take(drawn), np.arange(len(drawn))
        return _Images(split, None, told(data, split, name, contents=False), drawn, data, options)
    bank = bank_in(source, data)
    if options.k > len(bank):
        raise UserError("k", f"got {options.k}, the bank has {len(bank)} images", "lower it")
    return _Images(split, bank, told(data, split, name), drawn, data, options)


def _see(network: Pretrained, images: _Images, cache: Path, device: str) -> tuple[Features, Tensor | None]:
    """Features of the images, and the classes that k-NN predicts, by the protocol of ``solo-bam knn``."""
    options = images.options
    workers = images.data.num_workers if options.num_workers is None else options.num_workers
    loading = options.batch_size, workers, options.precision
    network.backbone.to(device)
    features = plain_features(cache, "val" if images.bank else "shown", network, images.split, *loading)
    if images.bank is None:
        return features, None
    bank = plain_features(cache, "train", network, images.bank, *loading)
    near = find_neighbours(in_tiles(bank.values), features.values.to(device), options.k)
    return features, predict(near, bank.labels, options.k, options.temperature)


def _shown(networks: Sequence[Pretrained], seen: Sequence[tuple[Features, Tensor | None]], images: _Images) -> Explored:
    labels, predictions = seen[-1][0].labels, [predicted for _, predicted in seen if predicted is not None]
    confusions = confused(labels.numpy(), [one.numpy() for one in predictions], images.drawn) if predictions else []
    # What is confused is shown in addition, or few of its images would be.
    shown = np.unique(np.concatenate([images.drawn, *(one.examples for one in confusions)]).astype(int))
    titles = ["before training", _trained(networks[-1])][-len(networks) :]
    of_shown = [
        Network(
            title,
            dict(_places(features.values[shown], images.options)),
            nearest_others(features.values[shown], _NEAREST),
            None if predicted is None else predicted[shown].numpy(),
        )
        for title, (features, predicted) in zip(titles, seen)
    ]
    thumbnails, place = images.split(_thumbnail), f"{printable(str(images.split.place))}/"
    return Explored(
        title=f"Features of {networks[-1].recipe.method} on {images.name}",
        answer=_answer(titles, labels, predictions, images.options.k),
        pictures=[thumbnails[i][0] for i in Bar(shown.tolist(), desc="thumbnails", unit="images", leave=False)],
        names=[images.split.reader.name(i).removeprefix(place) for i in shown.tolist()],
        labels=labels[shown].numpy(),
        classes=images.split.classes,
        networks=of_shown,
        confusions=[one._replace(examples=np.searchsorted(shown, one.examples).tolist()) for one in confusions],
        alike=_alike(seen[-1][0].values[shown], labels[shown]),
        stated=dict(_stated(networks[-1], images, of_shown, labels[shown])),
    )


def _trained(network: Pretrained) -> str:
    branch = "" if network.branch == "student" else f", {network.branch}"
    return f"after {network.epoch} epoch{'' if network.epoch == 1 else 's'}{branch}"


def _thumbnail(image: Image.Image) -> Image.Image:
    side = min(THUMBNAIL, *image.size)
    return ImageOps.fit(image, (side, side))


def _places(values: Tensor, options: ExploreOptions) -> Iterator[tuple[str, Places]]:
    unit = F.normalize(values, dim=1).numpy()  # as the cosine sees them
    for name in dict.fromkeys(options.reduction):
        if name == "umap" and len(values) < _UMAP_FROM and len(options.reduction) > 1:
            continue
        try:
            yield name, Places(*REDUCTIONS[name](unit))
        except UserError:  # not installed
            if "reduction" in options.model_fields_set:
                raise


def nearest_others(values: Tensor, count: int) -> Neighbours:
    """Of each image, the nearest others by the cosine, nearest first.

    Args:
        values: ``(N, D)`` features, N at least 2.
        count: neighbours, at most.
    """
    near = find_neighbours(in_tiles(values), values, min(len(values), count + 1))
    own = near.positions == torch.arange(len(values))[:, None]
    own[~own.any(1), -1] = True  # so many are exactly alike that the image itself is not among them
    return Neighbours(*(found[~own].view(len(values), -1) for found in near))


def confused(labels: np.ndarray, predictions: Sequence[np.ndarray], preferred: np.ndarray) -> list[Confusion]:
    """The most frequent confusions of the last network, with some images of each.

    Args:
        labels: ``(N,)``.
        predictions: ``(N,)`` of each network; before the last one, that before training.
        preferred: positions of images that make the better examples.
    """
    classes = int(max(labels.max(), *(one.max() for one in predictions))) + 1
    *before, counts = [
        np.bincount(labels * classes + one, minlength=classes**2).reshape(classes, classes) for one in predictions
    ]
    off = counts * (1 - np.eye(classes, dtype=int))
    found = []
    for flat in np.argsort(-off, axis=None, kind="stable")[:_CONFUSIONS].tolist():
        true, taken_for = divmod(flat, classes)
        if off[true, taken_for]:
            members = np.flatnonzero((labels == true) & (predictions[-1] == taken_for))
            examples = members[np.argsort(~np.isin(members, preferred), kind="stable")][:_EXAMPLES].tolist()
            earlier = int(before[0][true, taken_for]) if before else None
            times, of = int(off[true, taken_for]), int(counts[true].sum())
            found.append(Confusion(true, taken_for, times, of, earlier, examples))
    return found


def _alike(values: Tensor, labels: Tensor) -> Mapping[str, list[Pair]]:
    if (labels < 0).all():
        return {"the closest pairs": closest_pairs(values, labels, None)}
    return {
        "of different classes": closest_pairs(values, labels, False),
        "of the same class": closest_pairs(values, labels, True),
    }


def closest_pairs(values: Tensor, labels: Tensor, same: bool | None, count: int = _PAIRS) -> list[Pair]:
    """Pairs of the largest cosine, the closest first; an image is in one pair at most.

    Args:
        values: ``(N, D)`` features.
        labels: ``(N,)``.
        same: of one class, of two, or None: whatever the classes.
        count: pairs, at most.
    """
    unit, positions, found = F.normalize(values, dim=1), torch.arange(len(values)), list[Pair]()
    for rows in torch.split(positions, 1024):
        cosines = unit[rows] @ unit.T
        unwanted = positions <= rows[:, None]  # each pair once
        if same is not None:
            unwanted |= ((labels[rows, None] == labels) != same) | (labels < 0) | (labels[rows, None] < 0)
        best = cosines.masked_fill(unwanted, -torch.inf).flatten().topk(min(_CANDIDATES, cosines.numel()))
        places = zip(best.values.tolist(), best.indices.tolist())
        found += [Pair(int(rows[0]) + at // len(values), at % len(values), x) for x, at in places if x > -2]
    chosen, used = list[Pair](), set[int]()
    for pair in sorted(found, key=lambda one: -one.cosine):
        if len(chosen) < count and not used & {pair.first, pair.second}:
            chosen.append(pair)
            used |= {pair.first, pair.second}
    return chosen


def _answer(titles: Sequence[str], labels: Tensor, predictions: Sequence[Tensor], k: int) -> str:
    if not predictions:
        return "No labelled validation images: k-NN was not measured."
    told = []
    for title, predicted in zip(titles[::-1], predictions[::-1]):
        share = (predicted == labels).double().mean().item()
        low, high = wilson_interval(share, len(labels))
        told.append(f"{100 * share:.2f}\u00a0% ({low:.2f} to {high:.2f}) {title}")
    return f"k-NN accuracy (k = {k}) on {len(labels):,} validation images: {', '.join(told)}."


def _stated(
    trained: Pretrained, images: _Images, networks: Sequence[Network], labels: Tensor
) -> Iterator[tuple[str, str]]:
    """The protocol in words."""
    data, options = images.data, images.options
    extra = len(labels) - len(images.drawn)
    more = f", and {extra} that are examples of confusions" if extra else ""
    yield "Network", f"{trained.recipe.backbone.name}, {trained.recipe.method}, {_trained(trained)}"
    yield "Weights", f"{trained.weights} ({trained.path.name})"
    if origin := transferred_from(trained.recipe.data, data):
        yield "Trained on", f"{origin}: this is transfer"
    yield "Images shown", f"{len(images.drawn):,} of {images.name}, drawn with seed 0{more}"
    yield "View", f"{describe_plain_view(trained.recipe.augmentations[0])}; thumbnails: the centre square"
    if images.bank is not None:
        vote = {"k": options.k, "temperature": options.temperature, "distance": "cosine"}
        bank = KNN.offline(trained.recipe, data, images.bank, **vote).bank
        yield "k-NN", f"k {options.k}, cosine, temperature {options.temperature:g}, on all {len(images.split):,} images"
        yield "Bank of k-NN", f"{bank}; brackets: 95 % interval (Wilson) over the validation images"
        counts = torch.bincount(labels).double()
        chance = 100 * (counts * (counts - 1)).sum().item() / (len(labels) * (len(labels) - 1))
        shares = [100 * (labels[one.near.positions] == labels[:, None]).double().mean().item() for one in networks]
        told = ", ".join(f"{share:.1f} % {one.title}" for share, one in zip(shares, networks))
        yield "Neighbours shown that share the image's class", f"{told}; {chance:.1f} % by chance"
    yield "Neighbours", f"the {_NEAREST} largest cosines among the images shown, in all dimensions of the features"
    yield "Projections", "of features scaled to length 1, each network's own; UMAP: cosine, 15 neighbours, seed 0"
    if options.precision != 32:
        yield (
            "Precision",
            hardware.precision_as_run(options.precision, hardware.find_devices(options.accelerator, 1).accelerator),
        )
