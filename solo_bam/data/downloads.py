"""torchvision's datasets put into a folder: whole or not at all, and quickly refused without a network."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torchvision.datasets.utils import (
    calculate_md5,
    check_integrity,
    download_and_extract_archive,
    extract_archive,
)

from solo_bam.errors import UserError

_SILENCE = 20.0  # seconds without an answer after which a server counts as unreachable


def provide(cls: Any, folder: Path, key: str) -> None:
    """Unpack a dataset's archive into a folder; where the archive is not there, download it first.

    Args:
        cls: one of torchvision's classes with ``url``, ``filename``, ``tgz_md5`` and ``base_folder``.
        folder: gets ``cls.base_folder``.
        key: of the recipe, for messages.

    Raises:
        UserError: there is neither the archive nor a way to download it; the folder is left as it was.
    """
    archive = folder / cls.filename
    try:
        with tempfile.TemporaryDirectory(prefix=".solo-bam-", dir=_existing(folder)) as scratch, _patience(_SILENCE):
            if check_integrity(archive, cls.tgz_md5):
                extract_archive(archive, scratch)
            else:
                download_and_extract_archive(cls.url, scratch, filename=cls.filename, md5=cls.tgz_md5)
            _move(Path(scratch) / cls.base_folder, folder / cls.base_folder)
    except (OSError, RuntimeError, HTTPException) as error:
        raise _missing(cls, folder, key, error) from None


def _existing(folder: Path) -> Path:
    """The folder or the nearest above it that exists: on the same disk, so that moving is renaming."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_dir())


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Sockets opened meanwhile wait no longer than this for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _move(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        file.replace(target / file.name)


def _missing(cls: Any, folder: Path, key: str, error: Exception) -> UserError:
    archive = folder / cls.filename
    cause = error.reason if isinstance(error, URLError) else error
    problem = f"{cls.__name__} is not in {folder} and could not be downloaded ({' '.join(str(cause).split())})"
    if archive.is_file():
        problem += f"; the {cls.filename} there is incomplete or altered (MD5 {calculate_md5(archive)})"
    return UserError(key, problem, f"put {cls.filename} (MD5 {cls.tgz_md5}) from {cls.url} into {folder.resolve()}")
