"""Images and labels of one split, whatever they are stored in, and what happens to those that cannot be read."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from solo_bam.core.errors import UserError, printable

Transform = Callable[[Image.Image], Any]
_READ = 2**16  # bytes of a file that tell it from another one


class Reader(Protocol):
    """Images by position."""

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """Where a user finds the image."""

    def open(self, position: int) -> Image.Image:
        """The decoded image in its own mode; any exception means that it cannot be read."""

    def stamp(self, position: int) -> str:
        """What changes when the image does."""

    def content(self, position: int) -> bytes:
        """Enough of the stored image to tell it from another one of the same name."""


class ImageFiles:
    """Image files, one image each.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, position: int) -> str:
        """The path, printable whatever bytes it is made of."""
        return printable(self.paths[position])

    def open(self, position: int) -> Image.Image:
        """The decoded image."""
        with open(self.paths[position], "rb") as stream:
            return _decode(stream)

    def stamp(self, position: int) -> str:
        """Path, size and date of the file."""
        return _file_stamp(self.paths[position])

    def content(self, position: int) -> bytes:
        """Length of the file and 64 KiB from its middle; nothing where it cannot be read."""
        try:
            with open(self.paths[position], "rb") as stream:
                length = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, (length - _READ) // 2))
                return b"%d " % length + stream.read(_READ)
        except OSError:
            return b""


class H5Images:
    """Encoded images (JPEG, PNG, …) in an HDF5 file, each a byte array ``class/image``, as in solo-learn.

    Args:
        path: of the file.
        keys: ``class/image`` of each image.
    """

    def __init__(self, path: Path, keys: Sequence[str]):
        self.path, self.keys = path, keys
        self._file: Any = None
        self._process = 0

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, position: int) -> str:
        """``file:class/image``."""
        return printable(f"{self.path}:{self.keys[position]}")

    def open(self, position: int) -> Image.Image:
        """The decoded image."""
        return _decode(io.BytesIO(self.content(position)))

    def stamp(self, position: int) -> str:
        """Path, size and date of the HDF5 file, and the image's name in it."""
        return f"{_file_stamp(str(self.path))} {self.keys[position]}"

    def content(self, position: int) -> bytes:
        """The encoded image."""
        return np.asarray(self._opened()[self.keys[position]][()]).tobytes()

    def _opened(self) -> Any:
        """The file, opened by this process itself: HDF5's handles do not survive a fork."""
        if self._process != os.getpid():
            import h5py

            self._file, self._process = h5py.File(self.path, "r"), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": 0}


class ArrayImages:
    """Images in memory.

    Args:
        pixels: ``(N, height, width, 3)``, uint8.
        origin: where they come from.
    """

    def __init__(self, pixels: np.ndarray, origin: str):
        self.pixels, self.origin = pixels, origin

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, position: int) -> str:
        """Origin and position."""
        return f"{self.origin} {position}"

    def open(self, position: int) -> Image.Image:
        """The image."""
        return Image.fromarray(self.pixels[position])

    def stamp(self, position: int) -> str:
        """A hash of the pixels."""
        return hashlib.sha256(self.pixels[position].tobytes()).hexdigest()

    def content(self, position: int) -> bytes:
        """The pixels."""
        return self.pixels[position].tobytes()


class _Selected:
    """Some of a reader's images."""

    def __init__(self, reader: Reader, positions: np.ndarray):
        self.reader, self.positions = reader, positions

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def paths(self) -> list[str]:
        paths = self.reader.paths  # type: ignore[attr-defined]
        return [paths[position] for position in self.positions]

    def name(self, position: int) -> str:
        return self.reader.name(int(self.positions[position]))

    def open(self, position: int) -> Image.Image:
        return self.reader.open(int(self.positions[position]))

    def stamp(self, position: int) -> str:
        return self.reader.stamp(int(self.positions[position]))

    def content(self, position: int) -> bytes:
        return self.reader.content(int(self.positions[position]))


