"""HDF5 files in solo-learn's layout: a group per class, in it a byte array per encoded image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from solo_bam.core.errors import UserError, printable
from solo_bam.data.datasets.images import H5Images, Split, first_empty


def h5_split(path: Path, key: str) -> Split:
    """An HDF5 file of groups, one per class, of encoded images; labels in the order of the classes' names."""
    if not path.is_file():
        raise UserError(key, f"there is no file {path}", "give an HDF5 file of class groups of encoded images")
    groups = _h5_groups(path, key)
    classes = sorted(groups)
    if not classes:
        raise UserError(key, f"{path} has no groups", "give an HDF5 file of class groups of encoded images")
    targets = np.repeat(np.arange(len(classes)), [len(groups[name]) for name in classes])
    if (empty := first_empty(targets, classes)) is not None:
        raise UserError(key, f"the group {empty} of {path} holds no image", "remove or fill it")
    keys = [f"{name}/{image}" for name in classes for image in groups[name]]
    return Split(H5Images(path, keys), targets, list(map(printable, classes)), path, key)


def _h5_groups(path: Path, key: str) -> dict[str, list[str]]:
    """Names of the images of each group."""
    try:
        import h5py
    except ImportError:
        raise UserError("data.format", "got 'h5', h5py is not installed", "pip install 'solo-bam[h5]'") from None
    try:
        with h5py.File(path, "r") as file:
            groups = {name: file.get(name) for name in file}  # None where a link leads nowhere
            found = {name: group for name, group in groups.items() if isinstance(group, h5py.Group)}
            for name, group in found.items():
                _check_member(path, name, group, key)
            return {name: sorted(group) for name, group in found.items()}
    except (OSError, RuntimeError) as error:
        problem = f"{path} cannot be opened as HDF5 ({' '.join(str(error).split())})"
        raise UserError(key, problem, "give an HDF5 file, or set data.format") from None


def _check_member(path: Path, name: str, group: Any, key: str) -> None:
    """One image of a class, before anything is written: other layouts can be read as HDF5, too."""
    first = next(iter(group), None)
    member = None if first is None else group.get(first)
    if member is None:
        return
    place = printable(f"{path}:{name}/{first}")
    if not hasattr(member, "dtype"):
        problem = f"{place} is a group, not an encoded image"
        raise UserError(key, problem, "give a file of one split, a group per class")
    if member.ndim > 1 or (member.ndim == 1 and member.dtype.kind == "O"):
        problem = f"{place} is an array of {member.dtype} and shape {member.shape}, not an encoded image"
        raise UserError(key, problem, "store each image's bytes (JPEG, PNG, …) as an array of its own")
