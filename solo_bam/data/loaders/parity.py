"""Whether another loader's crops are torchvision's: both over the same images, side by side."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from solo_bam.config.schema import Augmentation, RandomResizedCrop, Recipe
from solo_bam.core.hardware import find_devices
from solo_bam.data.datasets.images import ImageFiles, Split, in_rgb
from solo_bam.data.datasets.sources import find_source
from solo_bam.data.loaders.dali import DaliLoader, check_dali, files_of
from solo_bam.data.loaders.tensor import TensorImages, TensorLoader, check_tensor
from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.augmentations import Crops

BATCH = 32
SIGMAS = 4  # standard errors that two loaders of the same law may lie apart
PROBE_SIZE = (256, 192)  # width and height of the image that tells where a crop was taken
LEVEL = 0.02  # about one of 255 grey levels, in normalised units: what decoders and rounding make
OPERATIONS = (
    "affine", "color_jitter", "grayscale", "gaussian_blur", "solarization", "equalization", "horizontal_flip",
)  # fmt: skip

Loader = Callable[[Sequence[Path], Augmentation], Tensor]


@dataclass(frozen=True)
class Row:
    """One figure of both loaders; they may differ by ``tolerance``."""

    name: str
    torchvision: float
    other: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether they agree; a figure that is not a number agrees with nothing."""
        return abs(self.torchvision - self.other) <= self.tolerance


def compare_loaders(recipe: Recipe, images: int | None = None) -> int:
    """Print a table of both loaders' statistics; 0 where all agree, 1 where some differ.

    Args:
        recipe: a checked recipe; with ``data.format: tensor`` that loader is compared, else DALI's.
        images: how many crops each figure is of, at least; by default 256, or 1,024 where crops are not the same ones.

    Raises:
        UserError: the loader's library is missing or cannot do what the recipe asks for.
    """
    pipelines = Crops(recipe.data.dataset, recipe.augmentations).pipelines
    if _is_tensor(recipe):
        check_tensor(pipelines)
    else:
        check_dali(recipe, pipelines)
    images = images or (1024 if _is_tensor(recipe) else 256)
    rows = compare(recipe, images)
    print(format_table(rows, "tensor" if _is_tensor(recipe) else "DALI"))
    differing = sum(not row.ok for row in rows)
    which = f"data.format tensor on {_device(recipe)}" if _is_tensor(recipe) else f"dali.device {recipe.dali.device}"
    print(f"{len(rows)} figures of {_count(images)} crops each, seed {recipe.seed}, {which}: ", end="")
    print(f"{differing} differ" if differing else "all agree")
    return int(differing > 0)


def _is_tensor(recipe: Recipe) -> bool:
    return recipe.data.format == "tensor"


def compare(recipe: Recipe, images: int = 256) -> list[Row]:
    """All figures, pipeline by pipeline."""
    loaders = (_torchvision(recipe), _tensor(recipe) if _is_tensor(recipe) else _dali(recipe))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = _sample(recipe, _count(images), Path(folder))
        for i, a in enumerate(recipe.augmentations):
            figures = [
                *_statistics(loaders, a, paths, same_crops=not _is_tensor(recipe)),
                *(_geometry(loaders, a, Path(folder), len(paths)) if a.rrc.enabled else ()),
                *_operations(loaders, a, Path(folder), len(paths)),
            ]
            rows += [Row(f"augmentations.{i} {r.name}", r.torchvision, r.other, r.tolerance) for r in figures]
    return rows


def format_table(rows: Sequence[Row], other: str) -> str:
    """A row per figure: both values, their difference, what is allowed."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}{'torchvision':>13}{other:>11}{'difference':>12}{'tolerance':>11}"]
    for row in rows:
        difference = row.other - row.torchvision
        verdict = "ok" if row.ok else "differs"
        values = f"{row.torchvision:>13.4f}{row.other:>11.4f}{difference:>12.4f}{row.tolerance:>11.4f}"
        lines.append(f"{row.name:{width}}{values}  {verdict}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------ both loaders


def _torchvision(recipe: Recipe) -> Loader:
    def crops(paths: Sequence[Path], a: Augmentation) -> Tensor:
        transform = Crops(recipe.data.dataset, [a])
        made = []
        for i, path in enumerate(paths):
            image = in_rgb(ImageFiles([str(path)]).open(0))
            with seeded(recipe.seed, 0, i):
                made.append(transform(image)[0])
        return torch.stack(made)

    return crops


def _dali(recipe: Recipe) -> Loader:
    def crops(paths: Sequence[Path], a: Augmentation) -> Tensor:
        loader = DaliLoader(
            ([str(path) for path in paths], [-1] * len(paths)),
            Crops(recipe.data.dataset, [a]).pipelines,
            [(0, i) for i in range(len(paths))],
            seed=recipe.seed,
            batch_size=BATCH,
            workers=0,
            device=recipe.dali.device,
        )
        return torch.cat([crop.cpu() for _, (crop,), _ in loader])

    return crops


def _device(recipe: Recipe) -> str:
    """That would train, where the tensor loader makes its crops."""
    return find_devices(recipe.accelerator, 1).accelerator


def _tensor(recipe: Recipe) -> Loader:
    device = _device(recipe)

    def crops(paths: Sequence[Path], a: Augmentation) -> Tensor:
        split = Split(ImageFiles([str(path) for path in paths]), np.full(len(paths), -1), (), Path(), "data.train_path")
        order = [(0, i) for i in range(len(paths))]
        pipelines = Crops(recipe.data.dataset, [a]).pipelines
        images = TensorImages(split(np.array), accelerator=device)
        images.pixels = images.pixels.to(device)
        loader = TensorLoader(images, pipelines, order, recipe.seed, BATCH)
        return torch.cat([crop.cpu() for _, (crop,), _ in loader])

    return crops


def _count(images: int) -> int:
    """In whole batches."""
    return math.ceil(images / BATCH) * BATCH


def _sample(recipe: Recipe, count: int, folder: Path) -> list[Path]:
    """Training images, evenly spread; a small dataset's more than once. Those that are no files are written to some."""
    images = find_source(recipe.data).train(lambda image: image)
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
    if not _is_tensor(recipe) or hasattr(images, "samples"):
        paths, _ = files_of(images)
        return [Path(paths[i]) for i in chosen]
    for i in chosen:
        images[i][0].save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in chosen]


