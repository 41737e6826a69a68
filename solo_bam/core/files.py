"""Files that are there whole or not at all."""

from __future__ import annotations

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
