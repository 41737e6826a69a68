"""The dotted keys of nested mappings and lists: ``augmentations.0.crop_size``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists with their dotted keys."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if not children:
        yield prefix.rstrip("."), node
        return
    for key, child in children:
        yield from flat(child, f"{prefix}{key}.")
