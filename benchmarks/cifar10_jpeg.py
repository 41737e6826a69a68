"""CIFAR-10 (JPEG): the images of CIFAR-10 as JPEG files in class folders, as the small-scale study was run on.

    python -m benchmarks.cifar10_jpeg datasets datasets/cifar10-jpeg

Reads torchvision's CIFAR-10 in the first folder (downloaded there if missing), writes ``train`` and ``test`` into the
second: 60,000 files, 57 MB. Pillow's JPEG of default quality, 75, is what the study's files have.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image


def write(images: Iterable[tuple[Image.Image, int]], classes: Sequence[str], folder: Path) -> None:
    """Images as ``folder/<class>/<number>.jpg``, numbered within their class."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    written: Counter[int] = Counter()
    for image, label in images:
        image.save(folder / classes[label] / f"{written[label]:04d}.jpg")
        written[label] += 1


def main() -> None:
    """Write both splits."""
    from torchvision.datasets import CIFAR10
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for split in ("train", "test"):
        images = CIFAR10(options.source, train=split == "train", download=True)
        write(tqdm(images, desc=split, disable=None), images.classes, options.folder / split)


if __name__ == "__main__":
    main()
