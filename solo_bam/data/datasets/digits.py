"""scikit-learn's handwritten digits as image files: real data that needs no download."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from solo_bam.core.files import cache_folder, writable

VAL_IMAGES = 360
SIZE = 8  # pixels a side


def digits_folder() -> Path:
    """The 1,797 digits as ``{train,val}/<digit>/*.png`` (8 x 8, grey), written on first use.

    1,437 images are for training and 360 for validation, stratified, the same on every machine. The folder
    appears whole or not at all, whatever other processes do.

    Raises:
        UserError: it cannot be written.
    """
    folder = cache_folder() / "digits"
    if not folder.is_dir():
        writable(folder.parent, "SOLO_BAM_CACHE", "set this variable to a folder for solo-bam's own data")
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="digits-", dir=folder.parent))
        try:
            _write(scratch)
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype("uint8")
    train, val = train_test_split(range(len(pixels)), test_size=VAL_IMAGES, random_state=0, stratify=digits.target)
    for split, members in (("train", train), ("val", val)):
        for i in members:
            target = folder / split / str(digits.target[i])
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(target / f"{i:04d}.png")
