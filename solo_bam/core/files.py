"""Files that are there whole or not at all, their hashes, and places that can be written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from solo_bam.core.errors import UserError

PART = ".part"  # what the name of a file that is not whole yet ends with


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place when all went well and is removed otherwise."""
    part = path.with_name(path.name + PART)
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def is_full(error: BaseException | None) -> bool:
    """Whether the disk, or the user's share of it, had no more room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def expanded(path: Path | str) -> Path:
    """A path with the home folder for ``~``; as it is where there is no such home."""
    return Path(os.path.expanduser(path))


def cache_folder() -> Path:
    """Where solo-bam keeps what it makes: ``$SOLO_BAM_CACHE``, else the user's cache folder."""
    if own := os.environ.get("SOLO_BAM_CACHE"):
        return expanded(own)
    return expanded(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "solo-bam"


def writable(folder: Path, key: str, remedy: str = "give another folder") -> Path:
    """A folder that can be written, or can be made; to be called before anything takes time. Nothing is left there.

    Raises:
        UserError: nothing can be written there, naming ``key``, with the ``remedy``.
    """
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        longest = max(len(os.fsencode(part)) for part in folder.absolute().parts)
        if longest > os.pathconf("/", "PC_NAME_MAX") or "\0" in str(folder):
            raise OSError("the system takes no such name")
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(key, f"{folder} cannot be written ({reason})", remedy) from None
    return folder


def locked(file: IO[str]) -> bool:
    """Lock a file until it is closed; False where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def short_name(text: str) -> str:
    """A text as a part of a file's name, of at most 60 plain letters."""
    return re.sub(r"[^\w.=-]+", "_", text, flags=re.ASCII)[:60].strip("_") or "_"


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
