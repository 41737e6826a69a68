"""torchvision's datasets put into a folder: whole or not at all, and quickly refused without a network.

torchvision would unpack an archive as it is; here its members are looked at first, and the SHA-256 beside the MD5.
"""

from __future__ import annotations

import socket
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torchvision.datasets import utils
from torchvision.datasets.utils import calculate_md5, check_integrity

from solo_bam.core.errors import UserError
from solo_bam.core.files import sha256
from solo_bam.core.progress import Bar

# Of the archives as their authors publish them; torchvision knows their MD5 sums, which are checked too.
SHA256 = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    "stl10_binary.tar.gz": "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
}
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
            if not check_integrity(archive, cls.tgz_md5):
                with _bar(cls.filename):
                    utils.download_url(cls.url, scratch, cls.filename, cls.tgz_md5)
            whole = archive if check_integrity(archive, cls.tgz_md5) else Path(scratch) / cls.filename
            if cls.filename in SHA256:
                check_sha256(whole, SHA256[cls.filename])
            unpack(whole, Path(scratch))
            _move(Path(scratch) / cls.base_folder, folder / cls.base_folder)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise _missing(cls, folder, key, error) from None


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file with what is known of it.

    Raises:
        ValueError: it is another file.
    """
    found = sha256(path)
    if found != expected:
        raise ValueError(f"{path.name} has the SHA-256 {found}, not {expected}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive of plain files and folders.

    Raises:
        ValueError: it is no such archive, or a member would lie outside the folder or is a link or a device; nothing
            is written then.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _check_members((member.filename, _is_plain(member)) for member in zipped.infolist())
                zipped.extractall(folder)
            return
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            _check_members((member.name, member.isreg() or member.isdir()) for member in members)
            for member in members:
                member.mode = 0o755 if member.isdir() else 0o644
            tar.extractall(folder, members, **_TAR_FILTER)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{archive.name} cannot be unpacked ({error})") from None


# As the standard library does by itself from Python 3.14 on; 3.10.0 to 3.10.11 and 3.11.0 to 3.11.3 do not know it.
_TAR_FILTER: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """No link and no device, as far as a zip says on which system it was made."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    return kind in (0, stat.S_IFREG, stat.S_IFDIR)


def _check_members(members: Iterable[tuple[str, bool]]) -> None:
    for name, plain in members:
        parts = name.replace("\\", "/").split("/")
        if not name or name[0] in "/\\" or ".." in parts or ":" in parts[0]:
            raise ValueError(f"the archive's member {name!r} would lie outside the folder")
        if not plain:
            raise ValueError(f"the archive's member {name!r} is neither a file nor a folder")


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


@contextmanager
def _bar(title: str) -> Iterator[None]:
    """Ours in place of torchvision's, which has no title and draws in pipes and log files too."""
    before: Any = utils.tqdm
    utils.tqdm = partial(Bar, desc=title)
    try:
        yield
    finally:
        utils.tqdm = before


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