# ------------------------------------------------------------------------------------------ figures


def _row(name: str, torchvision: Tensor, other: Tensor, rounding: float) -> Row:
    """Means over the crops, allowed to differ by the standard error of the difference and by what rounding makes.

    Crop by crop: where both loaders take the same decisions, hardly anything is allowed; where they take others of
    the same law, as much as chance makes.
    """
    a, b = torchvision.double(), other.double()
    tolerance = SIGMAS * float((a - b).std()) / math.sqrt(len(a)) + rounding
    return Row(name, float(a.mean()), float(b.mean()), tolerance)


def _statistics(
    loaders: tuple[Loader, Loader], a: Augmentation, paths: Sequence[Path], same_crops: bool
) -> Iterator[Row]:
    """Of the recipe's own images and operations, as the network gets them."""
    one = a.model_copy(update={"num_crops": 1})
    x, y = (loader(paths, one) for loader in loaders)
    for c, colour in enumerate(("red", "green", "blue")):
        yield _row(f"mean of {colour}", x[:, c].mean((1, 2)), y[:, c].mean((1, 2)), LEVEL)
        yield _row(f"deviation of {colour}", x[:, c].std((1, 2)), y[:, c].std((1, 2)), LEVEL)
    if same_crops:
        yield Row("distance of the same crops", 0.0, float((x - y).abs().mean()), 2 * LEVEL)


def _plain(a: Augmentation, **kept: object) -> Augmentation:
    """A pipeline that does only what is kept, on bytes as they are."""
    whole = {"rrc": RandomResizedCrop(enabled=False), "mean": [0.0] * 3, "std": [1.0] * 3}
    return Augmentation(crop_size=a.crop_size, num_crops=1).model_copy(update={**whole, **kept})


def _geometry(loaders: tuple[Loader, Loader], a: Augmentation, folder: Path, count: int) -> Iterator[Row]:
    """Area, aspect ratio and place of crops, read off an image whose colours are its coordinates."""
    path = folder / "coordinates.png"
    width, height = PROBE_SIZE
    across, down = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    Image.fromarray((255 * np.stack([across, down, 0 * down], axis=2)).round().astype(np.uint8)).save(path)
    xs, ys = (_boxes(loader([path] * count, _plain(a, rrc=a.rrc))) for loader in loaders)
    for name, x, y in zip(("area", "log aspect ratio", "centre across", "centre down"), xs, ys):
        yield _row(f"crop: {name}, mean", x, y, 0.005)
        yield _row(f"crop: {name}, mean deviation", (x - x.mean()).abs(), (y - y.mean()).abs(), 0.005)


def _boxes(crops: Tensor) -> list[Tensor]:
    """Area (share of the image), log aspect ratio and centre of crops of the image of coordinates."""
    width, height = PROBE_SIZE
    size = crops.shape[-1]
    ramp = torch.arange(size) - (size - 1) / 2
    across, down = crops[:, 0].mean(1), crops[:, 1].mean(2)
    w, h = ((line @ ramp) / (ramp**2).sum() * size for line in (across, down))
    return [w * h, torch.log(w * width / (h * height)), across.mean(1), down.mean(1)]


def _operations(loaders: tuple[Loader, Loader], a: Augmentation, folder: Path, count: int) -> Iterator[Row]:
    """Each operation alone: how often it changes an image, and by how much on average."""
    path = folder / f"noise{a.crop_size}.png"
    noise = np.random.default_rng(0).beta(1, 3, (a.crop_size, a.crop_size, 3))
    Image.fromarray((40 + 200 * noise).astype(np.uint8)).save(path)
    for name in OPERATIONS:
        operation = getattr(a, name)
        if not operation.prob:
            continue
        changes = []
        for loader in loaders:
            untouched = loader([path] * BATCH, _plain(a))[:1]
            changes.append(255 * (loader([path] * count, _plain(a, **{name: operation})) - untouched).abs())
        x, y = changes
        yield _row(f"{name}: probability", _changed(x), _changed(y), 0.01)
        yield _row(f"{name}: mean change, of 255", x.mean((1, 2, 3)), y.mean((1, 2, 3)), 1.0)


def _changed(changes: Tensor) -> Tensor:
    return (changes.amax((1, 2, 3)) > 0.5).float()
