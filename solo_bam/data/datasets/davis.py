"""DAVIS-2017's folder: sequences of JPEG frames, and annotations as PNGs of object numbers with a palette."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.data.datasets.images import open_image, reason

VOID = 255  # in annotations: counted as background, as in the semi-supervised evaluation
_KEY = "data.path"
_REMEDY = "give the folder DAVIS of DAVIS-2017-trainval-480p.zip"


@dataclass(frozen=True)
class Video:
    """A sequence; frames and annotations in order, one each, or the first frame's annotation alone."""

    name: str
    frames: list[Path]
    annotations: list[Path]

    @property
    def scored(self) -> bool:
        """Whether there are annotations to hold masks against."""
        return len(self.annotations) > 1

    def digest(self) -> str:
        """Name and bytes of each of its files in a line."""
        return " ".join(f"{self.name}/{path.name} {path.stat().st_size}" for path in [*self.frames, *self.annotations])


def find_videos(root: Path, split: str = "val") -> list[Video]:
    """The sequences of ``ImageSets/2017/<split>.txt``, in 480p.

    Raises:
        UserError: a missing file or folder, or a sequence whose frames and annotations do not go together.
    """
    root = expanded(root)
    names = root / "ImageSets" / "2017" / f"{split}.txt"
    if not names.is_file():
        raise UserError(_KEY, f"there is no file {names}", _REMEDY)
    videos = [_find_video(root, name) for name in names.read_text(encoding="utf-8").split()]
    if not videos:
        raise UserError(_KEY, f"{names} names no sequence", _REMEDY)
    return videos


def _find_video(root: Path, name: str) -> Video:
    frames = sorted((root / "JPEGImages" / "480p" / name).glob("*.jpg"))
    annotations = sorted((root / "Annotations" / "480p" / name).glob("*.png"))
    annotated, needed = [p.stem for p in annotations], [p.stem for p in frames]
    if len(frames) < 3 or annotated not in (needed, needed[:1]):
        problem = f"sequence {name} has {len(frames)} frames and {len(annotations)} annotations under {root}"
        raise UserError(_KEY, f"{problem}, must be at least 3 and one each, or the first frame's alone", _REMEDY)
    return Video(name, frames, annotations)


def read_frame(path: Path) -> Tensor:
    """``(3, height, width)``, bytes.

    Raises:
        UserError: no image.
    """
    return torch.from_numpy(np.array(_open(path).convert("RGB"))).permute(2, 0, 1)


def read_truths(video: Video) -> NDArray[np.uint8]:
    """Object numbers of the annotated frames, ``(frames, height, width)``; 255 is void.

    Masks of 0 and 255 alone, as in DAVIS-2016, show one object: number 1.

    Raises:
        UserError: no images of numbers or of several sizes, or a first frame without an object.
    """
    labels = [read_labels(path) for path in video.annotations]
    if len({found.shape for found in labels}) > 1:
        raise UserError(_KEY, f"the annotations of {video.name} differ in size", "make them as large as the first")
    truths, values = np.stack(labels), np.unique(labels[0])
    if set(values.tolist()) <= {0, VOID} and VOID in values:
        truths = (truths == VOID).astype(np.uint8)
    if not set(np.unique(truths[0]).tolist()) - {0, VOID}:
        problem = f"{video.annotations[0]} shows no object, its values are {', '.join(map(str, values))}"
        raise UserError(_KEY, problem, "give object numbers from 1 on, or one object as 255")
    return truths


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Object numbers, ``(height, width)``.

    Raises:
        UserError: no image of numbers.
    """
    image = _open(path)
    if image.mode not in ("P", "L"):
        raise UserError(_KEY, f"{path} holds colours ({image.mode}) instead of object numbers", _REMEDY)
    return np.array(image)


def read_palette(path: Path) -> list[int]:
    """An annotation's colours; Pascal VOC's, which are DAVIS's, where it has none."""
    return _open(path).getpalette() or _voc_palette()


def write_labels(path: Path, labels: NDArray[np.uint8], palette: list[int]) -> None:
    """Write object numbers as a PNG with a palette, the form that DAVIS's own evaluation reads."""
    image = Image.fromarray(labels)
    image.putpalette(palette)
    image.save(path)


def _open(path: Path) -> Image.Image:
    try:
        with path.open("rb") as stream:
            image = open_image(stream)
            image.load()
    except Exception as error:  # PIL meets damage with whatever exception comes first
        raise UserError(_KEY, f"{path} cannot be read ({reason(error)})", "replace the file") from None
    return image


def _voc_palette() -> list[int]:
    """A number's bits, three by three, are the high bits of red, green and blue."""
    return [
        sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for number in range(256)
        for channel in range(3)
    ]
