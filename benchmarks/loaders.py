"""The loaders of a pretraining: images per second, and where the time of an image goes.

    python -m benchmarks.loaders [--tiny] [--device cpu] [--cifar FOLDER] [--threads 2] [--repeats 5] [--out FILE.json]

Nothing is trained: an epoch's batches are made and dropped. ``FOLDER`` has class folders of 32-pixel images, CIFAR's
for one; without it, and of ImageNet's size, smooth pictures are made. ``--device``: where DALI and the tensor loader
make crops. Stages (on the CPU alone) are CPU time of one process with one thread, for one image with all its crops.
*Decide*: taking the random decisions, which for torchvision is a part of *augment*.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

from benchmarks.timing import machine, markdown, ratio, side_by_side, told, write
from solo_bam.config import Recipe, load_recipe
from solo_bam.data import PretrainData, find_source
from solo_bam.data.loaders.tensor import TensorImages, TensorLoader
from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.batch_draws import draw_batch
from solo_bam.data.transforms.draws import draw_all

_COLOURS = "color_jitter:{prob:0.8,brightness:0.4,contrast:0.4,saturation:0.2,hue:0.1},grayscale:{prob:0.2}"
_MULTI_CROP = (
    f"+augmentations=[{{crop_size:32,num_crops:2,rrc:{{crop_min_scale:0.25}},{_COLOURS},gaussian_blur:{{prob:0.5}},"
    f"solarization:{{prob:0.1}},horizontal_flip:{{prob:0.5}}}},{{crop_size:16,num_crops:4,rrc:{{crop_min_scale:0.05,"
    f"crop_max_scale:0.25}},{_COLOURS},gaussian_blur:{{prob:0.5}},horizontal_flip:{{prob:0.5}}}}]"
)
LOADERS = {  # data.format, processes beside this one
    "torchvision, 0 workers": ("image_folder", 0),
    "torchvision, 2 workers": ("image_folder", 2),
    "DALI, 0 workers": ("dali", 0),
    "DALI, 2 workers": ("dali", 2),
    "tensor": ("tensor", 0),
}
FILE_LOADERS = tuple(name for name, (data_format, _) in LOADERS.items() if data_format != "tensor")


@dataclass(frozen=True)
class Case:
    """A recipe, with what is changed of it, and the width and height of its images (None: the recipe's)."""

    recipe: str
    overrides: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    images: int = 1280
    batch_size: int = 128
    loaders: tuple[str, ...] = (*FILE_LOADERS, "tensor")


_SMALL, _LARGE = (32, 32), (500, 375)
CASES = {
    "digits, 2 x 32": Case("digits/bam"),
    "CIFAR, 2 x 32": Case("cifar/bam", size=_SMALL),
    "CIFAR, 2 x 32 + 4 x 16": Case("cifar/bam", (_MULTI_CROP,), _SMALL),
    "ImageNet, 2 x 224": Case("imagenet-100/bam", (), _LARGE, 256, 64, FILE_LOADERS),
}


def pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A class folder of smooth JPEG pictures."""
    (folder / "pictures").mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / "pictures" / f"{i:05d}.jpg")
    return folder


def data_of(case: Case, loader: str, folder: Path, device: str = "cpu") -> PretrainData:
    """The data of a case; about as many images as it asks for. DALI and the tensor loader use the device."""
    data_format, workers = LOADERS[loader]
    given = [f"data.format={data_format}", f"data.num_workers={workers}", f"optimizer.batch_size={case.batch_size}"]
    given += [*case.overrides, f"dali.device={'gpu' if device == 'cuda' else 'cpu'}", f"accelerator={device}"]
    if case.size:
        given += ["data.dataset=custom", f"data.train_path={folder}", f"data.val_path={folder}"]
    recipe: Recipe = load_recipe(case.recipe, given)
    source = find_source(recipe.data)
    if case.images < len(source.train):
        recipe.data.fraction = case.images / len(source.train)
    data = PretrainData(recipe, source)
    if isinstance(data.train_set, TensorImages):
        data.train_set.pixels = data.train_set.pixels.to(device)
    return data


def epoch_of(data: PretrainData) -> Callable[[], int]:
    """Makes all batches of the next epoch; counts their images."""
    loader: Any = data.train_dataloader()

    def epoch() -> int:
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
        return sum(len(indexes) for indexes, _, _ in loader)

    return epoch


def stages(data: PretrainData, tensor: TensorLoader | None, images: int) -> dict[str, dict[str, float]]:
    """CPU microseconds per image of what torchvision's loader and the tensor's, if there is one, do; one thread."""
    dataset, pipelines = data.plain_images(), data.crops.pipelines
    batch = list(range(min(images, len(dataset))))
    decoded: list[Any] = []
    made: list[Any] = []

    def decide_one_by_one() -> None:
        for i, image in enumerate(decoded):
            with seeded(0, 0, i):
                draw_all(pipelines, image)

    steps: dict[str, dict[str, Callable[[], Any]]] = {
        "torchvision": {
            "decode": lambda: decoded.extend(dataset._next_readable(i)[1] for i in batch),
            "decide": decide_one_by_one,
            "augment": lambda: made.extend((i, data.crops(image), 0) for i, image in enumerate(decoded)),
            "collate": lambda: default_collate(made),
        },
    }
    if tensor:
        height, width = tensor.images.pixels.shape[2:]
        steps["tensor"] = {
            "decode once": lambda: TensorImages(dataset.split.take(np.array(batch))(dataset.transform)),
            "decide": lambda: draw_batch(pipelines, (height, width), 0, 0, batch),
            "augment": lambda: tensor.crops(0, batch),
        }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for loader, its in steps.items():
        found[loader] = {}
        for name, step in its.items():
            start = time.process_time()
            step()
            found[loader][name] = 1e6 * (time.process_time() - start) / len(batch)
    torch.set_num_threads(threads)
    return found


def available(case: Case) -> list[str]:
    """The case's loaders, those with DALI where it is installed."""
    dali = all(importlib.util.find_spec(name) for name in ("nvidia", "nvidia.dali"))
    return [loader for loader in case.loaders if dali or LOADERS[loader][0] != "dali"]


def measure(name: str, case: Case, folder: Path, repeats: int, device: str) -> dict[str, Any]:
    """Seconds of every loader's epochs, their images, and on the CPU the stages."""
    data = {loader: data_of(case, loader, folder, device) for loader in available(case)}
    seconds = side_by_side({loader: epoch_of(one) for loader, one in data.items()}, repeats, device)
    plain: Any = data["torchvision, 0 workers"]
    tensor: Any = data["tensor"].train_dataloader() if "tensor" in data else None
    return {
        "case": name,
        "images": len(plain.train_dataloader()) * case.batch_size,
        "seconds": seconds,
        "device": device,
        "microseconds": stages(plain, tensor, min(case.images, 4 * case.batch_size)) if device == "cpu" else {},
    }


def rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """A line per loader."""
    default = found["seconds"]["torchvision, 2 workers"]
    return [
        {
            "case": found["case"],
            "loader": name,
            "images per second": f"{found['images'] / sorted(times)[len(times) // 2]:,.0f}",
            "torchvision, 2 workers = 1": told(ratio(default, times)),
        }
        for name, times in found["seconds"].items()
    ]


def stage_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """A line per loader; microseconds."""
    names = ("decode", "decode once", "decide", "augment", "collate")
    return [
        {"case": found["case"], "loader": loader} | {name: f"{its[name]:.0f}" if name in its else "" for name in names}
        for loader, its in found["microseconds"].items()
    ]


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a few images, to see that it runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of DALI and the tensor loader")
    parser.add_argument("--cifar", type=Path, metavar="FOLDER", help="class folders of 32-pixel images")
    parser.add_argument("--threads", type=int, default=2, help="of the tensor loader")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = {name: replace(case, images=32, batch_size=16) if options.tiny else case for name, case in CASES.items()}
    with tempfile.TemporaryDirectory() as scratch:
        results = []
        for number, (name, case) in enumerate(cases.items()):
            folder = Path(scratch) / str(number)
            if case.size == _SMALL and options.cifar:
                folder = options.cifar
            elif case.size:
                pictures(folder, case.images, case.size)
            results.append(measure(name, case, folder, options.repeats, options.device))
            gc.collect()  # ends the loader processes
            print(markdown(rows(results[-1])) + "\n", flush=True)
    if options.device == "cpu":
        print("CPU microseconds of an image, one thread:\n")
        print(markdown([row for found in results for row in stage_rows(found)]))
    write(options.out, {"machine": machine(options.device), "results": results})


if __name__ == "__main__":
    main()