def _file_stamp(path: str) -> str:
    try:
        state = os.stat(path)
    except OSError:
        return path  # opening it will say what is wrong
    return f"{path} {state.st_size} {state.st_mtime_ns}"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Formats of photographs. PIL reads more; EPS it hands to Ghostscript, which runs the program in the file."""
    Image.init()
    named = ("JPEG", "MPO", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "AVIF")
    return tuple(name for name in named if name in Image.OPEN)


def open_image(stream: BinaryIO) -> Image.Image:
    """The first image of a stream; its header alone is read.

    Raises:
        OSError: no photograph, whatever its name says.
    """
    try:
        return Image.open(stream, formats=_formats())
    except UnidentifiedImageError:
        stream.seek(0, os.SEEK_END)
        raise OSError("its format is not recognised" if stream.tell() else "it is empty") from None


def _decode(stream: BinaryIO) -> Image.Image:
    """The first image of a stream, decoded to its last byte."""
    image = open_image(stream)
    image.load()
    return image


def in_rgb(image: Image.Image) -> Image.Image:
    """An image in 8-bit RGB: colours as they are stored, transparency dropped, 16 bits scaled to 8.

    Raises:
        OSError: 32-bit integers and floating-point numbers, whose black and white nobody knows.
    """
    # PGM, and PNG in older versions of PIL, give 16 bits as I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise OSError("its 32-bit pixels have no known range")
    return image.convert("RGB")


def reason(error: Exception) -> str:
    """Why an image cannot be read, as one line without its path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())


@dataclass(frozen=True)
class Split:
    """Images and labels of the training or the validation set; called with a transform, a dataset.

    Attributes:
        reader: the images.
        targets: ``(N,)`` integers, -1 for images without a label.
        classes: names of the labels.
        place: the folder or file that holds it.
        key: of the recipe, for messages: ``data.train_path`` or ``data.val_path``.
        on_error: ``stop`` at an image that cannot be read, or ``skip`` it.
    """

    reader: Reader
    targets: np.ndarray
    classes: Sequence[str]
    place: Path
    key: str
    on_error: Literal["stop", "skip"] = "stop"

    def __len__(self) -> int:
        return len(self.targets)

    def __call__(self, transform: Transform) -> Images:
        """The images under a transform."""
        return Images(self, transform)

    def digest(self, contents: bool = False) -> str:
        """Eight hexadecimal digits of the images' names below ``place`` and, if asked for, of what they hold."""
        found, place = hashlib.sha256(), printable(str(self.place))
        for i in range(len(self)):
            found.update(f"{self.reader.name(i).removeprefix(place)}\n".encode())
            found.update(self.reader.content(i) if contents else b"")
        return found.hexdigest()[:8]

    def take(self, positions: np.ndarray) -> Split:
        """The images at some positions, ``(M,)`` integers."""
        return replace(self, reader=_Selected(self.reader, positions), targets=self.targets[positions])


class Images(Dataset[tuple[Any, int]]):
    """``(transform(image), label)`` of each image of a split, in RGB.

    With ``on_error: skip``, the place of an image that cannot be read is taken by the next one that can, label
    included: what stands at an index depends on the files alone.

    Args:
        split: the images.
        transform: of a PIL image.

    Attributes:
        unreadable: ``(N,)`` bool, the images that were skipped so far; loader processes share it.
    """

    def __init__(self, split: Split, transform: Transform):
        self.split, self.transform = split, transform
        self.unreadable = torch.zeros(len(split), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def targets(self) -> np.ndarray:
        """Labels, ``(N,)``."""
        return self.split.targets

    @property
    def samples(self) -> list[tuple[str, int]]:
        """Path and label of each image, as torchvision's; where images are not files, there is no such attribute."""
        paths = self.split.reader.paths  # type: ignore[attr-defined]
        return list(zip(paths, self.targets.tolist()))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        position, image = self._next_readable(index)
        return self.transform(image), int(self.targets[position])

    def _next_readable(self, index: int) -> tuple[int, Image.Image]:
        for step in range(len(self)):
            position = (index + step) % len(self)
            try:
                return position, in_rgb(self.split.reader.open(position))
            except MemoryError:
                raise
            except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, …
                if self.split.on_error == "stop":
                    raise self._error(position, error) from None
                self.unreadable[position] = True
        raise UserError(self.split.key, f"none of the {len(self)} images can be read", "give readable images")

    def _error(self, position: int, error: Exception) -> UserError:
        problem = f"{self.split.reader.name(position)} cannot be read ({reason(error)})"
        remedy = "replace it or set data.on_error=skip (solo-bam doctor --data RECIPE lists all such images)"
        return UserError(self.split.key, problem, remedy)

    def unreadable_names(self) -> list[str]:
        """The images that were skipped so far."""
        return [self.split.reader.name(int(i)) for i in self.unreadable.nonzero().flatten()]


def first_empty(targets: np.ndarray, classes: Sequence[str]) -> str | None:
    """The first class, of ``classes``, that no image belongs to; None where each has one."""
    counts = np.bincount(targets, minlength=len(classes))
    return None if counts.all() else classes[int(counts.argmin())]
