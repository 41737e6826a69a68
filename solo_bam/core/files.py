"""Files that are there whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"  # what the name of a file that is not whole yet ends with


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place when all went well."""
    part = path.with_name(path.name + PART)
    yield part
    part.replace(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
